"""Which items are out of stock, in the store: their keys and ids, the same for every version of the model.

An item lies in one of `PARTS` shared records, by the leading bits of its key. An index record counts the changes of
each part, as for items that were added: a reader fetches only the parts whose number it does not know.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ebbtide.interest.item_records import PARTS, ItemsIndex, part_of
from ebbtide.interest.stock import MOST_OUT_OF_STOCK
from ebbtide.interest.users import Users
from ebbtide.store import Changes, Snapshot, shared_key

Ints = npt.NDArray[np.int64]

FINGERPRINT = b"stock"
"""What the records are kept under."""
INDEX_KEY = shared_key("stki")
PART_KEYS = tuple(shared_key("stkp", number) for number in range(PARTS))

_FORMAT = 1
_HEAD = struct.Struct("<HI")


class TooManyOutOfStockError(ValueError):
    """More items would be out of stock than servers leave out."""


def encode_stock(items: Mapping[int, bytes]) -> bytes:
    """The items of one part, ids by key, as a record."""
    keys = np.array(list(items), dtype="<i8")
    lengths = np.array([len(item_id) for item_id in items.values()], dtype="<u2")
    return b"".join([_HEAD.pack(_FORMAT, keys.size), keys.tobytes(), lengths.tobytes(), *items.values()])


def decode_keys(record: bytes | None) -> Ints:
    """The keys of the items of a record, ``[items]``; none without a record.

    Raises:
        ValueError: The record is damaged, or of a later format.
    """
    if record is None:
        return np.empty(0, dtype=np.int64)
    try:
        found, count = _HEAD.unpack_from(record)
        if found != _FORMAT:
            raise ValueError(f"got format {found}; expected {_FORMAT}")
        return np.frombuffer(record, "<i8", count, _HEAD.size).astype(np.int64)
    except (struct.error, ValueError) as error:
        raise ValueError(f"stock: got a damaged record: {error}") from error


def decode_stock(record: bytes | None) -> dict[int, bytes]:
    """The inverse of `encode_stock`; no items without a record.

    Raises:
        ValueError: The record is damaged, or of a later format.
    """
    keys = decode_keys(record).tolist()
    if record is None:
        return {}
    start = _HEAD.size + 8 * len(keys)
    ends = start + 2 * len(keys) + np.frombuffer(record, "<u2", len(keys), start).astype(np.int64).cumsum()
    starts = [start + 2 * len(keys), *ends.tolist()]
    if starts[-1] != len(record):
        raise ValueError(f"stock: got a damaged record of {len(record)} bytes; expected {starts[-1]}")
    ids = (record[begin:end] for begin, end in pairwise(starts))
    return dict(zip(keys, ids, strict=True))


@dataclass(frozen=True)
class StockChanged:
    """What became of the items of a call."""

    changed: int
    """Items that were in stock and are not any more, or the reverse."""
    total: int
    """Items that are out of stock now."""


class StockStore:
    """Reads and writes which items are out of stock."""

    def __init__(self, users: Users) -> None:
        """Takes the store.

        Args:
            users: Of any export that uses it.
        """
        self._users = users

    def put(self, items: Mapping[int, bytes], in_stock: Sequence[bool]) -> StockChanged:
        """Says of items whether they are in stock.

        Args:
            items: Ids by key.
            in_stock: Of each.

        Raises:
            TooManyOutOfStockError: Too many would be out of stock; nothing has changed.
            StoreError: The store failed; some items may have changed. The call may be repeated.
            ValueError: A record is damaged.
        """
        parts: dict[int, dict[int, bytes | None]] = {}
        for (key, item_id), is_there in zip(items.items(), in_stock, strict=True):
            parts.setdefault(part_of(key), {})[key] = None if is_there else item_id
        numbers = list(parts)
        self._require_room(parts)
        found: dict[int, tuple[int, int]] = {}

        def change(snapshot: Snapshot) -> list[Changes]:
            written: list[Changes] = []
            for position, records in zip(snapshot.indices, snapshot.records, strict=True):
                number = numbers[position]
                before = decode_stock(records.get(FINGERPRINT))
                after = _changed(before, parts[number])
                found[number] = len(before.keys() ^ after.keys()), len(after)
                written.append({FINGERPRINT: encode_stock(after)})
            return written

        def raised(snapshot: Snapshot) -> list[Changes]:
            index = ItemsIndex.from_bytes(snapshot.records[0].get(FINGERPRINT))
            for number, (_, size) in found.items():
                index.numbers[number] += 1
                index.sizes[number] = size
            return [{FINGERPRINT: index.to_bytes()}]

        if numbers:
            self._users.store().update([PART_KEYS[number] for number in numbers], change)
            # In a second update: a reader that sees the new numbers must see the new items.
            self._users.store().update([INDEX_KEY], raised)
        return StockChanged(sum(changed for changed, _ in found.values()), self.size())

    def _require_room(self, parts: Mapping[int, Mapping[int, bytes | None]]) -> None:
        """Refuses a change after which too many items would be out of stock.

        Raises:
            TooManyOutOfStockError: They would.
        """
        if all(item_id is None for change in parts.values() for item_id in change.values()):
            return
        sizes = self.index().sizes
        records = self._users.store().read([PART_KEYS[number] for number in parts], FINGERPRINT)
        for (number, change), record in zip(parts.items(), records, strict=True):
            sizes[number] = len(_changed(decode_stock(record), change))
        if sizes.sum() > MOST_OUT_OF_STOCK:
            raise TooManyOutOfStockError(
                f"{sizes.sum()} items out of stock; expected at most {MOST_OUT_OF_STOCK}: export again with a catalog "
                "without those that do not come back"
            )

    def size(self) -> int:
        """Number of items that are out of stock.

        Raises:
            StoreError: The store failed.
            ValueError: The index is damaged.
        """
        return int(self.index().sizes.sum())

    def index(self) -> ItemsIndex:
        """The index.

        Raises:
            StoreError: The store failed.
            ValueError: It is damaged.
        """
        [record] = self._users.store().read([INDEX_KEY], FINGERPRINT)
        return ItemsIndex.from_bytes(record)

    def keys(self, numbers: Sequence[int]) -> list[Ints]:
        """The keys of the items of parts, ``[items]`` each.

        Raises:
            StoreError: The store failed.
            ValueError: A record is damaged.
        """
        records = self._users.store().read([PART_KEYS[number] for number in numbers], FINGERPRINT)
        return [decode_keys(record) for record in records]

    def listed(self, part: int) -> tuple[list[bytes], int]:
        """The ids of the items of the first part that is not empty, from a part on, and the part to go on with.

        Args:
            part: From 0 to `PARTS` - 1.

        Raises:
            StoreError: The store failed.
            ValueError: A record is damaged.
        """
        filled = np.flatnonzero(self.index().sizes[part:]) + part
        if not filled.size:
            return [], 0
        [record] = self._users.store().read([PART_KEYS[int(filled[0])]], FINGERPRINT)
        return list(decode_stock(record).values()), int(filled[1]) if filled.size > 1 else 0


def _changed(before: Mapping[int, bytes], change: Mapping[int, bytes | None]) -> dict[int, bytes]:
    """The items of a part after a change, ids by key; None for an item that is in stock."""
    after = {key: item_id for key, item_id in before.items() if key not in change}
    return after | {key: item_id for key, item_id in change.items() if item_id is not None}
