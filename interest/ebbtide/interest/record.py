"""The record of a user: the bytes that a store keeps of one user for one export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

RAW_EVENTS = 512
"""Events that a record holds at most before its own export folds them; `append_raw` drops the oldest beyond these."""


class RecordError(ValueError):
    """A record is damaged, of another version of the format, or of another width than the export's."""

    def __init__(self, user: int, got: str, expected: str) -> None:
        super().__init__(f"record of user {user}: got {got}; expected {expected}")
        self.user = user
        """Index of the record among those given."""


@dataclass(frozen=True)
class NewEvents:
    """Events to add to the records of U users, those of one user after the other in the order of their arrival."""

    counts: Ints
    """``[U]``: events of each user."""
    item_key: Ints
    """``[E]``."""
    time_ms: Ints
    """``[E]``: Unix milliseconds, from 0 to 2^48 - 1."""
    weight: Floats | None = None
    """``[E]``, finite and from 0 to 1e15; None where every weight is 1."""
    event_id: Ints | None = None
    """``[E]``: the same id again is the same event. None derives it from item key and time, so that the same item at
    the same time is the same event."""

    @property
    def user(self) -> Ints:
        """``[E]``: whose event each one is, ascending."""
        return np.arange(self.counts.shape[0]).repeat(self.counts)


@dataclass(frozen=True)
class Appended:
    """Records after `append_raw`."""

    records: list[bytes]
    """``[U]``."""
    added: Ints
    """``[U]``."""
    duplicates: Ints
    """``[U]``."""
    dropped: Ints
    """``[U]``: the oldest events beyond `RAW_EVENTS`, which were dropped."""


def append_raw(records: Sequence[bytes | None], events: NewEvents) -> Appended:
    """Adds events to records of any export, without its parameters: they stay raw until that export folds them.

    Args:
        records: ``[U]``; None for a user without a record.
        events: Of these users.

    Raises:
        RecordError: A record is damaged or of another version of the format.
    """
    raise NotImplementedError


def tail_only(record: bytes) -> bytes:
    """The record's raw events as a record of any other export: what is folded means nothing to it.

    Raises:
        RecordError: It is damaged or of another version of the format.
    """
    raise NotImplementedError


def store_keys(user: Ints) -> list[bytes]:
    """The 16 bytes of each user's key, as a store has them, from the tensor `user`.

    Args:
        user: ``[U, 2]``.
    """
    joined = np.ascontiguousarray(user, dtype="<i8").tobytes()
    return [joined[start : start + 16] for start in range(0, len(joined), 16)]
