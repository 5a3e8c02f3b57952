"""Text on its way between Triton's BYTES elements and onnxruntime's strings."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_LENGTH = struct.Struct("<I")


class BadInputError(ValueError):
    """A request whose content can't be given to the graph."""


def to_text(name: str, array: Array) -> Array:
    """Triton's BYTES elements as the text that onnxruntime takes."""
    flat: list[str] = []
    for index, element in enumerate(array.ravel()):
        try:
            flat.append(element.decode() if isinstance(element, bytes) else str(element))
        except UnicodeDecodeError as error:
            raise BadInputError(f"input '{name}', element {index} is {element!r}, expected UTF-8") from error
    text = np.empty(array.size, dtype=np.object_)
    text[:] = flat
    return text.reshape(array.shape)


def byte_elements(array: Array) -> bytes | tuple[()]:
    """The text of an output as Triton lays it out: each element's UTF-8 behind its length, four bytes little-endian."""
    if not array.size:
        # The stub makes an array of it, and one of empty bytes would still have an element.
        return ()
    encoded = [text.encode() for text in array.ravel().tolist()]
    parts = [b""] * (2 * len(encoded))
    parts[::2] = [_LENGTH.pack(len(element)) for element in encoded]
    parts[1::2] = encoded
    return b"".join(parts)
