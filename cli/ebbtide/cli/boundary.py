"""Turns what a command raises into one line and an exit status; only a defect of Ebbtide keeps its traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from ebbtide.cli.console import errors, escape

FAILED, INTERRUPTED = 1, 130
"""Exit statuses; 2 is wrong usage, which the parser reports itself."""
_BROKEN_PIPE = 141
_EXTRAS = {
    "prepare": "train",
    "embed-catalog": "export",
    "train": "train",
    "inspect": "train",
    "evaluate": "evaluate",
    "export": "export",
    "refresh": "train",
    "backfill": "backfill",
    "ingest": "cli",
    "states": "state",
    "retire": "state",
    "deploy": "export",
    "verify": "export",
    "check": "cli",
    "serve": "serve",
    "gateway": "gateway",
    "studio": "studio",
    "recommend": "train",
    "batch-recommend": "export",
    "observe": "cli",
    "interest": "train",
    "forget": "cli",
    "items": "train",
    "loadtest": "load",
    "tune": "export,load,serve",
    "capacity": "cli",
}
"""What to install for each command."""
_WITH_A_LOG = ("train", "backfill", "batch-recommend", "loadtest", "tune")
COLUMN_OPTIONS = {
    **dict.fromkeys(_WITH_A_LOG, ("--user-col", "--item-col", "--time-col")),
    **dict.fromkeys(("embed-catalog", "items"), ("--item-col",)),
}
"""Options of commands that name a column which has a default."""
_DEFAULT_COLUMNS = {"user": "--user-col", "item": "--item-col", "item_id": "--item-col", "time": "--time-col"}
_ROOTS = (
    ("ebbtide.cli.errors", "CommandError"),
    ("ebbtide.store.errors", "StoreError"),
    ("ebbtide.data.errors", "DataError"),
    ("ebbtide.train.errors", "TrainError"),
    ("ebbtide.export.errors", "ExportError"),
    ("ebbtide.backfill.errors", "BackfillError"),
    ("ebbtide.batch.errors", "BatchError"),
    ("ebbtide.ingest.errors", "IngestError"),
    ("ebbtide.deploy.errors", "DeployError"),
    ("ebbtide.verify.errors", "VerifyError"),
    ("ebbtide.check", "CheckError"),
    ("ebbtide.serve", "ServeError"),
    ("ebbtide.client.errors", "EbbtideError"),
    ("ebbtide.loadtest.errors", "LoadTestError"),
    ("ebbtide.tune.errors", "TuneError"),
    ("ebbtide.capacity", "CapacityError"),
)
"""Root of the errors of each stage."""


def run_guarded(command: Callable[[], object], *, verbose: Callable[[], bool] = lambda: False) -> None:
    """Runs the command line.

    Args:
        command: Parses the arguments and runs a command.
        verbose: Whether to show the traceback of every error.
    """
    try:
        command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe has ended, as `head` does. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_BROKEN_PIPE)
    except Exception as error:
        line = line_of(error)
        if line is None or verbose():
            raise
        errors.print(f"[red]error:[/red] {escape(line)}", soft_wrap=True)
        sys.exit(FAILED)


def line_of(error: Exception) -> str | None:
    """The line for the user; None for a defect.

    No stage is imported for this: a stage that raised is already loaded.
    """
    known = (getattr(sys.modules[module], name) for module, name in _ROOTS if module in sys.modules)
    # The loop of training raises FloatingPointError when it diverges.
    if isinstance(error, (*known, FloatingPointError)):
        return f"{error}{_column_hint(error)}"
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get(next((word for word in sys.argv[1:] if word in _EXTRAS), ""))
        if extra is None or str(error.name).startswith("ebbtide"):
            return None
        return f'{error.name} is not installed: pip install "ebbtide[{extra}]"'
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return f"out of memory: {_first_line(error)}; use smaller batches, fewer events or a larger machine"
    # An error of the system has a number. Others, such as UnsupportedOperation, are defects.
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error)
    return None


def _column_hint(error: Exception) -> str:
    """The option for a column whose default name a file does not have; nothing if the name was given."""
    option = _DEFAULT_COLUMNS.get(getattr(error, "column", ""))
    words = [word.partition("=")[0] for word in sys.argv[1:]]
    if option in words or not any(option in COLUMN_OPTIONS.get(word, ()) for word in words):
        return ""
    return f": name it with {option}"


def _is_out_of_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]


def _of_system(error: OSError) -> str:
    what = error.strerror or str(error)
    # Of a copy the second name is that of the file that was to be written.
    where = error.filename2 or error.filename
    where = f"{where}: " if where else ""
    hint = {
        errno.ENOSPC: "; free space on this disk, or choose another folder",
        errno.EDQUOT: "; free space on this disk, or choose another folder",
        errno.EMFILE: "; raise the limit of open files: ulimit -n 65536",
        errno.EROFS: "; choose a folder that can be written to",
        errno.EACCES: "; expected a path that you may read or write",
    }.get(error.errno or 0, "")
    return f"{where}{what[:1].lower()}{what[1:]}{hint}"
