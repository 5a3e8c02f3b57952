"""Gives Triton paths that it can take: its Python backend splits paths at spaces and reads them as ASCII.

A path with other characters is served through a symbolic link with a plain name.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from ebbtide.serve.errors import EmbeddedServerError

_PLAIN = re.compile(r"[A-Za-z0-9/._+=@%~^-]*")
_EMBEDDED = "embedded:"
_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - only where the system's own folder has no plain path


def is_plain(path: Path) -> bool:
    """Whether Triton and its Python backend can take a path as it is."""
    return _PLAIN.fullmatch(str(path)) is not None


def plain_scratch(prefix: str) -> Path:
    """A new folder for temporary files, whose path is plain.

    Raises:
        EmbeddedServerError: No folder with a plain path can be written to.
    """
    own = tempfile.gettempdir()
    for folder in (own, *_FOLDERS):
        if is_plain(Path(folder)):
            try:
                return Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
            except OSError:
                continue
    raise EmbeddedServerError(
        f"the folder for temporary files is {own}, and {', '.join(_FOLDERS)} cannot be written to: set TMPDIR to a "
        "folder whose path has only ASCII letters, digits and . _ - /"
    )


def has_plain_state(address: str) -> bool:
    """Whether the stub's Python, which reads its environment as ASCII, finds the store of an address."""
    return address.isascii() or not address.startswith(_EMBEDDED)


def plain_state(address: str, scratch: Path) -> str:
    """The address of a store itself, or of a link to its folder, which is made if it does not exist.

    Args:
        address: As `ebbtide.store.open_store` takes it.
        scratch: Folder for the link, from `plain_scratch`.

    Raises:
        EmbeddedServerError: The folder or the link cannot be made.
    """
    if has_plain_state(address):
        return address
    folder = Path(address.removeprefix(_EMBEDDED)).absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedServerError(f"state: {folder} cannot be made ({error}): name another folder") from error
    return f"{_EMBEDDED}{plain_path(folder, scratch, 'state')}"


def plain_path(path: Path, scratch: Path, name: str) -> Path:
    """The path itself if it is plain; otherwise a link to it.

    Args:
        path: An absolute path of a folder.
        scratch: Folder for the link, from `plain_scratch`.
        name: The link's name.

    Raises:
        EmbeddedServerError: The link cannot be made.
    """
    if is_plain(path):
        return path
    link = scratch / name
    try:
        link.symlink_to(path, target_is_directory=True)
    except OSError as error:
        raise EmbeddedServerError(
            f"{path}: Triton's Python backend cannot take this path, and no link to it could be made in {scratch} "
            f"({error}): use a path with only ASCII letters, digits and . _ - /"
        ) from error
    return link
