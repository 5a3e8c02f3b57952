"""Reads safetensors files as memory maps, so that the instances of a served model share one copy of their tables.

The library's NumPy reader copies every tensor into the process, and the served Python models may need nothing but
NumPy; the format is a length, a JSON header and raw little-endian bytes (https://github.com/huggingface/safetensors#format).
Files are written with the library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_DTYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "u1", "BOOL": "?"}
_MAX_HEADER_BYTES = 100_000_000


def read_tensors(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """The tensors of a file, mapped read-only, and its metadata.

    Args:
        path: A ``.safetensors`` file.

    Returns:
        Arrays by name, and the header's ``__metadata__`` (empty where there is none).

    Raises:
        ValueError: The file is cut short, or its header is not what the format prescribes.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > min(_MAX_HEADER_BYTES, file_bytes - 8):
            raise ValueError(f"{path}: header of {header_bytes} bytes; expected a safetensors file")
        header = json.loads(file.read(header_bytes))
    metadata = header.pop("__metadata__", {})
    data_start = 8 + header_bytes
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        shape = tuple(entry["shape"])
        if end - begin != dtype.itemsize * int(np.prod(shape, dtype=np.int64)) or data_start + end > file_bytes:
            raise ValueError(f"{path}: tensor {name!r} does not fit the file; it is cut short or damaged")
        if end == begin:
            tensors[name] = np.empty(shape, dtype)
        else:
            tensors[name] = np.memmap(path, dtype, mode="r", offset=data_start + begin, shape=shape)
    return tensors, metadata
