"""The part of a record that belongs to one export: folded sums, and the items of folded events.

Sums are stored as of a landmark, a time before the newest event (forward decay: Cormode et al., ICDE 2009): an event
that is t days after the landmark is added with the weight exp(+lambda_k t), and the decay by age changes nothing that
is stored. So a decay that is too slow for single precision (a pause of seconds at a half-life of years) is never
rounded away. The landmark moves to the newest event when the largest exponent of a weight passes `_LARGEST_EXPONENT`;
what is stored is multiplied then, by factors that single precision can tell from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ebbtide.interest.events import MS_PER_DAY
from ebbtide.interest.parameters import InterestParameters
from ebbtide.interest.record import HALF_PRECISION, HEADER, RecordError, Records, mixed, slices
from ebbtide.interest.state import InterestState

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_LARGEST_EXPONENT = 4.0
"""The squares of weights up to 1e15 stay in single precision: (1e15 e^4)^2 = 3e33."""
_DOUBLE_DIGITS, _SINGLE_DIGITS, _HALF_DIGITS = 52, 23, 10
"""Binary digits after the first."""
_HALF_LARGEST = 15
"""Numbers below 2^15 stay finite in half precision when they are rounded up."""


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
    """``[P, M]``: decayed counts as of the user's `InterestState.as_of_ms`; M = 0 without a repeat score."""

    def take(self, index: Ints | Bools) -> FoldedItems:
        """Those at the indices, or where a mask is true."""
        return FoldedItems(self.user[index], self.item[index], self.newest_ms[index], self.counts[index])


def item_rates(parameters: InterestParameters) -> Doubles:
    """The decay rates of the items' counts per day, ``[M]``; none without a repeat score."""
    if parameters.repeat is None:
        return np.zeros(0)
    return parameters.repeat.decay_rate_per_day.astype(np.float64)


def check_folded(records: Records, parameters: InterestParameters) -> None:
    """Refuses records whose sections of folded events have other sizes than this export's.

    Raises:
        RecordError: For the first of them.
    """
    rates = item_rates(parameters)
    sizes = _section_sizes(records.headers, parameters)
    item_counts = records.headers["item_counts"].tolist()
    for user, (section, (sums, items), width) in enumerate(zip(records.folded, sizes, item_counts, strict=True)):
        if len(section) != sums + items or (items and width != rates.size):
            raise RecordError(
                user,
                f"{len(section)} bytes of folded events with {width} counts an item",
                f"{sums + items} bytes with {rates.size} counts an item",
            )


def decode_folded(records: Records, parameters: InterestParameters) -> tuple[InterestState, FoldedItems]:
    """The folded events of records that `check_folded` accepts, as of their landmarks."""
    headers, d, rates = records.headers, parameters.vector_width, item_rates(parameters)
    counts = np.stack([headers["history"], headers["session"]], axis=1).astype(np.int64)
    sizes = _section_sizes(headers, parameters)
    stored = np.zeros((counts.shape[0], 2, 2, d))
    is_half = headers["flags"] & HALF_PRECISION
    for flag in (0, HALF_PRECISION):
        has_flag = is_half == flag
        if np.count_nonzero(has_flag):
            chosen = zip(records.folded, sizes, has_flag.tolist(), strict=True)
            joined = b"".join([section[:stop] for section, (stop, _), mine in chosen if mine])
            sums = np.frombuffer(joined, dtype="<f2" if flag else "<f4").reshape(-1, 2, d)
            stored[(counts > 0) & has_flag[:, None]] = sums
            if flag:
                stored[has_flag] *= np.exp2(headers["scale"][has_flag].astype(np.float64))[..., None]
    newest_ms, landmark_ms = headers["newest_ms"].astype(np.int64), headers["landmark_ms"].astype(np.int64)
    state = InterestState(newest_ms, landmark_ms, stored[:, :, 0], stored[:, :, 1], counts)

    sections = zip(records.folded, sizes, strict=True)
    joined = b"".join([section[start:] for section, (start, _) in sections])
    entries = np.frombuffer(joined, dtype=_item_type(rates.size))
    user = np.arange(counts.shape[0]).repeat(headers["items"])
    item = entries["item"].astype(np.int64)
    if rates.size == 0:
        return state, FoldedItems(user, item, np.zeros_like(item), np.zeros((item.size, 0)))
    time_ms = entries["time_low"] + (entries["time_high"].astype(np.int64) << 32)
    return state, FoldedItems(user, item, time_ms, entries["counts"].astype(np.float64))


