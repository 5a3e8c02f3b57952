"""Binary form of all records of one user, as the embedded store keeps them (before encryption).

The user's key (16 bytes), the time of the last write (8 bytes, milliseconds since 1970), and for each record the length
of its fingerprint (1 byte), the fingerprint, the length of the record (4 bytes) and the record. Little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from ebbtide.store.interface import USER_BYTES, Records

_HEAD = struct.Struct(f"<{USER_BYTES}sQ")
_LENGTH = struct.Struct("<I")


def pack(user: bytes, written_ms: int, records: Mapping[bytes, bytes]) -> bytes:
    """The records of a user, and when they were written, as bytes."""
    parts = [_HEAD.pack(user, written_ms)]
    for fingerprint, record in records.items():
        parts += [bytes([len(fingerprint)]), fingerprint, _LENGTH.pack(len(record)), record]
    return b"".join(parts)


def user_of(packed: bytes) -> bytes:
    """The key of the user."""
    return packed[:USER_BYTES]


def written_ms_of(packed: bytes) -> int:
    """When the records were written, in milliseconds since 1970."""
    written_ms: int = _HEAD.unpack_from(packed)[1]
    return written_ms


def records_of(packed: bytes) -> Records:
    """All records, by fingerprint."""
    return {fingerprint: packed[start:end] for fingerprint, start, end in _spans(packed)}


def record_of(packed: bytes, fingerprint: bytes) -> bytes | None:
    """The record of one fingerprint, or None."""
    return next((packed[start:end] for found, start, end in _spans(packed) if found == fingerprint), None)


def _spans(packed: bytes) -> Iterator[tuple[bytes, int, int]]:
    position = _HEAD.size
    while position < len(packed):
        after = position + 1 + packed[position]
        start = after + _LENGTH.size
        end = start + _LENGTH.unpack_from(packed, after)[0]
        yield packed[position + 1 : after], start, end
        position = end
