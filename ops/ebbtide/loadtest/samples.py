"""The outcome of every request of a run, and figures from it: counts, percentiles, values per window."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

RECORD = np.dtype(
    [
        ("endpoint", np.uint8),
        ("code", np.uint8),
        ("intended_s", np.float64),
        ("late_s", np.float32),
        ("took_s", np.float64),
    ]
)
"""One request: index of its endpoint in the mix; gRPC status; when it was due, from the run's start; how
much later it was sent; and its latency, from the due time to the answer or error."""

Records = npt.NDArray[Any]
"""``[requests]`` of `RECORD`."""

OK = 0
CANCELLED = int(grpc.StatusCode.CANCELLED.value[0])

PERCENTILES = (50.0, 90.0, 99.0, 99.9)

_LOWEST_US, _HIGHEST_US, _DIGITS = 1, 3_600_000_000, 3


class Recorder:
    """Collects the outcomes of requests; it runs for each of them, so it is cheap."""

    def __init__(self) -> None:
        """Starts empty."""
        self._endpoint, self._code = array("B"), array("B")
        self._intended, self._late, self._took = array("d"), array("f"), array("d")

    def add(self, endpoint: int, code: int, intended_s: float, late_s: float, took_s: float) -> None:
        """Adds one finished request; the arguments are the fields of `RECORD`."""
        self._endpoint.append(endpoint)
        self._code.append(code)
        self._intended.append(intended_s)
        self._late.append(late_s)
        self._took.append(took_s)

    def records(self) -> Records:
        """All of them, in the order in which they ended."""
        records = np.empty(len(self._code), dtype=RECORD)
        columns = (self._endpoint, self._code, self._intended, self._late, self._took)
        for name, column in zip(RECORD.names or (), columns, strict=True):
            records[name] = column
        return records


@dataclass(frozen=True)
class Counts:
    """Requests by outcome. `sent` is counted when a request is sent, the others when it ends."""

    sent: int
    answered: int
    failed: int
    cancelled: int
    unsent: int = 0
    """Requests that were due but not sent, since the run was interrupted or the generator could not keep up."""

    @classmethod
    def of(cls, sent: int, records: Records, unsent: int = 0) -> Counts:
        """Counts the ends."""
        answered = int(np.count_nonzero(records["code"] == OK))
        cancelled = int(np.count_nonzero(records["code"] == CANCELLED))
        return cls(sent, answered, len(records) - answered - cancelled, cancelled, unsent)

    @property
    def unaccounted(self) -> int:
        """Requests that were sent and whose outcome is unknown; anything but 0 is a defect of the generator."""
        return self.sent - self.answered - self.failed - self.cancelled

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.sent + other.sent,
            self.answered + other.answered,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            self.unsent + other.unsent,
        )


def errors_by_code(records: Records) -> dict[str, int]:
    """How many requests ended with each gRPC status other than OK, by its name."""
    names = {int(code.value[0]): code.name for code in grpc.StatusCode}
    codes, counts = np.unique(records["code"], return_counts=True)
    return {names[int(code)]: int(count) for code, count in zip(codes, counts, strict=True) if code != OK}


def histogram(records: Records) -> HdrHistogram:
    """An HDR histogram of the latencies of answered requests, in microseconds, exact to 3 digits."""
    filled = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)
    took_us = np.clip(np.rint(records["took_s"][records["code"] == OK] * 1e6), _LOWEST_US, _HIGHEST_US)
    values, counts = np.unique(took_us.astype(np.int64), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        filled.record_value(value, count)
    return filled


def percentiles_ms(filled: HdrHistogram, percentiles: Sequence[float] = PERCENTILES) -> dict[str, float]:
    """Latency percentiles by name (``p50``, ``p999``), and ``mean`` and ``max``, in milliseconds; NaN where empty."""
    if not filled.get_total_count():
        return dict.fromkeys((*map(percentile_name, percentiles), "mean", "max"), float("nan"))
    found = {percentile_name(one): filled.get_value_at_percentile(one) / 1e3 for one in percentiles}
    return {**found, "mean": filled.get_mean_value() / 1e3, "max": filled.get_max_value() / 1e3}


def percentile_name(percentile: float) -> str:
    """``p999`` of 99.9."""
    return "p" + f"{percentile:g}".replace(".", "")


@dataclass(frozen=True)
class Windows:
    """Figures of W windows of equal length, by the time at which each request was due."""

    begin_s: list[float]
    """From the start of the run."""
    width_s: float
    rate: list[float]
    """Requests sent per second."""
    throughput: list[float]
    """Answers to them per second."""
    failed: list[int]
    p50_ms: list[float | None]
    """None for a window without answers."""
    p90_ms: list[float | None]
    p99_ms: list[float | None]


def windows(records: Records, duration_s: float) -> Windows:
    """Figures over time: in windows of one second, longer where there would be more than 240, and at least 8."""
    width = max(1.0, np.ceil(duration_s / 240)) if duration_s >= 8 else duration_s / 8
    count = max(1, int(np.ceil(duration_s / width - 1e-6)))
    index = np.clip((records["intended_s"] / width).astype(np.int64), 0, count - 1)
    answered = records["code"] == OK
    quantiles: list[list[float | None]] = [[], [], []]
    for window in range(count):
        took = records["took_s"][(index == window) & answered]
        found = np.quantile(took, (0.5, 0.9, 0.99)) * 1e3 if len(took) else (None, None, None)
        for column, value in zip(quantiles, found, strict=True):
            column.append(None if value is None else round(float(value), 4))
    lengths = np.minimum(width, duration_s - width * np.arange(count))
    sent = np.bincount(index, minlength=count)
    good = np.bincount(index[answered], minlength=count)
    return Windows(
        begin_s=[round(float(width * window), 3) for window in range(count)],
        width_s=float(width),
        rate=[round(float(value), 3) for value in sent / lengths],
        throughput=[round(float(value), 3) for value in good / lengths],
        failed=(sent - good).tolist(),
        p50_ms=quantiles[0],
        p90_ms=quantiles[1],
        p99_ms=quantiles[2],
    )


@dataclass(frozen=True)
class Phase:
    """One uninterrupted run of load by a generator."""

    records: Records
    sent: int
    """Requests that were sent, counted apart from `records`."""
    due: int
    """Requests that were to be sent; in a closed model each is due when the one before it ends."""
    duration_s: float
    """How long requests were sent."""
    began_unix_s: float
    cpu_s: float
    """Processor time that the generator took."""
    interrupted: bool = False

    @property
    def counts(self) -> Counts:
        """Requests by outcome."""
        return Counts.of(self.sent, self.records, self.due - self.sent)

    @property
    def throughput(self) -> float:
        """Answers per second, until the last of them."""
        answered = self.records[self.records["code"] == OK]
        if not len(answered):
            return 0.0
        end_s = float((answered["intended_s"] + answered["took_s"]).max())
        return len(answered) / max(self.duration_s, end_s)


def phase_bytes(phase: Phase) -> bytes:
    """A phase as NumPy's ``npz``, for another process."""
    facts = [phase.sent, phase.due, phase.duration_s, phase.began_unix_s, phase.cpu_s, phase.interrupted]
    file = BytesIO()
    np.savez(file, records=phase.records, facts=np.array(facts, dtype=np.float64))
    return file.getvalue()


def read_phase(data: bytes) -> Phase:
    """What `phase_bytes` wrote."""
    with np.load(BytesIO(data), allow_pickle=False) as file:
        records, facts = file["records"], file["facts"].tolist()
    sent, due, duration_s, began_unix_s, cpu_s, interrupted = facts
    return Phase(records, int(sent), int(due), duration_s, began_unix_s, cpu_s, bool(interrupted))
