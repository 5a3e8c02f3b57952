"""Builds the states of all users from an event log: streamed from the files, parallel over processes, resumable.

::

    from ebbtide.backfill import LogFiles, backfill

    summary = backfill(Path("repository"), LogFiles(["log.parquet"], EventColumns()), "embedded:states")
"""

from ebbtide.backfill.backfill import Progress, Summary, backfill
from ebbtide.backfill.errors import BackfillError
from ebbtide.backfill.reading import LogFiles

__all__ = ["BackfillError", "LogFiles", "Progress", "Summary", "backfill"]
