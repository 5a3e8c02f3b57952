"""Follows the live popularity counts in the store, for the requests of one served model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ebbtide.interest.live_counts import INDEX_KEY, PARTS, Part, Settings, VersionsInUse, index_numbers, read_parts
from ebbtide.interest.live_prior import LivePrior
from ebbtide.interest.lookup import UNKNOWN
from ebbtide.interest.pipeline import InterestPipeline
from ebbtide.interest.popularity import CountedPopularity, PriorOfOthers
from ebbtide.interest.users import Users

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

POPULARITY_VARIABLE = "EBBTIDE_POPULARITY_SECONDS"
"""Names the seconds between two reads of the counts, or ``off``."""
_DEFAULT_SECONDS = 5.0


def popularity_seconds(environ: Mapping[str, str]) -> float | None:
    """The seconds between two reads of the live counts; None to serve and keep the prior of the export alone.

    Raises:
        ValueError: The variable is neither a positive number nor ``off``.
    """
    return seconds_of(POPULARITY_VARIABLE, environ, _DEFAULT_SECONDS)


def seconds_of(variable: str, environ: Mapping[str, str], default: float) -> float | None:
    """The seconds that a variable names; None for ``off``.

    Raises:
        ValueError: The variable is neither a positive number nor ``off``.
    """
    value = environ.get(variable) or str(default)
    if value == "off":
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = np.nan
    if not 0 < seconds < np.inf:
        raise ValueError(f"{variable}: got {value!r}; expected a number of seconds above 0, or off")
    return seconds


class PopularityReader:
    """Follows the live counts of one version in the store."""

    def __init__(self, pipeline: InterestPipeline, users: Users, counted: CountedPopularity, factors: Floats) -> None:
        """Takes what one export wrote.

        Args:
            pipeline: Answers with the newest prior from each `poll` on.
            users: Of the export.
            counted: What its prior was computed from.
            factors: ``[items, d + p]``; may be memory-mapped.
        """
        self._pipeline = pipeline
        self._users = users
        self._name = Settings.of(counted).name
        self._in_use = VersionsInUse(users, Settings.of(counted))
        self._counted = counted
        self._weight = pipeline.parameters.prior_weight.astype(np.float64)
        self._factors = np.asarray(factors)
        self._frozen = counted.columns() @ self._weight
        self._numbers = np.zeros(PARTS, dtype=np.int64)
        self._parts: dict[int, Part] = {}
        pipeline.prior_of_others = PriorOfOthers(counted, self._weight)

    def poll(self) -> None:
        """Reads what has changed since the last call; the prior stays if it fails.

        Raises:
            StoreError: The store failed.
            ValueError: A record is damaged.
        """
        # So that every server of the store counts for this version from now on.
        self._in_use.announced()
        [record] = self._users.store().read([INDEX_KEY], self._name)
        numbers = index_numbers(record)
        changed = np.flatnonzero(numbers != self._numbers).tolist()
        if not changed:
            return
        for number, part in zip(changed, read_parts(self._users, self._name, changed), strict=True):
            if part is None:
                self._parts.pop(number, None)
            else:
                self._parts[number] = part
        self._numbers = numbers
        others, live = self._count()
        gain = live.columns() @ self._weight - self._frozen
        self._pipeline.prior = LivePrior.of(gain, self._frozen, self._factors)
        self._pipeline.prior_of_others = PriorOfOthers(live, self._weight, float(np.median(gain)), *others)

    def counted(self) -> CountedPopularity:
        """The counts of the export and of the events since then, just after the newest of them."""
        return self._count()[1]

    def _count(self) -> tuple[tuple[Ints, Doubles], CountedPopularity]:
        """Keys and counts of items that the export does not have, and the counts of those that it has."""
        base, parts = self._counted, self._parts.values()
        as_of_ms = max([base.as_of_ms, *(part.as_of_ms + 1 for part in parts)])
        # A half-life without effect has no counts at export.
        rate = np.where(np.isfinite(base.smoothing.events), base.smoothing.decay_rate_per_ms, 0)
        counts = base.counts * np.exp(-rate * (as_of_ms - base.as_of_ms))[:, None]
        had_events = base.counts.any(axis=0)
        keys, columns = [np.empty(0, dtype=np.int64)], [np.empty((rate.size, 0))]
        for part in parts:
            item = self._pipeline.index.find(part.key)
            known = item != UNKNOWN
            of_part = part.counts * np.exp(-rate * (as_of_ms - part.as_of_ms))[:, None]
            is_first = ~(known & had_events[item])
            of_part += is_first * base.smoothing.first_event_bonus * np.exp(-np.outer(rate, as_of_ms - part.first_ms))
            counts[:, item[known]] += of_part[:, known]
            keys.append(part.key[~known])
            columns.append(of_part[:, ~known])
        key, others = np.concatenate(keys), np.concatenate(columns, axis=1)
        order = np.argsort(key)
        return (key[order], others[:, order]), CountedPopularity(base.smoothing, counts, as_of_ms)
