"""The scoring head as it is served: item factors in three precisions, and their check against torch."""
