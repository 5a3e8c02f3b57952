"""The settings of a run of the serving benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Settings that every part gets."""

    bundle: Path
    """A trained interest bundle."""
    work: Path
    """An empty folder for exports, indexes and the servers' files."""
    quick: bool
    """Whether to measure fewer sizes in shorter turns, which takes minutes."""

    @property
    def repeats(self) -> int:
        """Number of alternating repeats; their median is reported."""
        return 3 if self.quick else 5
