"""From attribute keys to the words that an item must share a bit with: what `allow_attribute` asks for."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ebbtide.interest.lookup import UNKNOWN, KeyIndex
from ebbtide.interest.numbers import LEAST, MISSING, MOST

Ints = npt.NDArray[np.int64]

NUMBER_WORDS = 3
"""Words of a numeric column."""
_WORD_BITS = 64


def _none() -> Ints:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Numbers:
    """The entries of a list of keys that are numbers: the key of a numeric column, and behind it one or two numbers."""

    position: Ints
    """``[numbers]``: of the key of the column, ascending."""
    column: Ints
    """``[numbers]``: index into `AttributeIndex.number_column`."""
    is_value: npt.NDArray[np.bool_]
    """``[keys]``: entries that are no part of a number."""


@dataclass(frozen=True)
class AttributeIndex:
    """The attribute values of a catalog, as bits in 64-bit words; see `ebbtide.interest.exported` for the arrays.

    Each column owns a range of words, whose first bit every item has; each further bit is one value. An item passes a
    filter when it shares a bit with it in the words of every column. So a filter has the first bit of each column
    without a condition, and for the others the bits of the values that are allowed.

    A numeric column owns three words. Those of an item are 1, its number as an integer of `ebbtide.interest.numbers`,
    and 0; those of a filter are 0 and the least and the largest integer that pass, or 1, 0 and 0.
    """

    column_word: Ints
    """``[columns + 1]``."""
    keys: KeyIndex
    """From the keys of the values to their indices in ``column`` and ``bit``."""
    column: Ints
    """``[values]``."""
    bit: Ints
    """``[values]``."""
    number_column: Ints = field(default_factory=_none)
    """``[numeric columns]``: indices into ``column_word``."""
    number_key: Ints = field(default_factory=_none)
    """``[numeric columns]``: the keys of their names."""

    @classmethod
    def none(cls) -> AttributeIndex:
        """Of a catalog without attributes: one nameless column."""
        empty = np.empty(0, dtype=np.int64)
        return cls(np.array([0, 1], dtype=np.int64), KeyIndex(empty, empty), empty, empty)

    @property
    def words(self) -> int:
        """Words of an item, and of a filter."""
        return int(self.column_word[-1])

    def everything(self, users: int) -> Ints:
        """The filters of users that allow every item, ``[users, words]``."""
        filters = np.zeros((users, self.words), dtype=np.int64)
        filters[:, self.column_word[:-1]] = 1
        return filters

    def numbers_in(self, keys: Ints, width: int) -> Numbers:
        """The entries of numeric columns among keys.

        Args:
            keys: ``[keys]``.
            width: Numbers behind the key of each column: 1 of an item, 2 of a range.
        """
        is_value = np.ones(keys.size, dtype=np.bool_)
        if not self.number_key.size:
            return Numbers(_none(), _none(), is_value)
        found: list[int] = []
        for position in np.flatnonzero(np.isin(keys, self.number_key)).tolist():
            # A number may happen to equal the key of a column.
            if is_value[position]:
                found.append(position)
                is_value[position : position + 1 + width] = False
        position = np.array(found, dtype=np.int64)
        return Numbers(position, (keys[position][:, None] == self.number_key).argmax(axis=1), is_value)

    def filters(self, users: int, user: Ints, value: Ints, ranges: tuple[Ints, Ints, Ints, Ints] | None = None) -> Ints:
        """The words of each user's filter, int64 ``[users, words]``.

        Args:
            users: B.
            user: ``[conditions]``, whose condition each one is.
            value: ``[conditions]``, the index of the allowed value, from `find`.
            ranges: User, index of the numeric column, least and largest integer, ``[ranges]`` each; of two ranges of
                one column both hold.
        """
        filters = self.everything(users)
        # The first bit alone stands there yet, and a column with a condition must not have it.
        filters[user, self.column_word[self.column[value]]] = 0
        self._set_bits(filters, user, value)
        if ranges is not None:
            owner, number, least, most = ranges
            word = self._number_word[number]
            filters[owner, word], filters[owner, word + 1], filters[owner, word + 2] = 0, LEAST, MOST
            np.maximum.at(filters, (owner, word + 1), least)
            np.minimum.at(filters, (owner, word + 2), most)
        return filters

    def words_of(self, items: int, item: Ints, keys: Ints) -> Ints:
        """The words of items, int64 ``[items, words]``.

        Args:
            items: How many.
            item: ``[keys]``, ascending: whose each one is.
            keys: ``[keys]``: of values, and of numeric columns with a number behind each; those that no item of the
                export has say nothing.
        """
        words = self.everything(items)
        words[:, self._number_word + 1] = MISSING
        numbers = self.numbers_in(keys, 1)
        value = np.where(numbers.is_value, self.find(keys), UNKNOWN)
        known = value != UNKNOWN
        self._set_bits(words, item[known], value[known])
        whole = numbers.position + 1 < keys.size
        position = numbers.position[whole]
        words[item[position], self._number_word[numbers.column[whole]] + 1] = keys[position + 1]
        return words

    def bits_of(self, value: Ints) -> Ints:
        """The bits of values alone, int64 ``[words]``.

        Args:
            value: ``[values]``, from `find`.
        """
        words = np.zeros((1, self.words), dtype=np.int64)
        self._set_bits(words, np.zeros(value.size, dtype=np.int64), value)
        return np.asarray(words[0])

    def passing(self, words: Ints, filters: Ints) -> npt.NDArray[np.bool_]:
        """Which items pass the filters of each user, ``[users, items]``.

        Args:
            words: ``[items, words]``: those of the items.
            filters: ``[users, words]``.
        """
        shared = (filters[:, None, :] & words[None]) != 0
        for word in self._number_word.tolist():
            number = words[None, :, word + 1]
            inside = (number >= filters[:, word + 1, None]) & (number <= filters[:, word + 2, None])
            shared[:, :, word] |= inside
            shared[:, :, word + 1 : word + NUMBER_WORDS] = False
        return np.asarray(np.logical_or.reduceat(shared, self.column_word[:-1], axis=2).all(axis=2))

    @property
    def _number_word(self) -> Ints:
        """``[numeric columns]``: the first word of each."""
        return self.column_word.take(self.number_column)

    def _set_bits(self, words: Ints, row: Ints, value: Ints) -> None:
        word = self.column_word[self.column[value]] + self.bit[value] // _WORD_BITS
        bits = np.left_shift(np.uint64(1), (self.bit[value] % _WORD_BITS).astype(np.uint64)).view(np.int64)
        np.bitwise_or.at(words, (row, word), bits)

    def find(self, keys: Ints) -> Ints:
        """The indices of attribute values, -1 for a key that no value has."""
        return self.keys.find(keys)
