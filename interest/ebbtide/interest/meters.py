"""What the served models count of their answers, for Triton's metrics page.

Each change of a metric through Triton's Python backend costs a round trip to the server process, 25 us, and counting
one batch with NumPy costs about as much. So a model only keeps the arrays of its batches, below 1 us, and a thread
counts and hands on every few seconds what has come together.

No label is taken from a request, so the number of time series is bounded.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

METRICS_VARIABLE = "EBBTIDE_METRICS"
"""Says whether models show metrics: ``on`` or ``off``, the default."""


def is_on(environ: Mapping[str, str]) -> bool:
    """Whether models show metrics.

    Raises:
        ValueError: The variable has another value.
    """
    value = environ.get(METRICS_VARIABLE) or "off"
    if value not in ("on", "off"):
        raise ValueError(f"{METRICS_VARIABLE}: got {value!r}; expected on or off")
    return value == "on"


class Series(NamedTuple):
    """One time series of the page."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Counter:
    """What only grows."""

    name: str
    meaning: str
    label: str | None = None
    values: tuple[str, ...] = ()
    """All that the label can be."""

    def series(self) -> tuple[Series, ...]:
        """One for each value of the label, in their order."""
        if self.label is None:
            return (Series(self.name),)
        return tuple(Series(self.name, ((self.label, value),)) for value in self.values)


@dataclass(frozen=True)
class Gauge:
    """What is set to a value."""

    name: str
    meaning: str

    def series(self) -> tuple[Series, ...]:
        """None that begin at 0: a gauge says nothing before it is set."""
        return ()


@dataclass(frozen=True)
class Histogram:
    """How often values come between bounds.

    As three counters, since Triton's own histograms take one value in each round trip: PromQL reads both alike.
    """

    name: str
    meaning: str
    bounds: tuple[float, ...]
    """Ascending; a value counts for the first that is not below it."""

    def series(self) -> tuple[Series, ...]:
        """One for each bound, one for all values, then the sum and the number of the values."""
        bounds = [*(f"{bound:.12g}" for bound in self.bounds), "+Inf"]
        buckets = (Series(f"{self.name}_bucket", (("le", bound),)) for bound in bounds)
        return (*buckets, Series(f"{self.name}_sum"), Series(f"{self.name}_count"))


MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0

ANSWERS = Counter(
    "ebbtide_answers_total",
    "Users answered, by the events that the answer knew of them",
    "events",
    ("none", "history", "session", "both"),
)
EVENTS = Counter(
    "ebbtide_events_total",
    "Events behind the answers: those that count, by their part, and those left out since their items are not known",
    "part",
    ("history", "session", "unknown_item"),
)
ALPHA = Histogram(
    "ebbtide_alpha",
    "Share of the long-term interest in the answers to users with a history and a session",
    tuple(tenth / 10 for tenth in range(1, 10)),
)
AGE = Histogram(
    "ebbtide_newest_event_age_seconds",
    "From the newest event of a user to the request's now",
    (MINUTE, 10 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY, 180 * DAY, 720 * DAY),
)
FILTERED = Counter("ebbtide_filtered_answers_total", "Users answered with a filter by attributes")
STATES = Counter(
    "ebbtide_states_total",
    "Users asked for by id, by what became of their states",
    "status",
    ("used", "unknown_user", "unavailable", "raw_only", "partly_scaled"),
)
"""Those of `StateStatus` that tell of a user, in its order."""
STORE_TIME = Histogram(
    "ebbtide_store_seconds",
    "From asking the store of the users' states to its answer, for a whole batch",
    (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0),
)
OBSERVED = Counter(
    "ebbtide_observed_events_total",
    "Events observed, by what became of them; late ones are added too",
    "outcome",
    ("added", "duplicate", "late", "unknown_item"),
)
FAILED = Counter(
    "ebbtide_failed_requests_total",
    "Requests that got an error, by where the fault lies",
    "cause",
    ("request", "store", "model"),
)
POPULARITY_READ = Gauge(
    "ebbtide_popularity_read_timestamp_seconds", "When the live popularity was read last, Unix seconds"
)
ITEMS_READ = Gauge("ebbtide_items_read_timestamp_seconds", "When added items, stock and rules were read last")

Family = Counter | Gauge | Histogram

OF_ANSWERS: tuple[Family, ...] = (ANSWERS, EVENTS, ALPHA, AGE, FILTERED, POPULARITY_READ, ITEMS_READ)
OF_STATES: tuple[Family, ...] = (STATES, STORE_TIME)


Reduce = Callable[["Meters", Sequence[tuple[Any, ...]]], None]
"""Counts what was kept of some batches."""

MOST_KEPT = 65_536
"""Batches that are kept until they are counted, of each kind; the oldest are dropped beyond these."""


