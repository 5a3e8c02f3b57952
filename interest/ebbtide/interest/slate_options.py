"""What a request says of its slate: the JSON in the tensor `slate`, read and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ebbtide.interest.contract import SLATE
from ebbtide.interest.errors import RequestError

DEFAULT_SIZE = 10
"""Items of a list when the request does not say how many."""
MOST_LIMITS = 32
"""Caps, minimums and exposures of one request, together."""
DIVERSITY_CAUSE, CALIBRATION_CAUSE, FIRST_LIMIT_CAUSE = 0, 1, 2
"""Numbers of the causes that move an item. Those of the limits follow: caps, minimums, exposures, as in the request."""
METHODS = ("mmr", "dpp")
CANDIDATES, RANK, MOVED_BY, RULES = "candidates", "rank", "moved_by", "rules"
RELAXED, RELAXED_VALUE = "relaxed", "relaxed_value"
"""Fields of `contract.SLATE_NOTES`, beside `SIZE`."""
SIZE, DIVERSITY, METHOD, CALIBRATION = "size", "diversity", "method", "calibration"
AT_MOST, AT_LEAST, EXPOSURE = "at_most", "at_least", "exposure"
"""Fields of the options."""
_FIELDS = {SIZE, DIVERSITY, METHOD, CALIBRATION, AT_MOST, AT_LEAST, EXPOSURE}
_KEY_BITS = 63


@dataclass(frozen=True)
class Cap:
    """At most so many items of a value, or of each value of a column."""

    column: str
    key: int | None
    """Of the value; None for each value."""
    count: int


@dataclass(frozen=True)
class Minimum:
    """At least so many items of a value."""

    column: str
    key: int
    count: int


@dataclass(frozen=True)
class Exposure:
    """A share of a value at every position from the top on; see `ebbtide.interest.slate_exposure`."""

    column: str
    key: int
    share: float
    significance: float


@dataclass(frozen=True)
class SlateOptions:
    """What the list shall be like."""

    size: int = 0
    """0: `DEFAULT_SIZE`, or fewer where there are fewer candidates."""
    diversity: float = 0.0
    method: str = METHODS[0]
    at_most: tuple[Cap, ...] = ()
    at_least: tuple[Minimum, ...] = ()
    calibrated_column: str = ""
    """Empty: no calibration."""
    calibration: float = 0.0
    exposure: tuple[Exposure, ...] = ()

    @classmethod
    def parse(cls, text: bytes) -> SlateOptions:
        """Reads the tensor.

        Args:
            text: A JSON object, see `contract.SLATE`; empty for a list without wishes.

        Raises:
            RequestError: It is not one, or a number is out of its range.
        """
        if not text:
            return cls()
        try:
            found = json.loads(text)
            unknown = found.keys() - _FIELDS
            if unknown:
                raise _refused(f"field {sorted(unknown)[0]!r}", f"one of {', '.join(sorted(_FIELDS))}")
            column, weight = found.get(CALIBRATION, ("", 0.0))
            options = cls(
                int(found.get(SIZE, 0)),
                float(found.get(DIVERSITY, 0.0)),
                str(found.get(METHOD, METHODS[0])),
                tuple(Cap(str(of), None if key is None else int(key), int(n)) for of, key, n in found.get(AT_MOST, ())),
                tuple(Minimum(str(of), int(key), int(n)) for of, key, n in found.get(AT_LEAST, ())),
                str(column),
                float(weight),
                tuple(
                    Exposure(str(of), int(key), float(share), float(significance))
                    for of, key, share, significance in found.get(EXPOSURE, ())
                ),
            )
        except RequestError:
            raise
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise _refused(f"{error!r}", "a JSON object as the client writes it") from error
        options.check()
        return options

    def check(self) -> None:
        """Refuses numbers out of their ranges.

        Raises:
            RequestError: Names the first.
        """
        _in_range("size", self.size, 0, 2**31 - 1)
        _in_range("diversity", self.diversity, 0, 1)
        _in_range("calibration weight", self.calibration, 0, 1)
        if self.method not in METHODS:
            raise _refused(f"method {self.method!r}", f"one of {', '.join(METHODS)}")
        limits = self.limits
        if len(limits) > MOST_LIMITS:
            raise _refused(f"{len(limits)} caps, minimums and exposures", f"at most {MOST_LIMITS}")
        for number, limit in enumerate(self.at_most):
            _in_range(f"count of at_most[{number}]", limit.count, 0, 2**31 - 1)
        for number, least in enumerate(self.at_least):
            _in_range(f"count of at_least[{number}]", least.count, 1, 2**31 - 1)
        for number, exposed in enumerate(self.exposure):
            for name, value in (("share", exposed.share), ("significance", exposed.significance)):
                if not 0 < value < 1:
                    raise _refused(f"{name} {value} of exposure[{number}]", "a number above 0 and below 1")
        keys: list[int] = [limit.key for limit in limits if limit.key is not None]
        if any(not -(2**_KEY_BITS) <= key < 2**_KEY_BITS for key in keys):
            raise _refused("a key of more than 64 bits", "a signed 64-bit key of an attribute value")

    @property
    def limits(self) -> Sequence[Cap | Minimum | Exposure]:
        """Caps, minimums and exposures, in the order of their causes."""
        return (*self.at_most, *self.at_least, *self.exposure)


def refused_limit(options: SlateOptions, cause: int, expected: str) -> RequestError:
    """The error of a limit whose column or value the export does not have.

    Args:
        options: With the limit.
        cause: Its number.
        expected: What would have been accepted.
    """
    number = cause - FIRST_LIMIT_CAUSE
    for name, group in ((AT_MOST, options.at_most), (AT_LEAST, options.at_least), (EXPOSURE, options.exposure)):
        if number < len(group):
            limit = group[number]
            value = "" if limit.key is None else f", key {limit.key}"
            return _refused(f"{name}[{number}] of column {limit.column!r}{value}", expected)
        number -= len(group)
    raise IndexError(cause)


def refused_calibration(column: str, expected: str) -> RequestError:
    """The error of a calibration by a column that the export does not have."""
    return _refused(f"calibration by column {column!r}", expected)


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        raise _refused(f"{name} {value}", f"from {least} to {most}")


def _refused(value: str, expected: str) -> RequestError:
    return RequestError(SLATE.name, value, expected)
