"""How well held-out events are ranked: the split, the lists, their metrics, and the report.

What training needs stands here and asks for nothing more; `evaluate` and `report` ask for the ``[evaluate]`` extra.
"""

from ebbtide.train.evaluation.ranks import Metrics, metrics_of, target_ranks
from ebbtide.train.evaluation.split import after_time, has_past, held_out, instant_heads, leave_last_out

__all__ = [
    "Metrics",
    "after_time",
    "has_past",
    "held_out",
    "instant_heads",
    "leave_last_out",
    "metrics_of",
    "target_ranks",
]