class Meters:
    """The counts of one instance of a model. Threads may share it."""

    def __init__(self, families: Sequence[Family]) -> None:
        """Begins at 0.

        Args:
            families: Those that the model has; what is counted of others is dropped.
        """
        self.families = tuple(families)
        self._kept: dict[Reduce, deque[tuple[Any, ...]]] = defaultdict(lambda: deque(maxlen=MOST_KEPT))
        self._counts: dict[str, npt.NDArray[np.float64]] = {}
        self._gauges: dict[str, float] = {}
        self._lock = threading.Lock()
        for family in self.families:
            if isinstance(family, Counter):
                self._counts[family.name] = np.zeros(len(family.series()))
            elif isinstance(family, Histogram):
                # The buckets one by one, then the sum.
                self._counts[family.name] = np.zeros(len(family.bounds) + 2)

    def keep(self, reduce: Reduce, *values: Any) -> None:  # noqa: ANN401 - whatever `reduce` takes
        """Keeps values of a batch, which nobody may change any more, until they are counted.

        Args:
            reduce: What counts them, together with those of other batches.
            values: What it takes of each batch.
        """
        self._kept[reduce].append(values)

    def add(self, family: Counter, *values: float) -> None:
        """Counts so many more.

        Args:
            family: Of the counter.
            values: For each value of its label, in their order.
        """
        if family.name in self._counts:
            with self._lock:
                self._counts[family.name] += values

    def observe(self, family: Histogram, values: npt.NDArray[Any]) -> None:
        """Counts values.

        Args:
            family: Of the histogram.
            values: ``[values]``.
        """
        if family.name not in self._counts:
            return
        more = np.zeros(len(family.bounds) + 2)
        more[:-1] = np.bincount(np.searchsorted(family.bounds, values), minlength=more.size - 1)
        more[-1] = values.sum()
        with self._lock:
            self._counts[family.name] += more

    def set(self, family: Gauge, value: float) -> None:
        """Sets a gauge."""
        if family in self.families:
            with self._lock:
                self._gauges[family.name] = value

    def taken(self) -> Iterator[tuple[Family, Series, float]]:
        """What has been counted since the last call, and the gauges that were set; without zeros."""
        for reduce, kept in list(self._kept.items()):
            # Others come meanwhile; they wait for the next call.
            if batches := [kept.popleft() for _ in range(len(kept))]:
                reduce(self, batches)
        with self._lock:
            counts = {name: counted.copy() for name, counted in self._counts.items()}
            for counted in self._counts.values():
                counted[:] = 0
            gauges, self._gauges = self._gauges, {}
        for family in self.families:
            if isinstance(family, Gauge):
                if family.name in gauges:
                    yield family, Series(family.name), gauges[family.name]
                continue
            values = counts[family.name]
            if isinstance(family, Histogram):
                buckets = values[:-1].cumsum()
                values = np.array([*buckets, values[-1], buckets[-1]])
            for series, value in zip(family.series(), values.tolist(), strict=True):
                if value:
                    yield family, series, value


def count_answers(meters: Meters, batches: Sequence[tuple[Any, ...]]) -> None:
    """Counts users who were answered.

    Args:
        meters: What counts.
        batches: Of each the `event_counts` ``[users, 3]``, `alpha_used` ``[users, 1]`` and hours since the newest event
            ``[users]``.
    """
    events, alpha, idle_hours = (np.concatenate(column) for column in zip(*batches, strict=True))
    has_history, has_session = events[:, 0] > 0, events[:, 1] > 0
    meters.add(ANSWERS, *np.bincount(has_history + 2 * has_session, minlength=len(ANSWERS.values)))
    meters.add(EVENTS, *events.sum(axis=0))
    meters.observe(ALPHA, alpha[has_history & has_session, 0])
    meters.observe(AGE, HOUR * idle_hours[has_history | has_session].astype(np.float64))


def count_filtered(meters: Meters, batches: Sequence[tuple[Any, ...]]) -> None:
    """Counts users who were answered with a filter; of each batch the ``[values]`` users of the allowed values."""
    meters.add(FILTERED, sum(np.unique(user).size for (user,) in batches))


def count_states(meters: Meters, batches: Sequence[tuple[Any, ...]]) -> None:
    """Counts what became of states; of each answer its `state_status`."""
    status = np.concatenate([status for (status,) in batches], axis=None)
    # The first status is that of a request without a user.
    meters.add(STATES, *np.bincount(status, minlength=1 + len(STATES.values))[1:])


def count_times(meters: Meters, batches: Sequence[tuple[Any, ...]]) -> None:
    """Counts how long the store took; of each batch the seconds."""
    meters.observe(STORE_TIME, np.array([seconds for (seconds,) in batches]))


def count_observed(meters: Meters, batches: Sequence[tuple[Any, ...]]) -> None:
    """Counts what became of observed events; of each batch the output `observed`, ``[users, 4]``."""
    meters.add(OBSERVED, *np.concatenate([counts for (counts,) in batches]).sum(axis=0))
