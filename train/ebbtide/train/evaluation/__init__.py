"""How well held-out events are ranked: the split, the lists, their metrics, and the report.

The split stands here and needs no torch. `ranks`, which training watches, needs the ``[train]`` extra; `evaluate` and
`report` need ``[evaluate]``.
"""

from ebbtide.train.evaluation.split import after_time, has_past, held_out, instant_heads, leave_last_out

__all__ = ["after_time", "has_past", "held_out", "instant_heads", "leave_last_out"]
