"""Durations, mixes, objectives and rates as users write them, and the due times of requests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.loadtest import LoadTestError, RateProfile, Slo, parse_duration, parse_mix
from ebbtide.loadtest.arrivals import send_times

KNOWN = ("recommend", "recommend_text", "embed")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("3m", 180), ("500ms", 0.5), ("2.5", 2.5), ("1h", 3600), (" 7 s ", 7)]
)
def test_duration_is_read_when_it_has_a_unit_or_none(text, seconds):
    assert parse_duration("duration", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0s", "-3s", "3 days", "s", "nan"])
def test_duration_is_refused_by_name_when_it_is_none(text):
    with pytest.raises(LoadTestError, match="warm_up: got"):
        parse_duration("warm_up", text)


def test_mix_gives_shares_when_weights_are_given():
    assert parse_mix("recommend=8, embed, recommend_text=1", KNOWN) == pytest.approx(
        {"recommend": 0.8, "embed": 0.1, "recommend_text": 0.1}
    )


@pytest.mark.parametrize("text", ["", "rank=1", "recommend=1,recommend=2", "recommend=0", "recommend=x", "embed=-1"])
def test_mix_is_refused_when_an_endpoint_or_weight_is_none(text):
    with pytest.raises(LoadTestError, match="mix: got"):
        parse_mix(text, KNOWN)


def test_objective_is_read_when_it_has_several_parts():
    slo = Slo.parse("p99<20ms, p99.9<=0.1s,errors<0.5%")
    assert slo.latency_limit_ms == pytest.approx({99.0: 20.0, 99.9: 100.0})
    assert slo.error_share == pytest.approx(0.005)
    assert str(slo) == "p99<20ms,p99.9<100ms,errors<0.5%"


@pytest.mark.parametrize("text", ["", "p99", "p99>20ms", "errors<1%", "p100<2ms", "p99<20ms,throughput>3"])
def test_objective_is_refused_when_it_limits_no_latency(text):
    with pytest.raises(LoadTestError, match="slo: got"):
        Slo.parse(text)


@given(st.floats(1, 500), st.floats(0.5, 20))
def test_constant_arrivals_are_evenly_spaced_when_the_rate_is_flat(rate, duration_s):
    times = send_times(RateProfile(rate), "constant", duration_s, np.random.default_rng(0))
    assert abs(len(times) - rate * duration_s) <= 1
    assert np.allclose(np.diff(times), 1 / rate, rtol=1e-6)
    assert times[0] == 0
    assert times[-1] < duration_s


def test_poisson_arrivals_scatter_as_they_should_when_there_are_many():
    times = send_times(RateProfile(1000), "poisson", 60, np.random.default_rng(1))
    per_second = np.histogram(times, bins=60, range=(0, 60))[0]
    assert per_second.mean() == pytest.approx(1000, rel=0.02)
    # Counts of a Poisson process have a variance as large as their mean.
    assert per_second.var() / per_second.mean() == pytest.approx(1, abs=0.5)
    assert np.diff(times).std() * 1000 == pytest.approx(1, rel=0.05)


def test_ramp_and_spike_change_the_rate_when_given():
    profile = RateProfile(100, ramp_to=300, spike_factor=4, spike_s=2)
    times = send_times(profile, "constant", 10, np.random.default_rng(0))
    counts = np.histogram(times, bins=10, range=(0, 10))[0]
    assert counts[0] == pytest.approx(110, abs=2)
    assert counts[9] == pytest.approx(290, abs=2)
    assert counts[4] + counts[5] == pytest.approx(4 * 400, abs=4)


def test_log_arrivals_keep_the_pauses_of_sessions_when_they_overlap():
    session = np.array([0.0, 0.25, 5.0])
    times = send_times(RateProfile(30), "log", 200, np.random.default_rng(2), [session])
    assert len(times) == pytest.approx(6000, rel=0.06)
    gaps = np.abs(times[:, None] - times[None, :2000]).ravel()
    # Every session has one pause of exactly a quarter of a second; independent arrivals would almost never have.
    assert np.count_nonzero(np.abs(gaps - 0.25) < 1e-9) > 600


def test_log_arrivals_are_refused_when_there_are_no_sessions():
    with pytest.raises(LoadTestError, match="arrivals: got 'log'"):
        send_times(RateProfile(30), "log", 2, np.random.default_rng(2))
