"""Settings of a state store, and how the environment gives them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar, get_args

from ebbtide.store.errors import StoreConfigError

T = TypeVar("T")

ADDRESS_VARIABLE = "EBBTIDE_STATE"
"""The store's address; the other variables are this name and a suffix."""

Durability: TypeAlias = Literal["power-loss", "crash"]
"""What a finished write survives, in the embedded store.

- ``power-loss``: a power loss, a crash of the operating system, the end of any process. Each batch waits for the disk.
- ``crash``: the end of any process, kill -9 included. After a power loss or a crash of the operating system the files
  may be damaged, and the records must be made again.
"""


@dataclass(frozen=True)
class StoreConfig:
    """How to use a state store."""

    timeout_ms: float = 100
    """Longest time of one call, reconnecting and retries included."""
    ttl_days: float | None = None
    """Records of a user go away after this time without a write; None keeps them."""
    durability: Durability = "power-loss"
    """What a finished write to the embedded store survives. Redis has its own settings for this (``appendfsync``)."""
    max_gib: float = 64
    """Largest size of the embedded store, in GiB; its file takes only the space that it needs."""
    username: str | None = None
    """User name for Redis."""
    password: str | None = field(default=None, repr=False)
    """Password for Redis."""
    ca_file: Path | None = None
    """Certificates (PEM) of the authorities that may sign the server's certificate; None: those of the system."""
    certificate_file: Path | None = None
    """Certificate (PEM) that this client shows, for a server that asks for one."""
    key_file: Path | None = None
    """Private key (PEM) of `certificate_file`."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            StoreConfigError: A setting is not valid.
        """
        if not (math.isfinite(self.timeout_ms) and self.timeout_ms > 0):
            raise StoreConfigError(f"timeout_ms: got {self.timeout_ms}, expected a positive number")
        if self.ttl_days is not None and not (math.isfinite(self.ttl_days) and self.ttl_days > 0):
            raise StoreConfigError(f"ttl_days: got {self.ttl_days}, expected a positive number, or None")
        if not (math.isfinite(self.max_gib) and self.max_gib > 0):
            raise StoreConfigError(f"max_gib: got {self.max_gib}, expected a positive number")
        if self.durability not in get_args(Durability):
            raise StoreConfigError(
                f"durability: got {self.durability!r}, expected one of {', '.join(get_args(Durability))}"
            )
        if (self.certificate_file is None) != (self.key_file is None):
            raise StoreConfigError("certificate_file and key_file: got one of them, expected both or none")
        for name in ("ca_file", "certificate_file", "key_file"):
            path: Path | None = getattr(self, name)
            if path is not None and not os.access(path, os.R_OK):
                raise StoreConfigError(f"{name}: {path} does not exist or cannot be read")


def config_from_environment(environ: Mapping[str, str]) -> StoreConfig:
    """Reads the settings from variables named ``EBBTIDE_STATE_...``.

    ``TIMEOUT_MS``, ``TTL_DAYS``, ``DURABILITY``, ``MAX_GIB``, ``USERNAME``, ``PASSWORD`` or ``PASSWORD_FILE`` (its
    first line), ``CA_FILE``, ``CERTIFICATE_FILE``, ``KEY_FILE``. Empty variables count as absent.

    Raises:
        StoreConfigError: A variable is not valid, or the password's file cannot be read.
    """
    given = {
        name.removeprefix(f"{ADDRESS_VARIABLE}_"): value
        for name, value in environ.items()
        if name.startswith(f"{ADDRESS_VARIABLE}_") and value
    }
    default = StoreConfig()
    files = {name: Path(given[name]) if name in given else None for name in ("CA_FILE", "CERTIFICATE_FILE", "KEY_FILE")}
    return StoreConfig(
        timeout_ms=_number(given, "TIMEOUT_MS", default.timeout_ms),
        ttl_days=_number(given, "TTL_DAYS", None),
        durability=given.get("DURABILITY", default.durability),  # type: ignore[arg-type]  # checked by the class
        max_gib=_number(given, "MAX_GIB", default.max_gib),
        username=given.get("USERNAME"),
        password=_password(given),
        ca_file=files["CA_FILE"],
        certificate_file=files["CERTIFICATE_FILE"],
        key_file=files["KEY_FILE"],
    )


def _number(given: Mapping[str, str], name: str, default: T) -> float | T:
    if name not in given:
        return default
    try:
        return float(given[name])
    except ValueError:
        raise StoreConfigError(f"{ADDRESS_VARIABLE}_{name}: got {given[name]!r}, expected a number") from None


def _password(given: Mapping[str, str]) -> str | None:
    if "PASSWORD" in given and "PASSWORD_FILE" in given:
        raise StoreConfigError(
            f"{ADDRESS_VARIABLE}_PASSWORD and {ADDRESS_VARIABLE}_PASSWORD_FILE: got both, expected one of them"
        )
    if "PASSWORD_FILE" not in given:
        return given.get("PASSWORD")
    path = Path(given["PASSWORD_FILE"])
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        # The error of a decoding shows the bytes; its kind is enough.
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise StoreConfigError(f"{ADDRESS_VARIABLE}_PASSWORD_FILE: cannot read {path}: {reason}") from None
    if not lines or not lines[0]:
        raise StoreConfigError(f"{ADDRESS_VARIABLE}_PASSWORD_FILE: {path} has no first line with a password")
    return lines[0]
