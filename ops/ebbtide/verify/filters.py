"""Which items an attribute filter allows, by sets of items: shares nothing with the served code but its file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ebbtide.export.errors import RepositoryError
from ebbtide.interest import exported, served_models
from ebbtide.interest.tensorfile import read_tensors

_WORD_BITS = 64


@dataclass(frozen=True)
class Filters:
    """The attribute values of one export."""

    column_of: dict[int, int]
    """Key of a value to its column."""
    items_of: dict[int, npt.NDArray[np.bool_]]
    """Key of a value to ``[N]``: the items that have it."""
    number_of: dict[int, npt.NDArray[np.float64]]
    """Key of a numeric column to ``[N]``: the number of each item, NaN without one."""

    @classmethod
    def read(cls, repository: Path, version: int) -> Filters:
        """Those that requests to a version may name.

        Raises:
            RepositoryError: The file is missing or damaged.
        """
        path = repository / served_models.ADAPTIVE_WEIGHTS.name / str(version) / exported.ATTRIBUTES_FILE
        try:
            tables, _ = read_tensors(path)
        except (ValueError, OSError) as error:
            raise RepositoryError(f"{path}: not a sound export: {error}") from error
        if exported.ATTRIBUTE_KEY not in tables:
            return cls({}, {}, {})
        keys = tables[exported.ATTRIBUTE_KEY].tolist()
        columns = tables[exported.ATTRIBUTE_COLUMN].tolist()
        bits = tables[exported.ATTRIBUTE_BIT].tolist()
        words = np.ascontiguousarray(tables[exported.ITEM_WORDS]).view(np.uint64)
        first = tables[exported.COLUMN_WORD].tolist()
        items_of = {}
        for key, column, bit in zip(keys, columns, bits, strict=True):
            word = words[:, first[column] + bit // _WORD_BITS]
            items_of[key] = (word >> np.uint64(bit % _WORD_BITS)) & np.uint64(1) != 0
        number_of = {}
        if exported.NUMBER_KEY in tables:
            of_numbers = zip(tables[exported.NUMBER_KEY].tolist(), tables[exported.NUMBER_COLUMN].tolist(), strict=True)
            number_of = {key: _doubles(words[:, first[column] + 1]) for key, column in of_numbers}
        return cls(dict(zip(keys, columns, strict=True)), items_of, number_of)

    def allowed(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_] | None:
        """Items that have one of the values given for every column that is given, ``[N]``; None without a value.

        Of a numeric column, which has two bounds behind its key, items with a number from one to the other.
        """
        by_column: dict[int, npt.NDArray[np.bool_]] = {}
        ranges: list[npt.NDArray[np.bool_]] = []
        left = iter(keys.tolist())
        for key in left:
            if key in self.number_of:
                least, most = _doubles(np.array([next(left), next(left)]).view(np.uint64)).tolist()
                number = self.number_of[key]
                ranges.append((number >= least) & (number <= most))
                continue
            column, items = self.column_of[key], self.items_of[key]
            by_column[column] = by_column[column] | items if column in by_column else items
        every = [*by_column.values(), *ranges]
        return np.logical_and.reduce(every) if every else None


def _doubles(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """The numbers that words stand for: those of negative ones have all bits but the first inverted."""
    negative = words >> np.uint64(63) != 0
    bits = np.where(negative, words ^ np.uint64(2**63 - 1), words)
    return np.ascontiguousarray(bits).view(np.float64)
