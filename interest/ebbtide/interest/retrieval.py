"""The file of a scoring head that answers from an index: what the export writes into it, and the served head reads."""

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
    """How the index is searched; how it was built is part of the index."""

    top_n: int
    candidates: int
    """Items that the index names for a request, beside one more for each adjusted item."""


@dataclass(frozen=True)
class ItemIds:
    """The ids of a catalog as bytes, so that no Python list of them is needed."""

    start: npt.NDArray[np.int64]
    """``[items + 1]``: where each item's id begins in `content`, and last the length of `content`."""
    content: npt.NDArray[np.uint8]
    """``[bytes]``: the ids in UTF-8, one behind the other, in catalog order."""

    @classmethod
    def of(cls, item_id: Sequence[str]) -> ItemIds:
        """Packs ids, in catalog order."""
        texts = [item.encode() for item in item_id]
        start = np.zeros(len(texts) + 1, dtype=np.int64)
        np.cumsum([len(text) for text in texts], out=start[1:])
        return cls(start, np.frombuffer(b"".join(texts), dtype=np.uint8))

    def all(self) -> list[str]:
        """Every id, in catalog order."""
        content = self.content.tobytes()
        return [content[begin:end].decode() for begin, end in pairwise(self.start.tolist())]

    def take(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
        """UTF-8 ids (bytes) of items, in the shape of their catalog indices."""
        flat, content = index.ravel(), self.content.data
        borders = zip(self.start[flat].tolist(), self.start[flat + 1].tolist(), strict=True)
        ids = np.empty(flat.size, dtype=np.object_)
        ids[:] = [content[begin:end].tobytes() for begin, end in borders]
        return ids.reshape(index.shape)


@dataclass(frozen=True)
class RetrievalTables:
    """Everything that `RETRIEVAL_FILE` holds, but for the export's id."""

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
        """Takes what `to_tensors` gave, as `read_tensors` reads it.

        Raises:
            ValueError: A table or the settings are missing, or another version's.
        """
        try:
            settings = RetrievalSettings(**json.loads(metadata[_SETTINGS]))
            # Plain views of the memory maps: each operation on a `memmap` costs microseconds for its class alone.
            index, start, content = (np.asarray(tables[name]) for name in (_INDEX, _ID_START, _ID_BYTES))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{RETRIEVAL_FILE}: got {error!r}; expected what `ebbtide export` writes") from error
        return cls(settings, index, ItemIds(start, content))
