"""What models count: by batches kept, with the bounds and labels of the families."""

import threading

import numpy as np
import pytest

from ebbtide.interest import meters as meters_module
from ebbtide.interest.contract import StateStatus
from ebbtide.interest.meters import (
    OF_ANSWERS,
    STATES,
    Counter,
    Gauge,
    Histogram,
    Meters,
    count_answers,
    count_states,
    is_on,
)

EVENTS = Counter("events_total", "Events", "kind", ("old", "new"))
SECONDS = Histogram("seconds", "Seconds", (0.5, 2))
READ = Gauge("read_timestamp_seconds", "Last read")


def taken(meters):
    return {(series.name, *dict(series.labels).values()): value for _, series, value in meters.taken()}


@pytest.mark.parametrize(("value", "expected"), [(None, False), ("", False), ("off", False), ("on", True)])
def test_metrics_are_on_only_if_the_environment_says_so(value, expected):
    assert is_on({} if value is None else {"EBBTIDE_METRICS": value}) is expected


def test_setting_is_refused_when_it_is_neither_on_nor_off():
    with pytest.raises(ValueError, match="EBBTIDE_METRICS: got 'yes'; expected on or off"):
        is_on({"EBBTIDE_METRICS": "yes"})


def test_counts_are_those_since_the_last_call_when_they_are_taken():
    meters = Meters([EVENTS])
    meters.add(EVENTS, 2, 0)
    assert taken(meters) == {("events_total", "old"): 2}
    meters.add(EVENTS, 1, 1)
    assert taken(meters) == {("events_total", "old"): 1, ("events_total", "new"): 1}
    assert taken(meters) == {}


def test_buckets_hold_the_values_up_to_their_bounds_when_a_histogram_is_taken():
    meters = Meters([SECONDS])
    meters.observe(SECONDS, np.array([0.25, 0.5, 0.75, 2, 3]))
    assert taken(meters) == {
        ("seconds_bucket", "0.5"): 2,
        ("seconds_bucket", "2"): 4,
        ("seconds_bucket", "+Inf"): 5,
        ("seconds_sum",): 6.5,
        ("seconds_count",): 5,
    }


def test_gauge_is_told_only_after_it_was_set():
    meters = Meters([READ])
    assert taken(meters) == {}
    meters.set(READ, 0)
    assert taken(meters) == {("read_timestamp_seconds",): 0}


def test_what_a_model_does_not_count_is_dropped():
    meters = Meters([])
    meters.add(EVENTS, 1, 1)
    meters.observe(SECONDS, np.array([1.0]))
    meters.set(READ, 1)
    assert taken(meters) == {}


def test_batches_are_counted_once_when_threads_keep_and_take_them():
    def count(meters, batches):
        meters.add(EVENTS, sum(size for (size,) in batches), 0)

    def keep():
        for _ in range(1_000):
            meters.keep(count, 1)

    meters, total = Meters([EVENTS]), 0.0
    threads = [threading.Thread(target=keep) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        total += sum(taken(meters).values())
    assert total + sum(taken(meters).values()) == 4_000


def test_oldest_batches_are_dropped_when_nobody_counts_them(monkeypatch):
    monkeypatch.setattr(meters_module, "MOST_KEPT", 3)
    meters, seen = Meters([EVENTS]), []
    reduce = lambda _, batches: seen.extend(batches)  # noqa: E731 - needs an identity
    for number in range(5):
        meters.keep(reduce, number)
    assert taken(meters) == {}
    assert seen == [(2,), (3,), (4,)]


@pytest.mark.parametrize("batches", [1, 3])
def test_answers_are_counted_by_what_is_known_of_users(batches):
    meters = Meters(OF_ANSWERS)
    counts = np.array([[0, 0, 1], [2, 0, 0], [0, 3, 0], [4, 5, 0]], dtype=np.int32)
    alpha, idle_hours = np.array([[0], [1], [0], [0.35]], np.float32), np.array([0, 24, 0.5, 2], np.float32)
    for _ in range(batches):
        meters.keep(count_answers, counts, alpha, idle_hours)
    found = taken(meters)
    kinds = {kind: found["ebbtide_answers_total", kind] for kind in ("none", "history", "session", "both")}
    assert kinds == dict.fromkeys(kinds, batches)
    assert found["ebbtide_events_total", "history"] == 6 * batches
    assert found["ebbtide_events_total", "unknown_item"] == batches
    assert ("ebbtide_alpha_bucket", "0.3") not in found
    assert found["ebbtide_alpha_bucket", "0.4"] == found["ebbtide_alpha_count",] == batches
    assert found["ebbtide_newest_event_age_seconds_sum",] == 3_600 * 26.5 * batches


def test_each_status_of_a_user_has_its_series():
    meters = Meters([STATES])
    assert [status.name.lower() for status in StateStatus][1:] == list(STATES.values)
    meters.keep(count_states, np.array([[int(status)] for status in StateStatus], np.int32))
    assert taken(meters) == {("ebbtide_states_total", name): 1 for name in STATES.values}
