"""Figures of runs: counts add up, percentiles are those of the records, searches and comparisons judge rightly."""

import grpc
import numpy as np
import pytest

from ebbtide.loadtest import Load, RateProfile, Slo, compare
from ebbtide.loadtest.calibrate import Calibration, generator_limit
from ebbtide.loadtest.resources import Usage
from ebbtide.loadtest.run import Run
from ebbtide.loadtest.samples import (
    OK,
    RECORD,
    Counts,
    Phase,
    errors_by_code,
    histogram,
    percentiles_ms,
    phase_bytes,
    read_phase,
    windows,
)
from ebbtide.loadtest.search import enough_s, find_highest_rate

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]
CANCELLED = grpc.StatusCode.CANCELLED.value[0]


def records_of(took_s, intended_s=None, codes=None):
    records = np.zeros(len(took_s), dtype=RECORD)
    records["took_s"] = took_s
    records["intended_s"] = np.linspace(0, 10, len(took_s), endpoint=False) if intended_s is None else intended_s
    records["code"] = OK if codes is None else codes
    return records


def test_counts_add_up_when_requests_fail_and_are_cancelled():
    records = records_of([0.1] * 6, codes=[OK, OK, UNAVAILABLE, CANCELLED, 4, OK])
    counts = Counts.of(7, records, unsent=2)
    assert (counts.answered, counts.failed, counts.cancelled) == (3, 2, 1)
    assert counts.unaccounted == 1
    assert errors_by_code(records) == {"CANCELLED": 1, "DEADLINE_EXCEEDED": 1, "UNAVAILABLE": 1}


def test_percentiles_are_those_of_the_records_when_read_from_the_histogram():
    took = np.random.default_rng(0).lognormal(-5, 1, 20_000)
    found = percentiles_ms(histogram(records_of(took)))
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
        assert found[name] == pytest.approx(1e3 * np.quantile(took, share, method="higher"), rel=2e-3)
    assert found["max"] == pytest.approx(1e3 * took.max(), rel=2e-3)


def test_windows_count_every_request_when_some_fail():
    codes = [UNAVAILABLE if index % 10 == 0 else OK for index in range(1000)]
    found = windows(records_of(np.full(1000, 0.002), codes=codes), 10.0)
    assert sum(found.failed) == 100
    assert np.sum(found.rate) * found.width_s == pytest.approx(1000)
    assert np.sum(found.throughput) * found.width_s == pytest.approx(900)
    assert found.p50_ms == pytest.approx([2.0] * 10)


def test_phase_comes_back_when_sent():
    phase = Phase(records_of([0.1, 0.2]), sent=2, due=3, duration_s=1.5, began_unix_s=1e9, cpu_s=0.25)
    again = read_phase(phase_bytes(phase))
    assert (again.sent, again.due, again.duration_s, again.counts) == (2, 3, 1.5, phase.counts)
    assert (again.records == phase.records).all()


@pytest.mark.parametrize(
    ("capacity", "cpu_s", "late_s", "words"),
    [
        (1_000, 1.0, 0.0, None),
        (150, 1.0, 0.0, "less than 2 times"),
        (1_000, 9.9, 0.0, "busy for 99 %"),
        (1_000, 1.0, 0.005, "5.0 ms late on average"),
    ],
)
def test_generator_says_that_it_is_the_limit_when_it_is(capacity, cpu_s, late_s, words):
    records = records_of(np.full(1_000, 0.01))
    records["late_s"] = late_s
    phase = Phase(records, 1_000, 1_000, 10.0, 0.0, cpu_s)
    found = generator_limit(phase, Calibration(capacity, 100.0))
    assert found is None if words is None else words in found


