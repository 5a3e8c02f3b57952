"""A folder of Parquet files that a run writes part by part, and that the same run goes on with when it was ended.

Each part gets its name in one step, so a file that is there is whole. A manifest says what the parts are made from: a
run of anything else is refused, so that parts of two runs never mix.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import polars as pl

from ebbtide.batch.errors import BatchError

MANIFEST_FILE = "_manifest.json"
"""What reads folders of Parquet files (Spark, Arrow, DuckDB) leaves out names that begin with ``_``."""
_PARTIAL = ".partial"
_EXPECTED = (
    "expected a new folder, or one of a run with the same input and options: choose another folder, or remove this one"
)

Inputs = Mapping[str, Any]
"""What the parts are made from: names as users know them, and values that JSON can hold."""


def part_path(folder: Path, number: int) -> Path:
    """Where a part goes."""
    return folder / f"part-{number:05d}.parquet"


def write_part(folder: Path, number: int, frame: pl.DataFrame) -> None:
    """Writes a part; it gets its name when all of it is on the disk.

    Several processes, also of several machines, may write the same part: the last one stays, whole.
    """
    path = part_path(folder, number)
    partial = path.with_name(f"{path.stem}-{os.uname().nodename}-{os.getpid()}{_PARTIAL}")
    try:
        with partial.open("wb") as file:
            frame.write_parquet(file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def require_same_run(folder: Path, made_by: str, known: Inputs) -> None:
    """Refuses a folder of another run, as far as is known before the input is read; changes nothing.

    Args:
        folder: Of the parts; may be missing.
        made_by: The command.
        known: Some of the inputs.

    Raises:
        BatchError: It has other files, or parts that are made from other inputs.
    """
    manifest = _manifest(folder)
    if manifest is not None:
        _require_equal(folder, made_by, known, manifest)
        return
    if folder.is_dir():
        strange = sorted(path.name for path in folder.iterdir() if path.suffix != _PARTIAL)
        if strange:
            raise BatchError(f"{folder}: got a folder with other files, such as {strange[0]}; {_EXPECTED}")


@contextmanager
def run_of_parts(folder: Path, made_by: str, inputs: Inputs, parts: int) -> Iterator[list[int]]:
    """The numbers of the parts that are still to be written; the block writes them, with `write_part`.

    Args:
        folder: Made unless it is there.
        made_by: The command.
        inputs: What the parts are made from.
        parts: How many there are.

    Raises:
        BatchError: The folder is of another run, another process writes to it, or a part is missing in the end.
    """
    require_same_run(folder, made_by, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {"made_by": made_by, "inputs": dict(inputs), "parts": parts}
    if _manifest(folder) is None:
        _write(folder, {**wanted, "complete": False}, os.link)
    with _locked(folder):
        # Another process may have been first.
        require_same_run(folder, made_by, inputs)
        names = {part_path(folder, number).name for number in range(parts)}
        strange = sorted(path.name for path in folder.glob("*.parquet") if path.name not in names)
        if strange:
            raise BatchError(f"{folder}: got {strange[0]}, which is no part of the run; {_EXPECTED}")
        for partial in folder.glob(f"*{_PARTIAL}"):
            partial.unlink(missing_ok=True)
        yield _missing(folder, parts)
        if missing := _missing(folder, parts):
            raise BatchError(
                f"{folder}: got {parts - len(missing):,} of {parts:,} parts, and the other ones were written too; "
                "expected a folder that all machines share, so that this one sees what they write"
            )
        _write(folder, {**wanted, "complete": True}, os.replace)


def _missing(folder: Path, parts: int) -> list[int]:
    return [number for number in range(parts) if not part_path(folder, number).is_file()]


def _manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        inputs, made_by = dict(content["inputs"]), str(content["made_by"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise BatchError(f"{path}: got a damaged file ({error}); {_EXPECTED}") from error
    return {"inputs": inputs, "made_by": made_by}


def _write(folder: Path, content: Mapping[str, Any], name: Callable[[Path, Path], None]) -> None:
    """Writes the manifest; ``os.link`` leaves one that is there as it is, ``os.replace`` does not."""
    partial = folder / f"{MANIFEST_FILE}-{os.uname().nodename}-{os.getpid()}{_PARTIAL}"
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    with suppress(FileExistsError):
        name(partial, folder / MANIFEST_FILE)
    partial.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other runs out of the folder; a process that is killed lets them in.

    Raises:
        BatchError: Another one is there.
    """
    with (folder / MANIFEST_FILE).open("r+b") as manifest:
        try:
            fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BatchError(
                f"{folder}: got a folder that another process is writing to; expected to be alone: wait for its end"
            ) from None
        except OSError as error:
            # Some file systems of clusters have no locks.
            if error.errno not in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
                raise
        yield


def _require_equal(folder: Path, made_by: str, known: Inputs, manifest: Mapping[str, Any]) -> None:
    if manifest["made_by"] != made_by:
        raise BatchError(f"{folder}: got a folder that {manifest['made_by']} has written; {_EXPECTED}")
    differing = [
        f"{name} {_shown(manifest['inputs'].get(name))} there and {_shown(value)} now"
        for name, value in known.items()
        if manifest["inputs"].get(name) != value
    ]
    if differing:
        raise BatchError(f"{folder}: got a folder of another run: {', '.join(differing)}; {_EXPECTED}")


def _shown(value: object) -> str:
    return "default" if value is None else str(value)
