"""Reads the metadata of an ONNX file without reading its graph, and without the onnx package.

The served Python models compare it with their own export's id, and may need nothing but NumPy. An ONNX file is one
protobuf message, whose top-level fields say how long they are: the graph, which is nearly all of the file, is stepped
over (https://protobuf.dev/programming-guides/encoding; field numbers from onnx.proto).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_METADATA_PROPS = 14
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_MAX_ENTRY_BYTES = 1 << 20
_MAX_VARINT_BYTES = 10


def read_metadata(path: Path) -> dict[str, str]:
    """The ``metadata_props`` of a model.

    Args:
        path: An ``.onnx`` file.

    Raises:
        ValueError: The file is cut short, or no ONNX file.
    """
    found: dict[str, str] = {}
    with path.open("rb") as file:
        end = path.stat().st_size
        try:
            for number, length in _fields(file, end):
                start = file.tell()
                if number == _METADATA_PROPS:
                    if length > _MAX_ENTRY_BYTES:
                        raise ValueError
                    entry = {inner: file.read(size) for inner, size in _fields(file, start + length)}
                    found[entry[_KEY].decode()] = entry.get(_VALUE, b"").decode()
                file.seek(start + length)
        except (ValueError, KeyError):
            raise ValueError(f"{path}: got a file that is cut short or damaged; expected an ONNX model") from None
    return found


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """The number and the bytes of each length-delimited field up to ``end``, with the file at its first byte.

    Raises:
        ValueError: A field reaches past the end, or is none.
    """
    while (index := file.tell()) < end:
        tag = _varint(file)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            _varint(file)
        elif wire_type in (_FIXED64, _FIXED32):
            file.seek(8 if wire_type == _FIXED64 else 4, 1)
        elif wire_type == _LENGTH_DELIMITED:
            length = _varint(file)
            start = file.tell()
            if start + length > end:
                raise ValueError(index)
            yield number, length
            file.seek(start + length)
        else:
            raise ValueError(index)
    if file.tell() != end:
        raise ValueError(end)


def _varint(file: BinaryIO) -> int:
    value = 0
    for position in range(_MAX_VARINT_BYTES):
        byte = file.read(1)
        if not byte:
            raise ValueError("cut short")
        value |= (byte[0] & 0x7F) << (7 * position)
        if byte[0] < 0x80:
            return value
    raise ValueError("no varint")
