"""How the scoring head finds the best items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ebbtide.export.errors import LimitError

RetrievalMethod = Literal["exact", "ivf"]


@dataclass(frozen=True)
class RetrievalOptions:
    """Exact scoring of the whole catalog, or of what an approximate index names; see docs/head.md."""

    method: RetrievalMethod = "exact"
    """``ivf``: lists of nearby items, of which some are read."""
    least_recall: float = 0.98
    """Share of the true best 100 that an index must name; the export is refused below it."""

    def __post_init__(self) -> None:
        """Refuses what cannot be built.

        Raises:
            LimitError: Naming the choice.
        """
        if self.method not in get_args(RetrievalMethod):
            raise LimitError(f"retrieval: got {self.method!r}; expected one of {get_args(RetrievalMethod)}")
        if not 0 < self.least_recall <= 1:
            raise LimitError(f"least_recall: got {self.least_recall}; expected above 0 and at most 1")

    @property
    def is_exact(self) -> bool:
        """Whether no index is needed."""
        return self.method == "exact"