def simulated_server(capacity, seed, limit=None):
    """Trials of a queue with one server and a fixed time of service: the records of Poisson arrivals for 5 s."""
    random = np.random.default_rng(seed)

    def trial(rate):
        times = np.sort(random.uniform(0, 5, random.poisson(5 * rate)))
        ends, free = np.empty(len(times)), 0.0
        for index, timestamp in enumerate(times):
            free = max(timestamp, free) + 1 / capacity
            ends[index] = free
        phase = Phase(records_of(ends - times, times), len(times), len(times), 5.0, 0.0, 0.1)
        return Run(Load(5.0, RateProfile(rate)), phase, [], Usage(), limit)

    return trial


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_search_finds_the_rate_that_holds_the_objective_when_the_server_is_a_queue(seed):
    slo = Slo.parse("p99<10ms")
    found = find_highest_rate(slo, simulated_server(1_000, seed), 100)
    best, above = found.highest_held.rate, found.lowest_broken.rate
    assert found.is_limit
    assert best < above <= best * 1.06
    # Queueing theory's answer for a fixed time of service of 1 ms: waits have a tail of exp(-2 (1 - load) t) per ms.
    assert best == pytest.approx(770, rel=0.12)
    p99 = [percentiles_ms(histogram(simulated_server(1_000, 99)(best).phase.records))["p99"] for _ in range(5)]
    assert np.mean(p99) < 10
    assert all(3 <= len(level.trials) <= 6 for level in found.levels if level.held)


def test_trial_is_longer_when_its_percentile_is_rare():
    slo = Slo.parse("p50<5ms,p99.9<40ms")
    assert enough_s(slo, 100, 5) == pytest.approx(30)
    assert enough_s(slo, 10_000, 5) == 5


def test_search_reports_no_limit_of_the_server_when_the_generator_is_the_limit():
    found = find_highest_rate(Slo.parse("p99<10ms"), simulated_server(1_000, 0, "the generator is slow"), 400)
    assert found.generator_limit == "the generator is slow"
    assert not found.is_limit


def test_search_holds_nothing_when_requests_are_lost():
    def trial(rate):
        codes = np.where(np.arange(100) % 20 == 0, UNAVAILABLE, OK)
        phase = Phase(records_of(np.full(100, 0.001), codes=codes), 100, 100, 5.0, 0.0, 0.1)
        return Run(Load(5.0, RateProfile(rate)), phase, [], Usage(), None)

    found = find_highest_rate(Slo.parse("p99<10ms"), trial, 8)
    assert found.highest_held is None
    assert "5.00 % of requests had no answer" in found.levels[0].why


def result_of(values, throughput=100.0):
    column = [float(value) for value in values]
    windows = {"throughput": [throughput] * len(column), "p50_ms": column, "p90_ms": column, "p99_ms": column}
    return {
        "ebbtide_loadtest": 1,
        "runs": [{"headline": True, "load": "50/s", "windows": windows}],
        "requests": {"mix": {"recommend": 1.0}},
        "machine": {"processor": "a", "cores": 2},
        "server": {"version": "2"},
        "generator": {"limit": None},
    }


def test_comparison_finds_nothing_when_both_are_of_one_distribution():
    false_alarms = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        pair = [result_of(random.lognormal(1, 0.2, 60)) for _ in range(2)]
        false_alarms += compare(*pair).differences[3].significant
    assert false_alarms <= 4


def test_comparison_finds_the_slower_one_when_it_is_a_fifth_slower():
    random = np.random.default_rng(5)
    first, second = (result_of(random.lognormal(1, 0.2, 60) * factor) for factor in (1, 1.2))
    p99 = compare(first, second).differences[3]
    assert p99.significant
    assert not p99.better
    assert p99.low < 1.2 < p99.high
    assert compare(second, first).differences[3].better
    assert not compare(first, second).differences[0].significant


def test_comparison_warns_when_the_runs_are_not_alike():
    first, second = result_of(range(1, 20)), result_of(range(1, 20))
    second["machine"]["cores"] = 64
    assert compare(first, second).warnings == ["cores: 2 in the first, 64 in the second"]
