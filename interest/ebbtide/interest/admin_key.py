"""The key to a server's administration: model control, shared memory, tracing and logging.

`ebbtide serve` has Triton refuse these calls without the key, and `ebbtide deploy` sends it.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "EBBTIDE_ADMIN_KEY"
"""Environment variable with the key."""
HEADER = "ebbtide-admin-key"
"""HTTP header with the key."""
GRPC_HEADER = f"triton-grpc-protocol-{HEADER}"
"""gRPC metadata with the key."""
PROTOCOLS = ("model-repository", "shared-memory", "trace", "logging")
"""What needs the key, by Triton's names: all that changes a server, and none of what asks it."""

_KEY = re.compile(r"[A-Za-z0-9_-]{16,128}")
_OTHERS = 0o077
"""Permissions of everybody but the owner."""


class AdminKeyError(ValueError):
    """A key cannot be read, made or used; the message does not show it."""


def key_file(repository: Path) -> Path:
    """Where the key of a repository's servers lies if nobody gives one: beside the folder, as the users' states do."""
    return Path(f"{repository.absolute()}.admin-key")


def checked(key: str, where: str) -> str:
    """A key that Triton and gRPC can take.

    Args:
        key: The key.
        where: What gave it, for the error.

    Raises:
        AdminKeyError: It has other characters, or too few or many.
    """
    if not _KEY.fullmatch(key):
        raise AdminKeyError(
            f"{where}: got {len(key)} characters, or others than expected; expected 16 to 128 letters, digits, - and _"
        )
    return key


def given(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The key of a file, or else of the environment; None for neither.

    Raises:
        AdminKeyError: The file cannot be read, or holds no key.
    """
    if file is not None:
        return _read(file)
    value = environment.get(VARIABLE)
    return checked(value, VARIABLE) if value else None


def kept(file: Path) -> str | None:
    """The key that `made` has left in a file; None for no file.

    Raises:
        AdminKeyError: The file cannot be read or holds no key, or others than its owner can read it.
    """
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(file, error) from error
    if mode & _OTHERS:
        raise AdminKeyError(
            f"{file}: got a key that others than its owner may read (mode {mode & 0o777:o}); expected mode 600: delete "
            "the file, and `ebbtide serve` makes another key at its next start"
        )
    return _read(file)


def made(file: Path) -> str:
    """The key in a file that only its owner may read; a new one if there is none.

    Raises:
        AdminKeyError: See `kept`.
        OSError: The file cannot be written.
    """
    if (key := kept(file)) is not None:
        return key
    partial = file.with_name(f".{file.name}.{secrets.token_hex(8)}.partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as text:
            text.write(secrets.token_urlsafe(32) + "\n")
        # Of two servers that start at the same time, both take the key of the first.
        os.link(partial, file)
    except FileExistsError:
        pass
    finally:
        partial.unlink(missing_ok=True)
    return _read(file)


def _read(file: Path) -> str:
    try:
        return checked(file.read_text(encoding="utf-8").strip(), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> AdminKeyError:
    return AdminKeyError(f"{file}: got {error}; expected a readable file with the key of the server's administration")
