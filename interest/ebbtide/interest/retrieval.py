"""The file of a scoring head that answers from an index; the export writes it and the served head reads it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest.item_ids import ItemIds

RETRIEVAL_FILE = "retrieval.safetensors"
_SETTINGS = "settings"
"""Metadata of the file: `RetrievalSettings` as JSON."""
_INDEX = "index"

Tables = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class RetrievalSettings:
    """Search settings of the index. The index itself holds its build settings."""

    top_n: int
    candidates: int
    """Candidates that the index returns for a request, plus one for each adjusted item."""


@dataclass(frozen=True)
class RetrievalTables:
    """The content of `RETRIEVAL_FILE`, except the export's id."""

    settings: RetrievalSettings
    index: npt.NDArray[np.uint8]
    """``[bytes]``: the index, as faiss serialises it."""
    ids: ItemIds

    def to_tensors(self) -> tuple[Tables, dict[str, str]]:
        """Tensors and metadata for a safetensors file."""
        tables: Tables = {_INDEX: self.index, **self.ids.to_tensors()}
        return tables, {_SETTINGS: json.dumps(asdict(self.settings))}

    @classmethod
    def from_tensors(cls, tables: Tables, metadata: dict[str, str]) -> RetrievalTables:
        """The inverse of `to_tensors`, for tables from `read_tensors`.

        Raises:
            ValueError: A table or the settings are missing, or the settings belong to another program version.
        """
        try:
            settings = RetrievalSettings(**json.loads(metadata[_SETTINGS]))
            index, ids = np.asarray(tables[_INDEX]), ItemIds.from_tensors(tables)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{RETRIEVAL_FILE}: got {error!r}; expected a file written by `ebbtide export`: export again"
            ) from error
        return cls(settings, index, ids)
