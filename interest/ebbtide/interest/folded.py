"""The part of a record that belongs to one export: folded sums, and the items of folded events.

Both are stored as of the newest folded event, in 32 or 16 bits, rounded up or down by chance so that the mean is right.
Rounding to the nearest would lose every decay that is too slow for the precision (a pause of seconds at a half-life of
years), however often it comes, and every event that is small beside a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ebbtide.interest.parameters import InterestParameters
from ebbtide.interest.record import HALF_PRECISION, HEADER, RecordError, Records, mixed, slices
from ebbtide.interest.state import InterestState

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_DOUBLE_DIGITS, _SINGLE_DIGITS, _HALF_DIGITS = 52, 23, 10
"""Binary digits after the first."""
_HALF_LARGEST = 15
"""Numbers below 2^15 stay finite in half precision when they are rounded up."""


@dataclass(frozen=True)
class FoldedItems:
    """The items of folded events: of each user those that matter most, the first of them most; each item once."""

    user: Ints
    """``[pairs]``, ascending."""
    item: Ints
    """``[pairs]``: catalog index."""
    newest_ms: Ints
    """``[pairs]``: time of the newest folded event of the item; of no meaning without a repeat score."""
    counts: Doubles
    """``[pairs, half-lives]``: decayed counts as of the user's newest folded event; M = 0 without a repeat score."""

    def take(self, index: Ints | Bools) -> FoldedItems:
        """Those at the indices, or where a mask is true."""
        return FoldedItems(self.user[index], self.item[index], self.newest_ms[index], self.counts[index])


def item_rates(parameters: InterestParameters) -> Doubles:
    """The decay rates of the items' counts per day, ``[half-lives]``; none without a repeat score."""
    if parameters.repeat is None:
        return np.zeros(0)
    return parameters.repeat.decay_rate_per_day.astype(np.float64)


Sizes = list[tuple[int, int, bool]]
"""Of each record: the bytes of its folded sums, the bytes of its items, and whether the sums are in half precision."""


def check_folded(records: Records, parameters: InterestParameters) -> Sizes:
    """Refuses records whose sections of folded events have other sizes than this export's; returns the sizes.

    Raises:
        RecordError: For the first of them.
    """
    rates = item_rates(parameters)
    sizes = _section_sizes(records.headers, parameters)
    item_counts = records.headers["item_counts"].tolist()
    for user, (section, (sums, items, _), width) in enumerate(zip(records.folded, sizes, item_counts, strict=True)):
        if len(section) != sums + items or (items and width != rates.size):
            raise RecordError(
                user,
                f"{len(section)} bytes of folded events with {width} counts an item",
                f"{sums + items} bytes with {rates.size} counts an item",
            )
    return sizes


def decode_folded(
    records: Records, parameters: InterestParameters, sizes: Sizes | None = None
) -> tuple[InterestState, FoldedItems]:
    """The folded events of records that `check_folded` accepts.

    Args:
        records: Of U users.
        parameters: Of the export.
        sizes: What `check_folded` returned for these records; None to compute them.
    """
    headers, d, rates = records.headers, parameters.vector_width, item_rates(parameters)
    counts = headers["folded"].astype(np.int64)
    sizes = _section_sizes(headers, parameters) if sizes is None else sizes
    stored = np.zeros((counts.shape[0], 2, 2, d))
    filled = np.flatnonzero(counts)
    precisions = [half_precision for _, _, half_precision in sizes]
    for half_precision in set(precisions):
        with_sizes = zip(records.folded, sizes, strict=True)
        joined = b"".join([section[:stop] for section, (stop, _, mine) in with_sizes if mine is half_precision])
        sums = np.frombuffer(joined, dtype="<f2" if half_precision else "<f4").reshape(-1, 2, d)
        # Usually all are of one precision.
        of_these = filled
        if sums.shape[0] != filled.size:
            of_these = filled[np.equal(precisions, half_precision)[filled >> 1]]
        stored.reshape(-1, 2, d)[of_these] = sums
        if half_precision:
            chosen = np.equal(precisions, half_precision)
            stored[chosen] *= np.exp2(headers["scale"][chosen].astype(np.float64))[..., None]
    state = InterestState(headers["newest_ms"].astype(np.int64), stored, counts)

    joined = b"".join([section[start:] for section, (start, _, _) in zip(records.folded, sizes, strict=True)])
    entries = np.frombuffer(joined, dtype=_item_type(rates.size))
    user = np.arange(counts.shape[0]).repeat(headers["items"])
    item = entries["item"].astype(np.int64)
    if rates.size == 0:
        return state, FoldedItems(user, item, np.zeros(item.size, dtype=np.int64), np.zeros((item.size, 0)))
    time_ms = entries["time_low"] + (entries["time_high"].astype(np.int64) << 32)
    return state, FoldedItems(user, item, time_ms, entries["counts"].astype(np.float64))


