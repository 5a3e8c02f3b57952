"""The record of a user: the bytes that a store keeps of one user for one export.

    header | raw events | event ids | folded sums | items of folded events

All numbers are little-endian. Header, raw events and event ids are the same for all exports, so that any version can
append events to a record or read its raw events; the two last sections belong to one export, see
`ebbtide.interest.folded`. The event ids are those of the raw events, in their order, then those of the newest folded
events, so that an event that is sent again is known as a duplicate. Sizes are in docs/design.md, online interest.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ebbtide.interest.event_types import UNTYPED, EventTypes

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

TAIL_EVENTS = 16
"""The newest events of a user, which stay raw when an export folds a record that it writes in single precision."""
KNOWN_IDS = 28
"""Event ids that are kept with them: those of the raw events and of the newest folded ones."""
HALF_TAIL_EVENTS = 6
"""`TAIL_EVENTS` of a record in half precision."""
HALF_KNOWN_IDS = 16
"""`KNOWN_IDS` of a record in half precision."""
RAW_EVENTS = 512
"""Events that a record holds at most before its own export folds them; `append_raw` drops the oldest beyond these."""

FORMAT = 1
"""The version of the format of records."""
_MARK = b"Eb" + bytes([FORMAT])
"""What a record begins with."""
HALF_PRECISION = 1
"""The bit of ``flags`` that is set where the folded sums have 16 bits."""
HEADER = np.dtype(
    [
        ("mark", "S3"),
        ("flags", "u1"),
        ("events", "<u2"),
        ("ids", "<u2"),
        ("items", "<u2"),
        ("item_counts", "u1"),  # M, the decayed counts of each item
        ("reserved", "u1"),
        ("folded", "<u4", 2),  # folded events of the history, of the session
        ("late", "<u4"),
        ("dropped", "<u4"),
        ("newest_ms", "<i8"),  # time of the newest folded event; 0 without one
        ("log_mark", "<u4"),  # of the event log that a backfill has put into the record; 0 for none
        ("alpha_offset", "<f4"),
        ("scale", "i1", (2, 2)),  # powers of two of half precision: history and session, sums and squares
    ]
)
_EVENT = np.dtype([("key", "<i8"), ("time_low", "<u4"), ("time_high", "<u2"), ("weight", "<f4")])
_EVENT_READ = np.dtype(
    {"names": ["key", "time", "weight"], "formats": ["<i8", "<i8", "<f4"], "offsets": [0, 8, 14], "itemsize": 18}
)
"""The same for reading: the lower 48 bits of ``time`` are the time."""
_ID = np.dtype([("low", "<u4"), ("high", "<u2")])
_COUNTS, _COUNTS_OFFSET = struct.Struct("<HH"), 4
"""``events`` and ``ids`` of a header."""
_OFFSET, _ALPHA_OFFSET_AT = struct.Struct("<f"), HEADER.fields["alpha_offset"][1]  # type: ignore[index]
_EMPTY = np.zeros(1, dtype=HEADER)
_EMPTY["mark"] = _MARK
_EMPTY_BYTES = _EMPTY.tobytes()
_BITS_48 = (1 << 48) - 1


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
    """``[users]``: events of each user."""
    item_key: Ints
    """``[events]``."""
    time_ms: Ints
    """``[events]``: Unix milliseconds, from 0 to 2^48 - 1."""
    weight: Floats | None = None
    """``[events]``, finite, 0 to 1e15 times the weight of the event's type, so it may be negative; None where every
    weight is 1."""
    event_id: Ints | None = None
    """``[events]``: the same id again is the same event. None derives it by `derived_ids` from item key and time, so
    that the same item at the same time is the same event."""
    is_target: Bools | None = None
    """``[events]``: whether the event is of a type that is predicted and that popularity counts; None for all. No part
    of a record."""

    def take(self, users: Ints) -> NewEvents:
        """The events of some users, in their order."""
        counts = self.counts[users]
        first = (self.counts.cumsum() - self.counts)[users]
        index = np.arange(int(counts.sum())) + (first - counts.cumsum() + counts).repeat(counts)
        return NewEvents(
            counts,
            self.item_key[index],
            self.time_ms[index],
            None if self.weight is None else self.weight[index],
            None if self.event_id is None else self.event_id[index],
            None if self.is_target is None else self.is_target[index],
        )

    def raw(self) -> RawEvents:
        """The same as a record holds them."""
        given = derived_ids(self.item_key, self.time_ms) if self.event_id is None else self.event_id
        event_id = mixed(given.view(np.uint64))
        weight = np.ones(self.time_ms.shape, dtype=np.float32) if self.weight is None else self.weight
        return RawEvents(
            np.arange(self.counts.shape[0]).repeat(self.counts),
            self.item_key,
            self.time_ms,
            weight,
            (event_id & np.uint64(_BITS_48)).view(np.int64),
        )


@dataclass(frozen=True)
class RawEvents:
    """Raw events of many users, those of one user after the other."""

    user: Ints
    """``[raw events]``, ascending."""
    key: Ints
    """``[raw events]``: of the item."""
    time_ms: Ints
    """``[raw events]``."""
    weight: Floats
    """``[raw events]``."""
    event_id: Ints
    """``[raw events]``, 48 bits of a hash."""

    def take(self, index: npt.NDArray[np.int64] | Bools) -> RawEvents:
        """Those at the indices, or where a mask is true."""
        return RawEvents(
            self.user[index], self.key[index], self.time_ms[index], self.weight[index], self.event_id[index]
        )

    def renumbered(self, users: Ints) -> RawEvents:
        """The same with the numbers of users looked up in an array; ascending ones stay ascending."""
        return replace(self, user=users[self.user])

    def merged(self, new: RawEvents) -> RawEvents:
        """These and new ones, oldest first for each user; at equal times the new ones come last."""
        user = np.concatenate([self.user, new.user])
        time_ms = np.concatenate([self.time_ms, new.time_ms])
        both = RawEvents(
            user,
            np.concatenate([self.key, new.key]),
            time_ms,
            np.concatenate([self.weight, new.weight]),
            np.concatenate([self.event_id, new.event_id]),
        )
        return both.take(np.lexsort((time_ms, user)))


@dataclass(frozen=True)
class Records:
    """Many records, taken apart."""

    headers: npt.NDArray[np.void]
    """``[users]``, `HEADER`; zeros where there is no record."""
    known: Bools
    """``[users]``: whether there is a record."""
    events: RawEvents
    """Oldest first for each user."""
    folded_id_user: Ints
    """``[folded events]``, ascending."""
    folded_id: Ints
    """``[folded events]``: ids of the newest folded events, in the order in which they were folded."""
    folded: list[bytes]
    """``[users]``: the sections that belong to one export."""

    @classmethod
    def decode(cls, records: Sequence[bytes | None], *, with_ids: bool = True) -> Records:
        """Takes records apart.

        Args:
            records: ``[users]``; None for a user without one.
            with_ids: Whether to read event ids. Without, those of raw events are 0 and those of folded ones left out.

        Raises:
            RecordError: One is damaged or of another version of the format.
        """
        users = len(records)
        whole = [_EMPTY_BYTES if record is None else record for record in records]
        joined = b"".join([record[: HEADER.itemsize] for record in whole])
        if len(joined) != users * HEADER.itemsize:
            short = next(index for index, record in enumerate(whole) if len(record) < HEADER.itemsize)
            raise RecordError(short, f"{len(whole[short])} bytes", f"at least {HEADER.itemsize}")
        headers = np.frombuffer(joined, dtype=HEADER)
        counts, ids = [], []
        event_parts, raw_ids, folded_ids, folded = [], [], [], []
        for index, record in enumerate(whole):
            of_user, ids_of_user = _COUNTS.unpack_from(record, _COUNTS_OFFSET)
            counts.append(of_user)
            ids.append(ids_of_user)
            events_stop = HEADER.itemsize + of_user * _EVENT.itemsize
            raw_stop = events_stop + of_user * _ID.itemsize
            stop = events_stop + ids_of_user * _ID.itemsize
            if not record.startswith(_MARK):
                raise RecordError(index, f"a beginning of {record[:3]!r}", f"{_MARK!r}")
            if len(record) < max(stop, raw_stop):
                raise RecordError(index, f"{len(record)} bytes", f"at least {max(stop, raw_stop)}")
            event_parts.append(record[HEADER.itemsize : events_stop])
            folded.append(record[stop:])
            if with_ids:
                raw_ids.append(record[events_stop:raw_stop])
                folded_ids.append(record[raw_stop:stop])
        event = np.frombuffer(b"".join(event_parts), dtype=_EVENT_READ)
        events = RawEvents(
            np.arange(users).repeat(counts),
            event["key"].astype(np.int64),
            event["time"] & _BITS_48,
            event["weight"].astype(np.float32),
            _ids_of(raw_ids) if with_ids else np.zeros(event.size, dtype=np.int64),
        )
        known = np.array([record is not None for record in records])
        if not with_ids:
            nothing = np.zeros(0, dtype=np.int64)
            return cls(headers, known, events, nothing, nothing, folded)
        folded_counts = [max(of_user - raw, 0) for of_user, raw in zip(ids, counts, strict=True)]
        return cls(headers, known, events, np.arange(users).repeat(folded_counts), _ids_of(folded_ids), folded)

    def take(self, users: Ints) -> Records:
        """Headers and folded sections of some users; none of their raw events and ids."""
        nothing = np.zeros(0, dtype=np.int64)
        return Records(
            self.headers[users],
            self.known[users],
            self.events.take(nothing),
            nothing,
            nothing,
            [self.folded[user] for user in users.tolist()],
        )

    def encode(self) -> list[bytes]:
        """The records; the numbers of events and ids in the headers are set."""
        users = len(self.folded)
        headers = self.headers.copy()
        headers["mark"] = _MARK
        events = np.empty(self.events.user.size, dtype=_EVENT)
        events["key"], events["weight"] = self.events.key, self.events.weight
        events["time_low"], events["time_high"] = self.events.time_ms & 0xFFFFFFFF, self.events.time_ms >> 32
        id_user = np.concatenate([self.events.user, self.folded_id_user])
        every_id = np.concatenate([self.events.event_id, self.folded_id])
        order = np.argsort(id_user, kind="stable")
        every_id = every_id[order]
        ids = np.empty(every_id.size, dtype=_ID)
        ids["low"], ids["high"] = every_id & 0xFFFFFFFF, every_id >> 32
        event_counts = np.bincount(self.events.user, minlength=users)
        id_counts = np.bincount(id_user, minlength=users)
        headers["events"], headers["ids"] = event_counts, id_counts
        header_bytes = slices(headers.tobytes(), np.full(users, HEADER.itemsize))
        event_bytes = slices(events.tobytes(), event_counts * _EVENT.itemsize)
        id_bytes = slices(ids.tobytes(), id_counts * _ID.itemsize)
        return [b"".join(parts) for parts in zip(header_bytes, event_bytes, id_bytes, self.folded, strict=True)]

    def is_new(self, events: RawEvents) -> Bools:
        """Whether each event is neither in the records nor repeats an earlier one of its user, ``[events]``.

        Records forget the ids of old events. So if one of a user's events is in the record, those that are older than
        what is folded count as known as well: the events were sent before, as a whole. A record that has forgotten no
        id yet tells each event by itself.
        """
        new = self.has_new_id(events)
        is_late = new & (events.time_ms < self.headers["newest_ms"][events.user]) & self.has_forgotten[events.user]
        if np.count_nonzero(is_late) and not new.all():
            repeated = events.take(~new)
            _, first = np.unique(np.stack([repeated.user, repeated.event_id]), axis=1, return_index=True)
            once = repeated.take(np.sort(first))
            sent_before = np.zeros(len(self.folded), dtype=np.bool_)
            sent_before[once.user[~self.has_new_id(once)]] = True
            new &= ~(is_late & sent_before[events.user])
        return new

    @property
    def has_forgotten(self) -> Bools:
        """Which records have had events whose ids they do not have any more, ``[U]``."""
        headers = self.headers
        every = headers["events"] + headers["folded"].sum(axis=1) + headers["dropped"]
        forgotten: Bools = headers["ids"] < every
        return forgotten

    def has_new_id(self, events: RawEvents) -> Bools:
        """Whether no event of the records, and no earlier one of the user, has the id, ``[events]``."""
        user = np.concatenate([self.events.user, self.folded_id_user, events.user])
        event_id = np.concatenate([self.events.event_id, self.folded_id, events.event_id])
        order = np.lexsort((event_id, user))
        again = event_id[order[1:]] == event_id[order[:-1]]
        again &= user[order[1:]] == user[order[:-1]]
        new = np.ones(user.shape, dtype=np.bool_)
        new[order[1:][again]] = False
        return new[user.size - events.user.size :]

    def folded_ids_after(self, leaving: RawEvents, raw_counts: Ints, known_ids: Ints) -> tuple[Ints, Ints]:
        """User and id of the newest folded events, after more events have left the raw ones.

        Args:
            leaving: In the order in which they leave.
            raw_counts: ``[users]``, raw events that stay.
            known_ids: ``[users]``, ids to keep for raw and folded events together.
        """
        user = np.concatenate([self.folded_id_user, leaving.user])
        event_id = np.concatenate([self.folded_id, leaving.event_id])
        order = np.argsort(user, kind="stable")
        user, event_id = user[order], event_id[order]
        kept = index_from_end(user, len(self.folded)) < np.maximum(known_ids - raw_counts, 0)[user]
        return user[kept], event_id[kept]


@dataclass(frozen=True)
class Appended:
    """Records after `append_raw`."""

    records: list[bytes | None]
    """``[users]``; the very object that was given where no event was added, None included."""
    added: Ints
    """``[users]``."""
    duplicates: Ints
    """``[users]``."""
    dropped: Ints
    """``[users]``: the oldest events beyond `RAW_EVENTS`, which were dropped."""


def append_raw(records: Sequence[bytes | None], events: NewEvents) -> Appended:
    """Adds events to records of any export, without its parameters: they stay raw until that export folds them.

    Args:
        records: ``[users]``; None for a user without a record.
        events: Of these users.

    Raises:
        RecordError: A record is damaged or of another version of the format.
    """
    users = len(records)
    old, given = Records.decode(records), events.raw()
    is_new = old.is_new(given)
    merged = old.events.merged(given.take(is_new))
    stays = index_from_end(merged.user, users) < RAW_EVENTS
    raw, leaving = merged.take(stays), merged.take(~stays)
    raw_counts = np.bincount(raw.user, minlength=users)
    dropped = np.bincount(leaving.user, minlength=users)
    headers = old.headers.copy()
    headers["dropped"] += dropped.astype(np.uint32)
    user, event_id = old.folded_ids_after(leaving, raw_counts, known_ids(headers))
    added = np.bincount(given.user[is_new], minlength=users)
    encoded = Records(headers, old.known, raw, user, event_id, old.folded).encode()
    return Appended(
        [new if changed else record for record, new, changed in zip(records, encoded, added > 0, strict=True)],
        added,
        events.counts - added,
        dropped,
    )


def tail_only(record: bytes) -> bytes:
    """The record's raw events as a record of any other export: what is folded means nothing to it.

    Raises:
        RecordError: It is damaged or of another version of the format.
    """
    old = Records.decode([record])
    nothing = np.zeros(0, dtype=np.int64)
    (tail,) = Records(np.zeros(1, dtype=HEADER), old.known, old.events, nothing, nothing, [b""]).encode()
    return tail


def with_alpha_offset(record: bytes, offset: float) -> bytes:
    """The record with another alpha offset.

    Args:
        record: Of this version of the format.
        offset: Added to the logit of alpha.
    """
    start = _ALPHA_OFFSET_AT
    return record[:start] + _OFFSET.pack(offset) + record[start + _OFFSET.size :]


def known_ids(headers: npt.NDArray[np.void]) -> Ints:
    """The ids that each record keeps, by its precision, ``[users]``."""
    return np.where(headers["flags"] & HALF_PRECISION, HALF_KNOWN_IDS, KNOWN_IDS)


def store_keys(user: Ints) -> list[bytes]:
    """The 16 bytes of each user's key, as a store has them, from the tensor `user`.

    Args:
        user: ``[users, 2]``.
    """
    joined = np.ascontiguousarray(user, dtype="<i8").tobytes()
    return [joined[start : start + 16] for start in range(0, len(joined), 16)]


def slices(joined: bytes, lengths: Ints) -> list[bytes]:
    """The bytes cut into pieces of these lengths."""
    stops = np.cumsum(lengths).tolist()
    return [joined[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def _ids_of(parts: list[bytes]) -> Ints:
    ids = np.frombuffer(b"".join(parts), dtype=_ID)
    whole: Ints = ids["low"] + (ids["high"].astype(np.int64) << 32)
    return whole


def index_in_user(counts: Ints, user: Ints) -> Ints:
    """The index of each entry among its user's, for entries of one user after the other."""
    index: Ints = np.arange(user.size) - (np.cumsum(counts) - counts)[user]
    return index


def index_from_end(user: Ints, users: int) -> Ints:
    """The index of each entry among its user's, counted from the last: 0 for the last."""
    index: Ints = np.cumsum(np.bincount(user, minlength=users))[user] - 1 - np.arange(user.size)
    return index


def derived_ids(
    item_key: Ints, time_ms: Ints, type_key: Ints | None = None, event_types: EventTypes | None = None
) -> Ints:
    """The ids of events that come without, ``[events]``: the same item, time and type is the same event.

    An event of the first type has the id of one without a type.

    Args:
        item_key: ``[events]``.
        time_ms: ``[events]``.
        type_key: ``[events]``; None for events without a type.
        event_types: Of the export; None for none.
    """
    derived: Ints = item_key ^ mixed(time_ms.view(np.uint64)).view(np.int64)
    if type_key is not None and event_types is not None:
        is_other = (type_key != UNTYPED) & (type_key != event_types.key[0])
        derived ^= np.where(is_other, mixed(type_key.view(np.uint64)).view(np.int64), 0)
    return derived


def mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A bijection of 64-bit numbers whose every bit depends on every bit (the finaliser of SplitMix64)."""
    mixed = values ^ (values >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
