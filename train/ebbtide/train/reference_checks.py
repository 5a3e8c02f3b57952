"""What a request to the reference of the formulas may be: a number or an index that is wrong would score in silence."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ebbtide.interest.time_units import TimeUnit, day, plausible_unit
from ebbtide.train.errors import RequestError


def checked_request(
    items: int,
    text_width: int,
    *,
    item: Sequence[int],
    time_ms: Sequence[int],
    now_ms: int,
    is_current: Sequence[bool] | None,
    weight: Sequence[float] | None,
    alpha: float | None,
    decay_scale: float,
    exclude: Sequence[int],
    text_vectors: npt.NDArray[np.float32] | None,
) -> tuple[list[int], list[int], int, list[int]]:
    """The whole numbers of a request of `score_request`: items, times, now, excluded items.

    Raises:
        RequestError: Names the argument, the value and what was expected.
    """
    texts = 0 if text_vectors is None else len(text_vectors)
    if text_vectors is not None and np.shape(text_vectors) != (texts, text_width):
        raise _error("text_vectors", f"the shape {np.shape(text_vectors)}", f"({texts}, {text_width})")
    indices, excluded = _indices("item", item, items), _indices("exclude", exclude, items)
    now = _whole("now_ms", now_ms)
    times = [_whole(f"time_ms[{index}]", one) for index, one in enumerate(time_ms)]
    for name, given in (("time_ms", times), ("is_current", is_current), ("weight", weight)):
        if given is not None and len(given) != len(indices) + texts:
            raise _error(name, f"{len(given)} entries", f"{len(indices) + texts}, one for each event")
    for index, one in enumerate(times):
        unit = plausible_unit(one)
        if plausible_unit(now) is TimeUnit.ms and unit not in (TimeUnit.ms, None):
            raise _error(f"time_ms[{index}]", one, f"Unix milliseconds: it is {day(one, unit)} in {unit.value}")
        if one > now:
            raise _error(f"time_ms[{index}]", one, f"a time not after now_ms, which is {now}")
    for index, flag in enumerate(is_current if is_current is not None else ()):
        if not isinstance(flag, (bool, np.bool_)):
            raise _error(f"is_current[{index}]", repr(flag), "True or False")
    for index, value in enumerate(weight if weight is not None else ()):
        _finite(f"weight[{index}]", value)
    if alpha is not None and not 0 <= _finite("alpha", alpha) <= 1:
        raise _error("alpha", alpha, "a number from 0 to 1")
    if _finite("decay_scale", decay_scale) < 0:
        raise _error("decay_scale", decay_scale, "0 or more")
    return indices, times, now, excluded


def _indices(name: str, values: Sequence[int], items: int) -> list[int]:
    found = [_whole(f"{name}[{index}]", one) for index, one in enumerate(values)]
    for index, one in enumerate(found):
        if not 0 <= one < items:
            raise _error(f"{name}[{index}]", one, f"a catalog index from 0 to {items - 1}")
    return found


def _whole(name: str, value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise _error(name, repr(value), "a whole number") from error


def _finite(name: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise _error(name, repr(value), "a finite number") from error
    if not math.isfinite(number):
        raise _error(name, value, "a finite number")
    return number


def _error(name: str, got: object, expected: str) -> RequestError:
    return RequestError(f"{name}: got {got}; expected {expected}")
