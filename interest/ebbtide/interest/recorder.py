"""Adds events to the records of many users at once, and reads them for requests: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.lookup import KeyIndex
from ebbtide.interest.parameters import InterestParameters
from ebbtide.interest.record import NewEvents
from ebbtide.interest.state import InterestState

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Observed:
    """Records after new events, and what became of the events."""

    records: list[bytes | None]
    """``[U]``; the very object that was given where nothing changed, None included."""
    counts: npt.NDArray[np.int32]
    """``[U, 4]``: events added; duplicates; late ones among those added, which count by age alone; and events left out
    because their items are not in the catalog. The first, second and last sum to the events given."""


@dataclass(frozen=True)
class FoldedItems:
    """The items of folded events: of each user those that matter most, the first of them most; each item once."""

    user: Ints
    """``[P]``, ascending."""
    item: Ints
    """``[P]``: catalog index."""
    newest_ms: Ints
    """``[P]``: time of the newest folded event of the item; of no meaning without a repeat score."""
    counts: Doubles
    """``[P, M]``: decayed counts as of the user's `InterestState.time_ms`; M = 0 without a repeat score."""


@dataclass(frozen=True)
class UserStates:
    """What the records of U users hold, as of their newest folded events."""

    known: Bools
    """``[U]``: whether the user has a record."""
    counts: Ints
    """``[U]``: raw events."""
    user: Ints
    """``[T]``: whose raw event each one is, ascending; those of a user oldest first."""
    item_key: Ints
    """``[T]``."""
    item: Ints
    """``[T]``: catalog index, -1 where the item is not in the catalog."""
    time_ms: Ints
    """``[T]``."""
    weight: Floats
    """``[T]``."""
    folded: InterestState
    """The sums of older events."""
    items: FoldedItems
    alpha_offset: Floats
    """``[U]``: added to the logit of the gate."""
    late: Ints
    """``[U]``: events that were folded after newer ones, so by age alone."""
    dropped: Ints
    """``[U]``: raw events that were dropped before this export could fold them."""


class Recorder:
    """Reads and writes the records of one export."""

    def __init__(
        self, parameters: InterestParameters, index: KeyIndex, vectors: Floats, *, half_precision: bool = False
    ) -> None:
        """Takes what one export wrote.

        Args:
            parameters: Decay rates, session gap, repeat score and limits.
            index: The catalog's keys.
            vectors: ``[items, d]``, the event vector of each item in catalog order; may be memory-mapped.
            half_precision: Whether to write folded sums in 16 bits instead of 32. Records of both are read.
        """
        self._parameters = parameters
        self._index = index
        self._vectors = np.asarray(vectors)
        self._half_precision = half_precision

    def observe(self, records: Sequence[bytes | None], events: NewEvents) -> Observed:
        """The records after new events; a pure function of both.

        Events whose time is not before the newest folded event count exactly, in whatever order they arrive. Raw events
        of `append_raw` are folded along.

        Args:
            records: ``[U]``, of distinct users and of this export; None for a user without one.
            events: Of these users.

        Raises:
            RecordError: A record is damaged, or of another version or width.
        """
        raise NotImplementedError

    def read(self, records: Sequence[bytes | None]) -> UserStates:
        """What the records hold; writes nothing.

        Args:
            records: ``[U]``, of this export or from `ebbtide.interest.record.tail_only`; None for a user without one.

        Raises:
            RecordError: A record is damaged, or of another version or width.
        """
        raise NotImplementedError
