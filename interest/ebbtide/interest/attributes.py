"""From attribute keys to the words that an item must share a bit with: what `allow_attribute` asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.lookup import KeyIndex

Ints = npt.NDArray[np.int64]

_WORD_BITS = 64


@dataclass(frozen=True)
class AttributeIndex:
    """The attribute values of a catalog, as bits in 64-bit words; see `ebbtide.interest.exported` for the arrays.

    Each column owns a range of words, whose first bit every item has; each further bit is one value. An item passes a
    filter when it shares a bit with it in the words of every column. So a filter has the first bit of each column
    without a condition, and for the others the bits of the values that are allowed.
    """

    column_word: Ints
    """``[columns + 1]``."""
    keys: KeyIndex
    """From the keys of the values to their indices in ``column`` and ``bit``."""
    column: Ints
    """``[values]``."""
    bit: Ints
    """``[values]``."""

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

    def filters(self, users: int, user: Ints, value: Ints) -> Ints:
        """The words of each user's filter, int64 ``[users, words]``.

        Args:
            users: B.
            user: ``[conditions]``, whose condition each one is.
            value: ``[conditions]``, the index of the allowed value, from `find`.
        """
        filters = self.everything(users)
        # The first bit alone stands there yet, and a column with a condition must not have it.
        filters[user, self.column_word[self.column[value]]] = 0
        self._set_bits(filters, user, value)
        return filters

    def words_of(self, items: int, item: Ints, value: Ints) -> Ints:
        """The words of items, int64 ``[items, words]``.

        Args:
            items: How many.
            item: ``[values]``, whose value each one is.
            value: ``[values]``, the index of the value, from `find`.
        """
        words = self.everything(items)
        self._set_bits(words, item, value)
        return words

    def passing(self, words: Ints, filters: Ints) -> npt.NDArray[np.bool_]:
        """Which items pass the filters of each user, ``[users, items]``.

        Args:
            words: ``[items, words]``: those of the items.
            filters: ``[users, words]``.
        """
        shared = (filters[:, None, :] & words[None]) != 0
        return np.asarray(np.logical_or.reduceat(shared, self.column_word[:-1], axis=2).all(axis=2))

    def _set_bits(self, words: Ints, row: Ints, value: Ints) -> None:
        word = self.column_word[self.column[value]] + self.bit[value] // _WORD_BITS
        bits = np.left_shift(np.uint64(1), (self.bit[value] % _WORD_BITS).astype(np.uint64)).view(np.int64)
        np.bitwise_or.at(words, (row, word), bits)

    def find(self, keys: Ints) -> Ints:
        """The indices of attribute values, -1 for a key that no value has."""
        return self.keys.find(keys)
