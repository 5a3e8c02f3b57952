"""Checks the paths that a command will write to, before any work is done."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ebbtide.cli.errors import CommandError
from ebbtide.interest.contract import MANIFEST_FILE

_WHOLE = {"bundle.json": "bundle", MANIFEST_FILE: "model repository"}
"""Files that mark a folder which is replaced as a whole, with all that lies in it."""


def require_file(option: str, path: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Accepts a path that a file can be written to, and makes its folder.

    Args:
        option: The option's name, for the message.
        path: The file; None for an option that was not given.
        suffixes: What the file's name may end in, where the name chooses the format.

    Raises:
        CommandError: The path is a folder, lies in a bundle or a model repository, cannot be written to, or ends in
            another suffix.
    """
    if path is None:
        return
    try:
        _require_outside_of_artifacts(option, path)
        if path.is_dir():
            raise CommandError(f"{option}: {path}: got a folder; expected a file name")
        if suffixes and path.suffix.lower() not in suffixes:
            raise CommandError(
                f"{option}: {path}: got a file of type {path.suffix or '(no suffix)'}; expected a name that ends in "
                f"{' or '.join(suffixes)}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with path.open("ab"):
                return
        _write_something(path.parent)
    except OSError as error:
        raise _refusal(option, path, error) from error


def require_folder(option: str, path: Path | None) -> None:
    """Accepts a path that is a folder which can be written to, or that can become one; makes its parents only.

    Raises:
        CommandError: The path or one of its parents is a file, or it cannot be written to; it is the current folder, as
            an empty text is; it lies in a bundle or a model repository; or it is a link that leads nowhere, which no
            folder can replace.
    """
    if path is None:
        return
    if path == Path():
        raise CommandError(f"{option}: got the current folder; expected the path of another folder")
    try:
        _require_outside_of_artifacts(option, path)
        if path.exists() and not path.is_dir():
            raise CommandError(f"{option}: {path}: got a file; expected a folder or a new path")
        if path.is_symlink() and not path.exists():
            raise CommandError(f"{option}: {path}: got a link that leads nowhere; expected a folder or a new path")
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder is replaced in one step by one that is written beside it.
        _write_something(path.absolute().parent)
        if path.is_dir():
            _write_something(path)
    except OSError as error:
        raise _refusal(option, path, error) from error


def require_replaced_folder(option: str, path: Path | None) -> None:
    """Accepts a folder as `require_folder` does that the command replaces as a whole, by a new one beside it.

    Raises:
        CommandError: The path is the current folder or one above it, or `require_folder` refuses it.
    """
    if path is None:
        return
    require_folder(option, path)
    if path.name in ("", ".."):
        raise CommandError(
            f"{option}: {path}: got a folder without a name, and it is replaced as a whole; expected a name at the end"
        )


def require_bundle_folder(option: str, path: Path | None) -> None:
    """Accepts a folder that a bundle can be written to: a new one, an empty one, or an earlier bundle.

    Raises:
        CommandError: The folder has other files, or cannot be written to.
    """
    if path is None:
        return
    require_replaced_folder(option, path)
    if path.is_dir() and not (path / "bundle.json").is_file():
        names = sorted(entry.name for entry in path.iterdir())
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise CommandError(
                f"{option}: {path}: got a folder with other files ({shown}); expected a new or empty folder or an "
                "earlier bundle: choose another"
            )


def require_different(given: dict[str, Path | None]) -> None:
    """Refuses two outputs with one path, of which the second would replace the first.

    Raises:
        CommandError: Two options name the same path.
    """
    options: dict[str, str] = {}
    for option, path in given.items():
        if path is not None:
            real = os.path.realpath(path)
            if real in options:
                raise CommandError(f"{option}: got {path}, as for {options[real]}; expected a path of its own")
            options[real] = option


def require_outside(option: str, path: Path | None, other: str, folder: Path | str | None) -> None:
    """Refuses an output in a folder that is read or replaced: it would be read with the rest, or be lost.

    Args:
        option: The output's option.
        path: The output.
        other: The option of the folder.
        folder: What was given for it; a path of a file, and a URL, hold no outputs.

    Raises:
        CommandError: The output lies in the folder.
    """
    if path is not None and folder is not None and Path(os.path.realpath(folder)) in _real_parents(path):
        raise CommandError(f"{option}: {path}: got a path inside {folder}, the folder of {other}; expected one outside")


def _require_outside_of_artifacts(option: str, path: Path) -> None:
    for parent in _real_parents(path):
        for name, kind in _WHOLE.items():
            if (parent / name).is_file():
                raise CommandError(
                    f"{option}: {path}: got a path inside the {kind} {parent}, which is replaced as a whole; expected "
                    "one outside"
                )


def _real_parents(path: Path) -> Sequence[Path]:
    return Path(os.path.realpath(path)).parents


def _write_something(folder: Path) -> None:
    """Writes a byte into a folder: permission bits say nothing about a full or read-only disk, nor to root."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0")
        file.flush()


def _refusal(option: str, path: Path, error: OSError) -> CommandError:
    where = f" ({error.filename})" if isinstance(error.filename, str) and Path(error.filename) != path else ""
    if isinstance(error, NotADirectoryError | FileExistsError):
        where = next((f" ({parent} is a file)" for parent in path.absolute().parents if parent.is_file()), where)
    return CommandError(
        f"{option}: {path}: cannot be written: {error.strerror or error}{where}; expected a path in a folder that "
        "you can write to"
    )
