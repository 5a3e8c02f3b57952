"""Lists for all users of an event log at one time, computed from an exported repository without a server.

::

    from ebbtide.backfill import LogFiles
    from ebbtide.batch import batch_recommend

    summary = batch_recommend(Path("repository"), LogFiles(["log.parquet"]), Path("lists"))
"""

from ebbtide.batch.batch import Progress, Summary, batch_recommend
from ebbtide.batch.errors import BatchError

__all__ = ["BatchError", "Progress", "Summary", "batch_recommend"]
