"""Options for how the scoring head finds the best items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ebbtide.export.choices import RetrievalMethod
from ebbtide.export.errors import LimitError


@dataclass(frozen=True)
class RetrievalOptions:
    """Exact scoring of the whole catalog, or of the candidates of an approximate index; see docs/head.md."""

    method: RetrievalMethod = "exact"
    """``exact``: the whole catalog. ``ivf``: lists of similar items, some of which are read."""
    least_recall: float = 0.98
    """Smallest share of the true best 100 items that an index must find; below it, the export fails."""

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            LimitError: An option is invalid; the message names it.
        """
        if self.method not in get_args(RetrievalMethod):
            raise LimitError(f"retrieval: got {self.method!r}; expected one of {get_args(RetrievalMethod)}")
        if not 0 < self.least_recall <= 1:
            raise LimitError(f"least_recall: got {self.least_recall}; expected above 0 and at most 1")

    @property
    def is_exact(self) -> bool:
        """Whether the head scores the whole catalog, without an index."""
        return self.method == "exact"
