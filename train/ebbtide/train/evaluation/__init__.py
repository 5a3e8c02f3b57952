"""How well held-out events are ranked: the lists, their metrics, and the report.

`ranks`, which training watches, needs the ``[train]`` extra; `evaluate` and `report` need ``[evaluate]``.
"""