def encode_folded(
    state: InterestState,
    items: FoldedItems,
    landmark_ms: Ints,
    parameters: InterestParameters,
    *,
    half_precision: bool,
) -> tuple[npt.NDArray[np.void], list[bytes]]:
    """The sections of folded events, and their fields of the headers, ``[U]``; all other fields are 0.

    Args:
        state: As of the newest folded events.
        items: Of the same users and times.
        landmark_ms: ``[U]``, the landmarks to keep where they are not too old.
        parameters: Of the export.
        half_precision: Whether to write sums in 16 bits.
    """
    rates = item_rates(parameters)
    fastest = max(parameters.decay_rate_per_day.max(initial=0), rates.max(initial=0))
    moves = (state.time_ms - landmark_ms) / MS_PER_DAY * fastest > _LARGEST_EXPONENT
    landmark_ms = np.where(moves, state.time_ms, landmark_ms)
    days = (state.time_ms - landmark_ms) / MS_PER_DAY
    growth = np.exp(np.outer(days, parameters.decay_rate_per_day))[:, None]
    stored = np.stack([state.sums * growth, state.squares * growth**2], axis=2)

    headers = np.zeros(days.size, dtype=HEADER)
    headers["history"], headers["session"] = state.counts.T
    headers["newest_ms"], headers["landmark_ms"] = state.time_ms, landmark_ms
    item_counts = np.bincount(items.user, minlength=days.size)
    headers["items"], headers["item_counts"] = item_counts, rates.size
    if half_precision:
        headers["flags"] = HALF_PRECISION
        headers["scale"], stored = _scaled(stored)
    digits, dtype = (_HALF_DIGITS, "<f2") if half_precision else (_SINGLE_DIGITS, "<f4")
    sums = _rounded(stored, digits, state.counts.sum(axis=1))[state.counts > 0].astype(dtype).tobytes()

    entries = np.zeros(items.user.size, dtype=_item_type(rates.size))
    entries["item"] = items.item
    if rates.size:
        entries["time_low"], entries["time_high"] = items.newest_ms & 0xFFFFFFFF, items.newest_ms >> 32
        entries["counts"] = items.counts * np.exp(np.outer(days, rates))[items.user]
    sizes = np.array(_section_sizes(headers, parameters))
    sum_sections, item_sections = slices(sums, sizes[:, 0]), slices(entries.tobytes(), sizes[:, 1])
    return headers, [a + b for a, b in zip(sum_sections, item_sections, strict=True)]


def _section_sizes(headers: npt.NDArray[np.void], parameters: InterestParameters) -> list[tuple[int, int]]:
    """Bytes of each record's folded sums, where a half without events has none, and of its items."""
    item_bytes = _item_type(item_rates(parameters).size).itemsize
    numbers = 2 * parameters.vector_width
    columns = [headers[name].tolist() for name in ("history", "session", "flags", "items")]
    return [
        (((history > 0) + (session > 0)) * numbers * (2 if flags & HALF_PRECISION else 4), items * item_bytes)
        for history, session, flags, items in zip(*columns, strict=True)
    ]


@cache
def _item_type(counts: int) -> np.dtype[np.void]:
    """An item's entry with so many decayed counts; without any, the order of the entries is enough."""
    if counts == 0:
        return np.dtype([("item", "<u4")])
    return np.dtype([("item", "<u4"), ("time_low", "<u4"), ("time_high", "<u2"), ("counts", "<f4", (counts,))])


def _rounded(values: Doubles, digits: int, events: Ints) -> Doubles:
    """Numbers ``[U, ...]`` cut to so many binary digits after the first; up or down by chance, right on average.

    So the errors of many updates cancel, where rounding to the nearest would swallow every event that is small beside
    the sum. The chance comes from a hash of the number, its index and the user's folded events ``[U]``: the same update
    gives the same record.
    """
    index = np.arange(values[0].size, dtype=np.uint64).reshape(values[0].shape)
    first = events.astype(np.uint64).reshape(-1, *[1] * index.ndim) * np.uint64(index.size)
    bits = values.view(np.uint64)
    cut = np.uint64((1 << (_DOUBLE_DIGITS - digits)) - 1)
    rounded: Doubles = ((bits + (mixed(bits ^ mixed(first + index)) & cut)) & ~cut).view(np.float64)
    return rounded


def _scaled(stored: Doubles) -> tuple[npt.NDArray[np.int8], Doubles]:
    """Powers of two ``[U, 2, 2]``, and ``stored`` ``[U, 2, 2, d]`` divided by them, so that half precision holds it."""
    _, exponent = np.frexp(np.abs(stored).max(axis=3))
    scale = np.clip(exponent - _HALF_LARGEST, -128, 127)
    return scale.astype(np.int8), np.ldexp(stored, -scale[..., None])
