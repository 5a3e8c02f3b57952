"""Results for users to read: one HTML file with plots, and Markdown; both from the JSON document alone."""

from ebbtide.loadtest.report.html import html_report
from ebbtide.loadtest.report.markdown import markdown_report

__all__ = ["html_report", "markdown_report"]
