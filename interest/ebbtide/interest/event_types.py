"""Event types: what a user did with an item (view, purchase, dislike), and what an event of each weighs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt

from ebbtide.interest.lookup import UNKNOWN

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNTYPED = 0
"""In place of the key of a type: the event has none, and counts as one of the first type."""
_SHOWN = 20
_LEAST_SIMILARITY = 0.5


@dataclass(frozen=True)
class EventType:
    """One type of events, as an export states it."""

    name: str
    key: int
    """Of the name, as of an item id."""
    weight: float
    """Factor on the weight of its events, learned; negative for what a user does not want."""
    is_target: bool
    """Whether these events are what is predicted, and what popularity counts."""


class EventTypes:
    """The event types of one export; the first one is a target and has weight 1."""

    def __init__(self, types: Sequence[EventType]) -> None:
        """Takes at least one."""
        self.names = tuple(one.name for one in types)
        self.key: Ints = np.array([one.key for one in types], dtype=np.int64)
        """``[types]``."""
        self.weight: Floats = np.array([one.weight for one in types], dtype=np.float32)
        """``[types]``."""
        self.is_target: Bools = np.array([one.is_target for one in types], dtype=np.bool_)
        """``[types]``."""
        self._order = self.key.argsort()
        self._sorted = self.key[self._order]

    def find(self, key: Ints) -> Ints:
        """The index of the type of each event, ``[events]``: 0 for `UNTYPED`, -1 for a key that no type has."""
        position = np.minimum(self._sorted.searchsorted(key), self._sorted.size - 1)
        index = np.where(self._sorted[position] == key, self._order[position], UNKNOWN)
        index[key == UNTYPED] = 0
        return index

    def weighed(self, index: Ints, weight: Floats | None) -> Floats:
        """The weights of events in the interest, ``[events]``.

        Args:
            index: ``[events]``, of the type of each.
            weight: ``[events]``, as given with the events; None where every weight is 1.
        """
        factor = self.weight[index]
        return factor if weight is None else weight * factor


def known_types(names: Sequence[str], given: str | None = None) -> str:
    """Names of event types for an error: the nearest to one that is not known, or all of them.

    Args:
        names: Those that are known.
        given: The one that is not; None where its name is not known.
    """
    near: Iterable[str] = () if given is None else _nearest(given, names)
    shown = list(near) or sorted(names)[:_SHOWN]
    return ", ".join(map(repr, shown))


def _nearest(given: str, names: Sequence[str]) -> list[str]:
    folded = {name.casefold(): name for name in names}
    return [folded[one] for one in get_close_matches(given.casefold(), folded, 3, _LEAST_SIMILARITY)]
