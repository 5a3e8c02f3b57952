"""Items that were added to a running server, in the store: for each set of states their vectors, and what lists show.

An item lies in one of `PARTS` shared records, by the leading bits of its key; its details lie in another one, so that
servers read only what they need. An index record counts the changes of each part: a reader fetches only the parts whose
number it does not know. Numbers are raised after the parts were written. The index also gives each new item its slot,
which is never used again. All records carry the fingerprint of the states, whose records of users hold slots.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ebbtide.interest.new_items import END_OF_INDICES, MOST_NEW_ITEMS, NewItem
from ebbtide.interest.users import Users
from ebbtide.store import Changes, Snapshot, shared_key

Ints = npt.NDArray[np.int64]

PARTS = 64
"""Records that hold the items of one set of states."""
INDEX_KEY = shared_key("itmi")
PART_KEYS = tuple(shared_key("itmp", number) for number in range(PARTS))
DETAILS_KEYS = tuple(shared_key("itmd", number) for number in range(PARTS))

_PART_SHIFT = 58
_FORMAT = 2
_INDEX_HEAD = struct.Struct("<HI")
_PART_HEAD = struct.Struct("<HHI")
_ITEM = struct.Struct("<qqIHHf")


class TooManyItemsError(ValueError):
    """More items would be there than servers take beside those of an export."""


def part_of(key: int) -> int:
    """The part of an item."""
    return (key >> _PART_SHIFT) + PARTS // 2


@dataclass(frozen=True)
class ItemsIndex:
    """The index record."""

    next_slot: int
    numbers: Ints
    """``[PARTS]``: of the last change of each part."""
    sizes: Ints
    """``[PARTS]``: items of each part."""

    @classmethod
    def from_bytes(cls, record: bytes | None) -> ItemsIndex:
        """The inverse of `to_bytes`; no items without a record.

        Raises:
            ValueError: The record is damaged, or of a later format.
        """
        if record is None:
            return cls(0, np.zeros(PARTS, dtype=np.int64), np.zeros(PARTS, dtype=np.int64))
        expected = _INDEX_HEAD.size + 8 * PARTS
        if len(record) != expected:
            raise ValueError(f"index of added items: got {len(record)} bytes; expected {expected}")
        found, next_slot = _INDEX_HEAD.unpack_from(record)
        _require_format(found)
        columns = np.frombuffer(record, dtype="<u4", offset=_INDEX_HEAD.size).astype(np.int64).reshape(2, PARTS)
        return cls(next_slot, columns[0], columns[1])

    def to_bytes(self) -> bytes:
        """The index as a record."""
        columns = np.stack([self.numbers, self.sizes]).astype("<u4").tobytes()
        return _INDEX_HEAD.pack(_FORMAT, self.next_slot) + columns


def encode_part(items: Sequence[NewItem]) -> bytes:
    """Items of one part as a record."""
    width = items[0].vector.size if items else 0
    pieces = [_PART_HEAD.pack(_FORMAT, width, len(items))]
    for item in items:
        pieces += [
            _ITEM.pack(item.key, item.added_ms, item.slot, len(item.item_id), len(item.attributes), item.repeat_bias),
            item.vector.astype("<f4").tobytes(),
            item.factor.astype("<f4").tobytes(),
            np.array(item.attributes, dtype="<i8").tobytes(),
            item.item_id,
        ]
    return b"".join(pieces)


def decode_part(record: bytes | None) -> list[NewItem]:
    """The inverse of `encode_part`; no items without a record.

    Raises:
        ValueError: The record is damaged, or of a later format.
    """
    if record is None:
        return []
    try:
        found, width, count = _PART_HEAD.unpack_from(record)
        _require_format(found)
        items, start = [], _PART_HEAD.size
        for _ in range(count):
            key, added_ms, slot, id_bytes, attributes, repeat_bias = _ITEM.unpack_from(record, start)
            start += _ITEM.size
            vectors = np.frombuffer(record, "<f4", 2 * width, start).astype(np.float32).reshape(2, width)
            start += 8 * width
            values = np.frombuffer(record, "<i8", attributes, start)
            start += values.nbytes
            item_id = record[start : start + id_bytes]
            start += id_bytes
            attribute_keys = tuple(values.tolist())
            items.append(NewItem(key, slot, added_ms, item_id, attribute_keys, repeat_bias, vectors[0], vectors[1]))
    except (struct.error, ValueError) as error:
        raise ValueError(f"added items: got a damaged record: {error}") from error
    if start != len(record):
        raise ValueError(f"added items: got a damaged record of {len(record)} bytes; expected {start}")
    return items


def _require_format(found: int) -> None:
    if found != _FORMAT:
        raise ValueError(f"added items: got format {found}; expected {_FORMAT}")


@dataclass
class Changed:
    """What became of the items of a call."""

    added: int = 0
    replaced: int = 0
    removed: int = 0
    unknown: int = 0
    """Left out: nobody added them."""
    total: int = 0
    """Items that are there now."""


@dataclass(frozen=True)
class Details:
    """A part of the list of items."""

    item_id: list[bytes]
    details: list[bytes]
    next_part: int
    """0 at the end."""


@dataclass
class _Outcome:
    """What an update wrote into one part; a later attempt replaces it."""

    size: int = 0
    added: int = 0
    replaced: int = 0
    removed: int = 0
    unknown: int = 0


@dataclass
class _PartChange:
    """The items of one part that are added or removed."""

    items: dict[int, tuple[NewItem, str]] = field(default_factory=dict)
    removes: set[int] = field(default_factory=set)


class ItemStore:
    """Reads and writes the added items of one set of states."""

    def __init__(self, users: Users) -> None:
        """Takes the store.

        Args:
            users: Of the export.
        """
        self._users = users

    def put(self, items: Sequence[tuple[NewItem, str]], *, only_update: bool = False) -> Changed:
        """Adds items, or replaces those that are there, which keep their slots and the times when they were added.

        Args:
            items: With their details, UTF-8; slots are given here. Of two with one key the later counts.
            only_update: Whether to leave out those that are not there.

        Raises:
            TooManyItemsError: Too many would be there.
            StoreError: The store failed; some items may be there. The call may be repeated.
            ValueError: A record is damaged.
        """
        wanted = {item.key: (item, details) for item, details in items}
        parts = sorted({part_of(key) for key in wanted})
        found = self._users.store().read([PART_KEYS[part] for part in parts], self._users.fingerprint)
        there = {item.key for record in found for item in decode_part(record)}
        new = [] if only_update else [key for key in wanted if key not in there]
        slots = dict(zip(new, self._slots(len(new)), strict=True)) if new else {}
        changes: dict[int, _PartChange] = {part: _PartChange() for part in parts}
        for key, (item, details) in wanted.items():
            changes[part_of(key)].items[key] = (replace(item, slot=slots.get(key, -1)), details)
        return self._apply(changes)

    def remove(self, keys: Sequence[int]) -> Changed:
        """Removes items; their slots are not used again.

        Raises:
            StoreError: The store failed; some items may be removed. The call may be repeated.
            ValueError: A record is damaged.
        """
        changes: dict[int, _PartChange] = {}
        for key in keys:
            changes.setdefault(part_of(key), _PartChange()).removes.add(key)
        return self._apply(changes)

    def size(self) -> int:
        """Number of items that are there.

        Raises:
            StoreError: The store failed.
            ValueError: The index is damaged.
        """
        return int(self.index().sizes.sum())

    def added(self, keys: Sequence[int]) -> set[int]:
        """The keys among given ones of items that are there.

        Raises:
            StoreError: The store failed.
            ValueError: A record is damaged.
        """
        parts = sorted({part_of(key) for key in keys}) if keys and self.size() else []
        return {item.key for items in self.parts(parts) for item in items} & set(keys)

    def index(self) -> ItemsIndex:
        """The index.

        Raises:
            StoreError: The store failed.
            ValueError: It is damaged.
        """
        [record] = self._users.store().read([INDEX_KEY], self._users.fingerprint)
        return ItemsIndex.from_bytes(record)

    def parts(self, numbers: Sequence[int]) -> list[list[NewItem]]:
        """The items of parts.

        Raises:
            StoreError: The store failed.
            ValueError: A record is damaged.
        """
        records = self._users.store().read([PART_KEYS[number] for number in numbers], self._users.fingerprint)
        return [decode_part(record) for record in records]

    def details(self, part: int) -> Details:
        """The details of the items of the first part that is not empty, from a part on.

        Args:
            part: From 0 to `PARTS` - 1.

        Raises:
            StoreError: The store failed.
            ValueError: A record is damaged.
        """
        filled = np.flatnonzero(self.index().sizes[part:]) + part
        if not filled.size:
            return Details([], [], 0)
        first = int(filled[0])
        [record] = self._users.store().read([DETAILS_KEYS[first]], self._users.fingerprint)
        named = _decode_details(record)
        return Details(
            [item_id.encode() for item_id, _ in named.values()],
            [details.encode() for _, details in named.values()],
            int(filled[1]) if filled.size > 1 else 0,
        )

    def _slots(self, count: int) -> range:
        """Slots for new items.

        Raises:
            TooManyItemsError: Too many items would be there.
        """
        given = range(0)

        def take(snapshot: Snapshot) -> list[Changes]:
            nonlocal given
            index = ItemsIndex.from_bytes(snapshot.records[0].get(self._users.fingerprint))
            given = range(index.next_slot, index.next_slot + count)
            size = int(index.sizes.sum())
            if size + count > MOST_NEW_ITEMS or given.stop >= END_OF_INDICES // 2:
                raise TooManyItemsError(
                    f"{count} new items beside {size} that were added since the export; expected at most "
                    f"{MOST_NEW_ITEMS} in all: train or export again with a catalog that has them"
                )
            return [{self._users.fingerprint: replace(index, next_slot=given.stop).to_bytes()}]

        self._users.store().update([INDEX_KEY], take)
        return given

    def _apply(self, changes: Mapping[int, _PartChange]) -> Changed:
        parts = list(changes)
        outcomes: dict[int, _Outcome] = {}
        keys = [key for part in parts for key in (PART_KEYS[part], DETAILS_KEYS[part])]
        fingerprint = self._users.fingerprint

        def change(snapshot: Snapshot) -> list[Changes]:
            written: list[Changes] = []
            for position, records in zip(snapshot.indices, snapshot.records, strict=True):
                part, is_details = parts[position // 2], position % 2
                record = records.get(fingerprint)
                if is_details:
                    written.append({fingerprint: _changed_details(record, changes[part])})
                else:
                    outcomes[part], after = _changed_part(record, changes[part])
                    written.append({fingerprint: after})
            return written

        if parts:
            self._users.store().update(keys, change)
            # In a second update: a reader that sees the new numbers must see the new items.
            self._users.store().update([INDEX_KEY], lambda snapshot: [self._raised(snapshot, outcomes)])
        found = outcomes.values()
        return Changed(
            sum(one.added for one in found),
            sum(one.replaced for one in found),
            sum(one.removed for one in found),
            sum(one.unknown for one in found),
            self.size(),
        )

    def _raised(self, snapshot: Snapshot, outcomes: Mapping[int, _Outcome]) -> Changes:
        index = ItemsIndex.from_bytes(snapshot.records[0].get(self._users.fingerprint))
        for part, outcome in outcomes.items():
            index.numbers[part] += 1
            index.sizes[part] = outcome.size
        return {self._users.fingerprint: index.to_bytes()}


def _changed_part(record: bytes | None, change: _PartChange) -> tuple[_Outcome, bytes]:
    """What a change does to a part, and the part after it."""
    items = {item.key: item for item in decode_part(record)}
    outcome = _Outcome()
    for key in change.removes:
        if items.pop(key, None) is None:
            outcome.unknown += 1
        else:
            outcome.removed += 1
    for key, (item, _) in change.items.items():
        before = items.get(key)
        if before is None and item.slot < 0:
            outcome.unknown += 1
            continue
        outcome.added += before is None
        outcome.replaced += before is not None
        items[key] = item if before is None else replace(item, slot=before.slot, added_ms=before.added_ms)
    outcome.size = len(items)
    return outcome, encode_part(list(items.values()))


def _changed_details(record: bytes | None, change: _PartChange) -> bytes:
    """The details of a part after a change."""
    named = _decode_details(record)
    for key in change.removes:
        named.pop(key, None)
    for key, (item, details) in change.items.items():
        if key in named or item.slot >= 0:
            named[key] = (item.item_id.decode(), details)
    return json.dumps({str(key): pair for key, pair in named.items()}, ensure_ascii=False).encode()


def _decode_details(record: bytes | None) -> dict[int, tuple[str, str]]:
    """Id and details of each item of a part, by key."""
    if record is None:
        return {}
    return {int(key): (item_id, details) for key, (item_id, details) in json.loads(record).items()}
