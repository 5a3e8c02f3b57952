"""Durations, the mix of endpoints and the objective, read from the text of options."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ebbtide.loadtest.errors import LoadTestError

_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>ms|s|m|min|h|)")
_SECONDS = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_LATENCY = re.compile(r"p(?P<percentile>\d{1,2}(\.\d+)?)\s*<=?\s*(?P<limit>\d.*)")
_ERRORS = re.compile(r"errors\s*<=?\s*(?P<share>\d+(\.\d+)?)\s*%")


def parse_duration(field: str, text: str) -> float:
    """Seconds of a duration such as ``30s``, ``3m`` or ``500ms``; a bare number is seconds.

    Raises:
        LoadTestError: It is none, or zero; the error names `field`.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match["number"]) * _SECONDS[match["unit"]] if match else 0.0
    if seconds <= 0:
        raise LoadTestError.of_field(field, text, "a duration above 0 such as 30s, 3m or 500ms")
    return seconds


def parse_mix(text: str, known: tuple[str, ...]) -> dict[str, float]:
    """The share of each endpoint, adding up to 1, from ``recommend=8,embed=1``.

    Args:
        text: Endpoints with weights; one without a weight weighs 1.
        known: Endpoints that there are.

    Raises:
        LoadTestError: An endpoint that is not known or is named twice, or a weight that is not above 0.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in known or name in weights:
            raise LoadTestError.of_field("mix", part.strip(), f"each once, with a weight, of {', '.join(known)}")
        weights[name] = _number("mix", number or "1")
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def parse_levels(field: str, text: str) -> tuple[float, ...]:
    """One or more numbers above 0, separated by commas.

    Raises:
        LoadTestError: One of them is not; the error names `field`.
    """
    return tuple(_number(field, part) for part in text.split(","))


def _number(field: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise LoadTestError.of_field(field, text.strip(), "a number above 0")
    return number


@dataclass(frozen=True)
class Slo:
    """A service level objective: percentiles of latency with limits, and a limit on errors."""

    latency_limit_ms: Mapping[float, float]
    """Limit for each percentile, 0 to 100."""
    error_share: float = 0.001
    """Largest share of requests without an answer; 0.1 % unless given."""

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Reads ``p99<20ms`` or ``p50<5ms,p99.9<40ms,errors<0.5%``.

        Raises:
            LoadTestError: It says something else, or nothing of latency.
        """
        limits: dict[float, float] = {}
        errors = cls.error_share
        for part in text.split(","):
            latency, share = _LATENCY.fullmatch(part.strip()), _ERRORS.fullmatch(part.strip())
            if latency:
                limits[float(latency["percentile"])] = parse_duration("slo", latency["limit"]) * 1e3
            elif share:
                errors = float(share["share"]) / 100
            else:
                raise LoadTestError.of_field("slo", part.strip(), "parts such as p99<20ms or errors<0.1%")
        if not limits:
            raise LoadTestError.of_field("slo", text, "at least one percentile with a limit, such as p99<20ms")
        return cls(limits, errors)

    def __str__(self) -> str:
        limits = [f"p{percentile:g}<{limit:g}ms" for percentile, limit in sorted(self.latency_limit_ms.items())]
        return ",".join([*limits, f"errors<{100 * self.error_share:g}%"])
