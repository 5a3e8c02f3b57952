"""Converts text between Triton's BYTES elements and onnxruntime's strings."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_LENGTH = struct.Struct("<I")


class BadInputError(ValueError):
    """A request whose content the graph cannot take."""


def to_text(name: str, array: Array) -> Array:
    """Decodes Triton's BYTES elements to the strings that onnxruntime takes.

    Raises:
        BadInputError: An element is not UTF-8.
    """
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
    """Encodes the strings of an output for Triton: each element's length (4 bytes, little-endian), then its UTF-8."""
    if not array.size:
        # The stub makes an array of the result, and an array of empty bytes would have one element.
        return ()
    encoded = [text.encode() for text in array.ravel().tolist()]
    parts = [b""] * (2 * len(encoded))
    parts[::2] = [_LENGTH.pack(len(element)) for element in encoded]
    parts[1::2] = encoded
    return b"".join(parts)
