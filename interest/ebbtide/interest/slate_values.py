"""Which candidates have which attribute values, and from there what a request wishes of its list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.attributes import AttributeIndex
from ebbtide.interest.lookup import UNKNOWN
from ebbtide.interest.new_items import GrownTable, NewItems
from ebbtide.interest.slate import ExposedGroup, Groups, Wishes
from ebbtide.interest.slate_calibration import Calibration, distribution, shares_of
from ebbtide.interest.slate_exposure import least_by_position
from ebbtide.interest.slate_options import (
    FIRST_LIMIT_CAUSE,
    Cap,
    SlateOptions,
    refused_calibration,
    refused_limit,
)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_WORD_BITS = 64


@dataclass(frozen=True)
class ItemValues:
    """The attribute values of an export's items."""

    index: AttributeIndex
    words: Ints
    """``[items, words]``, in catalog order; of no items without attributes."""
    columns: Mapping[str, Sequence[str]]
    """The values of each attribute column by their bits, columns in order of `AttributeIndex.column_word`; no values
    in an export from before models had the text."""

    def check(self, options: SlateOptions) -> None:
        """Refuses columns and values that the export does not have.

        Raises:
            RequestError: Names the first.
        """
        if options.calibrated_column and options.calibrated_column not in self.columns:
            raise refused_calibration(options.calibrated_column, self._expected_column)
        for cause, limit in enumerate(options.limits, FIRST_LIMIT_CAUSE):
            if limit.column not in self.columns:
                raise refused_limit(options, cause, self._expected_column)
            if limit.key is not None and self._value(limit.key) == UNKNOWN:
                raise refused_limit(options, cause, f"a value that an item has in column {limit.column!r}")

    def words_of(self, item: Ints, new: NewItems | None) -> Ints:
        """The words of items, ``[items, words]``; zeros for unknown ones.

        Args:
            item: ``[items]``, catalog indices.
            new: Items that were added after the export.
        """
        if not self.words.shape[0]:
            return np.zeros((item.size, self.index.words), dtype=np.int64)
        table = self.words if new is None else GrownTable(self.words, new, new.words)
        words: Ints = table.take(np.maximum(item, 0), axis=0)
        return np.where((item != UNKNOWN)[:, None], words, 0)

    def has(self, words: Ints, key: int) -> Bools:
        """Which items have a value, ``[items]``.

        Args:
            words: ``[items, words]``.
            key: Of a value that the export has.
        """
        value = self._value(key)
        bit = int(self.index.bit[value])
        word = int(self.index.column_word[self.index.column[value]]) + bit // _WORD_BITS
        return np.asarray((words[:, word].view(np.uint64) >> np.uint64(bit % _WORD_BITS)) & np.uint64(1) != 0)

    def by_value(self, words: Ints, column: str) -> tuple[Bools, list[str]]:
        """Which items have each value of a column that any of them has, ``[items, values]``, and the values.

        Args:
            words: ``[items, words]``.
            column: Its name.
        """
        number = list(self.columns).index(column)
        start, stop = self.index.column_word[number : number + 2].tolist()
        own = np.ascontiguousarray(words[:, start:stop])
        # The first bit says nothing: every item has it.
        own[:, 0] &= ~1
        item, word = np.nonzero(own)
        bits = np.unpackbits(own[item, word].astype("<i8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
        entry, bit = np.nonzero(bits)
        value, column_of = np.unique(word[entry] * _WORD_BITS + bit, return_inverse=True)
        member = np.zeros((words.shape[0], value.size), dtype=np.bool_)
        member[item[entry], column_of] = True
        names = self.columns[column]
        # The values have the bits from the second on.
        return member, [names[bit - 1] if names else "" for bit in value.tolist()]

    def _value(self, key: int) -> int:
        return int(self.index.find(np.array([key], dtype=np.int64))[0])

    @property
    def _expected_column(self) -> str:
        names = ", ".join(self.columns)
        return f"a column that the model was exported with as an attribute: {names or 'none'}"


def wishes_of(
    options: SlateOptions,
    values: ItemValues,
    item: Ints,
    seen: tuple[Ints, Floats],
    new: NewItems | None,
    directions: Floats | None,
    pinned: Mapping[int, int],
) -> Wishes:
    """What a request wishes of its list, in terms of its candidates.

    Args:
        options: Of the request.
        values: Of the export.
        item: ``[candidates]``, catalog indices.
        seen: Catalog index and weight of the items of the user's events, ``[seen]`` each.
        new: Items that were added after the export.
        directions: ``[candidates, d]``; None without diversity.
        pinned: Candidate by its position, from 0.

    Raises:
        RequestError: A column or a value is not one of the export's.
    """
    caps = minimums = calibration = None
    exposures: list[ExposedGroup] = []
    if options.limits or options.calibrated_column:
        values.check(options)
        words = values.words_of(item, new)
        causes = iter(range(FIRST_LIMIT_CAUSE, FIRST_LIMIT_CAUSE + len(options.limits)))
        if options.at_most:
            groups = [_capped(values, words, cap) for cap in options.at_most]
            members = [member for member, _ in groups]
            widths = [member.shape[1] for member in members]
            caps = Groups(
                np.concatenate(members, axis=1),
                np.repeat([cap.count for cap in options.at_most], widths),
                np.repeat([next(causes) for _ in options.at_most], widths),
                [name for _, names in groups for name in names],
            )
        if options.at_least:
            minimums = Groups(
                np.stack([values.has(words, least.key) for least in options.at_least], axis=1),
                np.array([least.count for least in options.at_least], dtype=np.int64),
                np.array([next(causes) for _ in options.at_least], dtype=np.int64),
            )
        for exposed in options.exposure:
            least = least_by_position(options.size, exposed.share, exposed.significance)
            exposures.append(ExposedGroup(values.has(words, exposed.key), least, next(causes)))
        if options.calibrated_column and options.calibration > 0:
            calibration = _calibration(values, words, options.calibrated_column, seen, new)
    return Wishes(
        options.size,
        options.diversity,
        options.method,
        directions,
        caps,
        minimums,
        exposures,
        calibration,
        options.calibration if calibration is not None else 0.0,
        pinned,
    )


def _capped(values: ItemValues, words: Ints, cap: Cap) -> tuple[Bools, list[str]]:
    """The groups of a cap, ``[candidates, groups]``, and their values, empty where the request names the value."""
    return values.by_value(words, cap.column) if cap.key is None else (values.has(words, cap.key)[:, None], [""])


def _calibration(
    values: ItemValues, words: Ints, column: str, seen: tuple[Ints, Floats], new: NewItems | None
) -> Calibration | None:
    """None for a user whose events say nothing of the column."""
    seen_item, seen_weight = seen
    both, _ = values.by_value(np.concatenate([words, values.words_of(seen_item, new)]), column)
    candidates = words.shape[0]
    wanted = distribution(shares_of(both[candidates:]), np.maximum(seen_weight, 0))
    return Calibration(shares_of(both[:candidates]), wanted) if wanted.any() else None
