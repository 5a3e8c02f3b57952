"""Files as the operating system's settings want them."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HERE = -100
"""AT_FDCWD: paths are relative to the working directory."""
_EXCHANGE = 2
"""RENAME_EXCHANGE of Linux."""
_NUMBER = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust, such as safetensors and tokenizers, tell the number of an error of the system."""


def put_in_place(written: Path, folder: Path) -> None:
    """Gives a written folder the name of another, if there is one, which gets the first one's name.

    On Linux this is one step, so that a kill at any time leaves one of the two under the name. File systems that cannot
    exchange names rename twice.
    """
    if not folder.exists():
        written.rename(folder)
        return
    if sys.platform == "linux":
        renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
        paths = os.fsencode(written), os.fsencode(folder)
        if renameat2 is not None and renameat2(_HERE, paths[0], _HERE, paths[1], _EXCHANGE) == 0:
            return
    earlier = written.with_suffix(".earlier")
    folder.rename(earlier)
    try:
        written.rename(folder)
    except OSError:
        earlier.rename(folder)
        raise
    earlier.rename(written)


@contextmanager
def default_mode(path: Path) -> Iterator[None]:
    """Gives a file that is written inside the mode of any new file, as the process's umask says.

    safetensors makes files that only their owner can read, whatever the umask; servers run as another user.
    """
    path.unlink(missing_ok=True)
    path.touch()
    mode = path.stat().st_mode & 0o777
    yield
    path.chmod(mode)


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside another, to fill and then to `put_in_place`; in the end what has its name is removed.

    Raises:
        OSError: As `writing` has it.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        with writing(folder):
            partial.mkdir(parents=True)
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Names the folder where an error of the system names no file, such as that of a full disk.

    Raises:
        OSError: Of the system, also where a library wraps it into an exception of its own.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(folder)
        raise
    except Exception as error:
        told = _NUMBER.search(str(error))
        if told is None:
            raise
        number = int(told[1])
        raise OSError(number, os.strerror(number), str(folder)) from error
