"""The item ids of a catalog as bytes, so that millions of them take no Python list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

_START, _BYTES = "id_start", "id_bytes"


@dataclass(frozen=True)
class ItemIds:
    """The ids of a catalog."""

    start: npt.NDArray[np.int64]
    """``[items + 1]``: the offset of each item's id in `content`; the last entry is the length of `content`."""
    content: npt.NDArray[np.uint8]
    """``[bytes]``: the UTF-8 ids, concatenated in catalog order."""

    @classmethod
    def of(cls, item_id: Sequence[str]) -> ItemIds:
        """Packs ids that are in catalog order."""
        texts = [item.encode() for item in item_id]
        start = np.zeros(len(texts) + 1, dtype=np.int64)
        np.cumsum([len(text) for text in texts], out=start[1:])
        return cls(start, np.frombuffer(b"".join(texts), dtype=np.uint8))

    def all(self) -> list[str]:
        """All ids, in catalog order."""
        content = self.content.tobytes()
        return [content[begin:end].decode() for begin, end in pairwise(self.start.tolist())]

    def take(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
        """The UTF-8 ids (bytes) of items, in the same shape as their catalog indices."""
        flat, content = index.ravel(), self.content.data
        borders = zip(self.start[flat].tolist(), self.start[flat + 1].tolist(), strict=True)
        ids = np.empty(flat.size, dtype=np.object_)
        ids[:] = [content[begin:end].tobytes() for begin, end in borders]
        return ids.reshape(index.shape)

    def to_tensors(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name, as a safetensors file has them."""
        return {_START: self.start, _BYTES: self.content}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, npt.NDArray[Any]]) -> ItemIds:
        """The inverse of `to_tensors`.

        Raises:
            KeyError: An array is missing.
        """
        # Plain array views, since each operation on a `memmap` object costs some extra microseconds.
        return cls(np.asarray(tensors[_START]), np.asarray(tensors[_BYTES]))
