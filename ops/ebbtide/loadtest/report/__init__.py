"""Results for people to read: one HTML file with charts, and Markdown; both from the JSON document alone."""
