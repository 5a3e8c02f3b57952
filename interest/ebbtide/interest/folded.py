"""The part of a record that belongs to one export: folded sums, and the items of folded events.

Sums are stored as of a landmark, a time before the newest event (forward decay: Cormode et al., ICDE 2009): an event
that is t days after the landmark is added with the weight exp(+lambda_k t), and the decay by age changes nothing that
is stored. So a decay that is too slow for single precision (a pause of seconds at a half-life of years) is never
rounded away. The landmark moves to the newest event when the largest exponent of a weight passes `_LARGEST_EXPONENT`;
what is stored is multiplied then, by factors that single precision can tell from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    """``[P, M]``: decayed counts as of the user's `InterestState.time_ms`; M = 0 without a repeat score."""

    def take(self, index: Ints | Bools) -> FoldedItems:
        """Those at the indices, or where a mask is true."""
        return FoldedItems(self.user[index], self.item[index], self.newest_ms[index], self.counts[index])

    def followed_by(self, other: FoldedItems) -> FoldedItems:
        """These items of each user, then the other ones."""
        user = np.concatenate([self.user, other.user])
        both = FoldedItems(
            user,
            np.concatenate([self.item, other.item]),
            np.concatenate([self.newest_ms, other.newest_ms]),
            np.concatenate([self.counts, other.counts]),
        )
        return both.take(np.argsort(user, kind="stable"))


@dataclass(frozen=True)
class Folded:
    """What some users' records hold of folded events."""

    state: InterestState
    landmark_ms: Ints
    """``[U]``."""
    items: FoldedItems


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
    rates, headers = item_rates(parameters), records.headers
    items = headers["items"].astype(np.int64)
    sizes = _sum_bytes(headers, parameters.vector_width) + items * _item_type(rates.size).itemsize
    lengths = np.fromiter(map(len, records.folded), dtype=np.int64, count=len(records.folded))
    bad = (lengths != sizes) | ((items > 0) & (headers["item_counts"] != rates.size))
    if np.count_nonzero(bad):
        first = int(np.argmax(bad))
        raise RecordError(
            first,
            f"{lengths[first]} bytes of folded events with {headers['item_counts'][first]} counts an item",
            f"{sizes[first]} bytes with {rates.size} counts an item",
        )


def decode_folded(records: Records, parameters: InterestParameters) -> Folded:
    """The folded events of records that `check_folded` accepts."""
    headers, d, rates = records.headers, parameters.vector_width, item_rates(parameters)
    counts = np.stack([headers["history"], headers["session"]], axis=1).astype(np.int64)
    items = headers["items"].astype(np.int64)
    is_half = (headers["flags"] & HALF_PRECISION) > 0
    sum_bytes = _sum_bytes(headers, d)
    stops = list(zip(records.folded, sum_bytes.tolist(), is_half.tolist(), strict=True))
    stored = np.zeros((items.size, 2, 2, d))
    for half, dtype in ((False, "<f4"), (True, "<f2")):
        joined = b"".join([one[:stop] for one, stop, has_half in stops if has_half is half])
        stored[(counts > 0) & (is_half == half)[:, None]] = np.frombuffer(joined, dtype=dtype).reshape(-1, 2, d)
    stored *= np.where(is_half[:, None, None], np.exp2(headers["scale"].astype(np.float64)), 1.0)[..., None]

    newest_ms, landmark_ms = headers["newest_ms"].astype(np.int64), headers["landmark_ms"].astype(np.int64)
    decay = np.exp(-_exponents(newest_ms - landmark_ms, parameters.decay_rate_per_day))[:, None]
    state = InterestState(newest_ms, stored[:, :, 0] * decay, stored[:, :, 1] * decay**2, counts)

    entries = np.frombuffer(b"".join([one[stop:] for one, stop, _ in stops]), dtype=_item_type(rates.size))
    user = np.arange(items.size).repeat(items)
    item_decay = np.exp(-_exponents(newest_ms - landmark_ms, rates))[user]
    return Folded(
        state,
        landmark_ms,
        FoldedItems(
            user,
            entries["item"].astype(np.int64),
            entries["time_low"] + (entries["time_high"].astype(np.int64) << 32) if rates.size else np.zeros_like(user),
            entries["counts"] * item_decay if rates.size else np.zeros((user.size, 0)),
        ),
    )


def encode_folded(
    folded: Folded, parameters: InterestParameters, *, half_precision: bool
) -> tuple[npt.NDArray[np.void], list[bytes]]:
    """The sections of folded events, and their fields of the headers, ``[U]``; all other fields are 0.

    Args:
        folded: Their landmarks may be older than what the records keep.
        parameters: Of the export.
        half_precision: Whether to write sums in 16 bits.
    """
    state, items, rates = folded.state, folded.items, item_rates(parameters)
    users = state.time_ms.shape[0]
    fastest = max(parameters.decay_rate_per_day.max(initial=0), rates.max(initial=0))
    moves = (state.time_ms - folded.landmark_ms) / MS_PER_DAY * fastest > _LARGEST_EXPONENT
    landmark_ms = np.where(moves, state.time_ms, folded.landmark_ms)
    since_ms = state.time_ms - landmark_ms
    growth = np.exp(_exponents(since_ms, parameters.decay_rate_per_day))[:, None]
    stored = np.stack([state.sums * growth, state.squares * growth**2], axis=2)

    headers = np.zeros(users, dtype=HEADER)
    headers["history"], headers["session"] = state.counts.T
    headers["newest_ms"], headers["landmark_ms"] = state.time_ms, landmark_ms
    item_counts = np.bincount(items.user, minlength=users)
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
        entries["counts"] = items.counts * np.exp(_exponents(since_ms, rates))[items.user]
    sum_sections = slices(sums, _sum_bytes(headers, parameters.vector_width))
    item_sections = slices(entries.tobytes(), item_counts * entries.dtype.itemsize)
    return headers, [a + b for a, b in zip(sum_sections, item_sections, strict=True)]


def _sum_bytes(headers: npt.NDArray[np.void], dimensions: int) -> Ints:
    """Bytes of each record's folded sums, ``[U]``; a half without events has none."""
    halves: Ints = (headers["history"] > 0).astype(np.int64) + (headers["session"] > 0)
    halves *= 2 * dimensions
    halves *= np.where(headers["flags"] & HALF_PRECISION, 2, 4)
    return halves


def _exponents(since_ms: Ints, rate_per_day: npt.NDArray[Any]) -> Doubles:
    """The exponents of the decay by age, ``[U, rates]``."""
    exponents: Doubles = np.outer(since_ms / MS_PER_DAY, rate_per_day)
    return exponents


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
