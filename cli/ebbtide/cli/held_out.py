"""What the commands that rank held-out events check: the holdout, the popularity prior, and files of lists."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ebbtide.train.bundle import InterestBundle
    from ebbtide.train.evaluation.testset import TestSet

_TEXT_FILES = {".csv", ".tsv", ".jsonl", ".ndjson"}


class Popularity(str, Enum):
    """Which popularity prior a prediction sees."""

    updated = "updated"
    frozen = "frozen"


def require_holdout(folder: Path) -> None:
    """Refuses a bundle without holdout before torch is loaded; what is no bundle is left to the loading.

    Raises:
        DataError: Training used every event.
    """
    from ebbtide.data.dataset import DataReference
    from ebbtide.data.errors import DataError

    try:
        holdout = DataReference.of_bundle(folder).holdout
    except DataError:
        return
    if holdout == "none":
        raise DataError(
            f"{folder}: holdout: got 'none', so training used every event; train again with --holdout time:0.2 (the "
            "last fifth of the log) or --holdout leave-last-out"
        )


def require_as_trained(bundle: InterestBundle, test: TestSet) -> None:
    """Refuses a prior that was refreshed after training: it has counted the test events.

    Raises:
        DataError: With both times.
    """
    from ebbtide.data.errors import DataError

    counted_at, trained_at = bundle.config.prior_counted_at_ms, int(test.log.time_ms[~test.is_test].max()) + 1
    if counted_at > trained_at:
        raise DataError(
            f"{bundle.folder}: popularity: got 'frozen' for a prior that `ebbtide refresh` counted past the "
            f"training period "
            f"(up to {counted_at} ms, not {trained_at} ms); expected the bundle before the refresh, or "
            f"--popularity updated"
        )


def flaw_of_lists(path: Path) -> str | None:
    """Why a path cannot be a file of lists; None if it can, as far as its beginning tells."""
    if path.is_dir():
        return "got a folder"
    if not path.is_file():
        return "no such file or folder"
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PAR1" or (start and path.suffix.lower() in _TEXT_FILES):
        return None
    return "got an empty file" if not start else "got a file that is neither Parquet nor CSV"
