"""Makes the message of a slate from plain arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ebbtide.client.errors import InvalidArgumentError
from ebbtide.v1 import DiversityMethod, Slate, SlateCalibration, SlateCap, SlateExposure, SlateMinimum

_METHODS = {
    "mmr": DiversityMethod.DIVERSITY_METHOD_MMR,
    "dpp": DiversityMethod.DIVERSITY_METHOD_DPP,
}
DEFAULT_CALIBRATION = 0.5


def slate(
    *,
    diversity: float = 0.0,
    method: Literal["mmr", "dpp"] = "mmr",
    at_most: Mapping[str, int] | None = None,
    at_least: Mapping[str, int] | None = None,
    calibrate: str | Mapping[str, float] | None = None,
    exposure: Mapping[str, float] | None = None,
    significance: float = 0.1,
) -> Slate:
    """What a list shall be like, for the argument `slate` of `InterestClient.recommend` and `explain`.

    Args:
        diversity: How much the items shall differ, 0 to 1: 0 is by score alone.
        method: How difference is measured: ``mmr``, each item against the one before it that is most like it; or
            ``dpp``, each item against all before it together.
        at_most: Caps: of a column, for each of its values, as in ``{"brand": 3}``; or of one value, as in
            ``{"genre=Drama": 2}``.
        at_least: Minimums of values, as in ``{"is_new=true": 2}``. The last ones give way first.
        calibrate: A column whose values shall have the shares that they have in the user's events, as in ``"genre"``;
            or with a weight from 0 to 1, as in ``{"genre": 0.5}``, which is the default.
        exposure: Shares that values shall have at every position, from the top on, as in ``{"maker=small": 0.3}``.
        significance: Of `exposure`: how unlikely a list must be to count as unfair, above 0 and below 1.

    Raises:
        InvalidArgumentError: A minimum or an exposure names no value, a number is no count, or there is more than one
            column to calibrate by.
    """
    if method not in _METHODS:
        raise InvalidArgumentError.of_field("method", repr(method), "'mmr' or 'dpp'")
    found = Slate(diversity=diversity, method=_METHODS[method])
    for name, count in (at_most or {}).items():
        column, equals, value = name.partition("=")
        cap = SlateCap(column=column, count=_count("at_most", name, count))
        if equals:
            cap.value = value
        found.at_most.append(cap)
    for name, count in (at_least or {}).items():
        column, value = _of_value("at_least", name)
        found.at_least.append(SlateMinimum(column=column, value=value, count=_count("at_least", name, count)))
    for name, share in (exposure or {}).items():
        column, value = _of_value("exposure", name)
        found.exposure.append(SlateExposure(column=column, value=value, share=share, significance=significance))
    if calibrate:
        weights = {calibrate: DEFAULT_CALIBRATION} if isinstance(calibrate, str) else dict(calibrate)
        if len(weights) != 1:
            raise InvalidArgumentError.of_field("calibrate", ", ".join(weights), "one column")
        ((column, weight),) = weights.items()
        found.calibration.CopyFrom(SlateCalibration(column=column, weight=weight))
    return found


def _of_value(field: str, name: str) -> tuple[str, str]:
    column, equals, value = name.partition("=")
    if not column or not equals:
        raise InvalidArgumentError.of_field(field, repr(name), "a column and a value, as in 'genre=Drama'")
    return column, value


def _count(field: str, name: str, count: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**31:
        raise InvalidArgumentError.of_field(field, f"{count!r} for {name!r}", "a number of items, 0 or more")
    return count
