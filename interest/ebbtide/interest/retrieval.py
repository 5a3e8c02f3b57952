"""The file of a scoring head that answers from an index; the export writes it and the served head reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

RETRIEVAL_FILE = "retrieval.safetensors"
_SETTINGS = "settings"
"""Metadata of the file: `RetrievalSettings` as JSON."""
_INDEX, _ID_START, _ID_BYTES = "index", "id_start", "id_bytes"

Tables = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class RetrievalSettings:
    """Search settings of the index. The index itself holds its build settings."""

    top_n: int
    candidates: int
    """Candidates that the index returns for a request, plus one for each adjusted item."""


@dataclass(frozen=True)
class ItemIds:
    """The ids of a catalog as bytes, so that no Python list of them is needed."""

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


@dataclass(frozen=True)
class RetrievalTables:
    """The content of `RETRIEVAL_FILE`, except the export's id."""

    settings: RetrievalSettings
    index: npt.NDArray[np.uint8]
    """``[bytes]``: the index, as faiss serialises it."""
    ids: ItemIds

    def to_tensors(self) -> tuple[Tables, dict[str, str]]:
        """Tensors and metadata for a safetensors file."""
        tables: Tables = {_INDEX: self.index, _ID_START: self.ids.start, _ID_BYTES: self.ids.content}
        return tables, {_SETTINGS: json.dumps(asdict(self.settings))}

    @classmethod
    def from_tensors(cls, tables: Tables, metadata: dict[str, str]) -> RetrievalTables:
        """The inverse of `to_tensors`, for tables from `read_tensors`.

        Raises:
            ValueError: A table or the settings are missing, or the settings belong to another program version.
        """
        try:
            settings = RetrievalSettings(**json.loads(metadata[_SETTINGS]))
            # Plain array views, since each operation on a `memmap` object costs some extra microseconds.
            index, start, content = (np.asarray(tables[name]) for name in (_INDEX, _ID_START, _ID_BYTES))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{RETRIEVAL_FILE}: got {error!r}; expected a file written by `ebbtide export`: export again"
            ) from error
        return cls(settings, index, ItemIds(start, content))
