"""What every part of the serving benchmark is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    bundle: Path
    """A trained interest bundle."""
    work: Path
    """An empty folder for exports, indexes and servers' files."""
    quick: bool
    """Fewer sizes and shorter turns: minutes, for a first look."""

    @property
    def repeats(self) -> int:
        """Alternating repeats whose median is reported."""
        return 3 if self.quick else 5