def encode_folded(
    state: InterestState, items: FoldedItems, parameters: InterestParameters, *, half_precision: bool
) -> tuple[npt.NDArray[np.void], list[bytes]]:
    """The sections of folded events, and their fields of the headers, ``[users]``; all other fields are 0.

    Args:
        state: Of U users.
        items: Of the same users.
        parameters: Of the export.
        half_precision: Whether to write sums in 16 bits.
    """
    half_lives, events = item_rates(parameters).size, state.counts.sum(axis=1)
    headers = np.zeros(events.size, dtype=HEADER)
    headers["folded"], headers["newest_ms"] = state.counts, state.time_ms
    headers["items"], headers["item_counts"] = np.bincount(items.user, minlength=events.size), half_lives
    sums = state.moments
    digits, dtype = _SINGLE_DIGITS, "<f4"
    if half_precision:
        headers["flags"] = HALF_PRECISION
        headers["scale"], sums = _scaled(sums)
        digits, dtype = _HALF_DIGITS, "<f2"
    sum_bytes = _rounded(sums, digits, events)[state.counts > 0].astype(dtype).tobytes()

    entries = np.zeros(items.user.size, dtype=_item_type(half_lives))
    entries["item"] = items.item
    if half_lives:
        entries["time_low"], entries["time_high"] = items.newest_ms & 0xFFFFFFFF, items.newest_ms >> 32
        entries["counts"] = _rounded(items.counts, _SINGLE_DIGITS, events[items.user])
    sizes = _section_sizes(headers, parameters)
    of_both = (np.array([size[part] for size in sizes]) for part in range(2))
    sections = zip(*map(slices, (sum_bytes, entries.tobytes()), of_both), strict=True)
    return headers, [of_sums + of_items for of_sums, of_items in sections]


def _section_sizes(headers: npt.NDArray[np.void], parameters: InterestParameters) -> Sizes:
    """The sizes of each record's sections; a half without events has no sums."""
    item_bytes = _item_type(item_rates(parameters).size).itemsize
    half_bytes = 2 * parameters.vector_width * 2
    columns = [headers[name].tolist() for name in ("folded", "flags", "items")]
    sizes = []
    for (history, session), flags, items in zip(*columns, strict=True):
        half_precision = bool(flags & HALF_PRECISION)
        sums = ((history > 0) + (session > 0)) * (half_bytes if half_precision else 2 * half_bytes)
        sizes.append((sums, items * item_bytes, half_precision))
    return sizes


@cache
def _item_type(counts: int) -> np.dtype[np.void]:
    """An item's entry with so many decayed counts; without any, the order of the entries is enough."""
    if counts == 0:
        return np.dtype([("item", "<u4")])
    return np.dtype([("item", "<u4"), ("time_low", "<u4"), ("time_high", "<u2"), ("counts", "<f4", (counts,))])


def _rounded(values: Doubles, digits: int, events: Ints) -> Doubles:
    """Numbers ``[rows, ...]`` cut to so many binary digits after the first; up or down by chance, right on average.

    The chance comes from a hash of the number, its index and the folded events of the row's user, ``[rows]``: the same
    update gives the same record.
    """
    width = int(np.prod(values.shape[1:]))
    index = np.arange(width, dtype=np.uint64).reshape(values.shape[1:])
    first = events.astype(np.uint64).reshape(-1, *[1] * index.ndim) * np.uint64(width)
    bits = values.view(np.uint64)
    cut = np.uint64((1 << (_DOUBLE_DIGITS - digits)) - 1)
    rounded = mixed(bits ^ mixed(first + index))
    rounded &= cut
    rounded += bits
    rounded &= ~cut
    return rounded.view(np.float64)


def _scaled(stored: Doubles) -> tuple[npt.NDArray[np.int8], Doubles]:
    """Powers of two ``[users, 2, 2]``, and ``stored`` ``[users, 2, 2, d]`` divided by them to fit half precision."""
    _, exponent = np.frexp(np.abs(stored).max(axis=3))
    scale = np.clip(exponent - _HALF_LARGEST, -128, 127)
    return scale.astype(np.int8), np.ldexp(stored, -scale[..., None])
