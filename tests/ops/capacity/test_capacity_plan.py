"""The arithmetic of a plan, and where its numbers come from."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ebbtide.capacity import CapacityError, Demand, Memory, Replica, plan, read_measured, read_memory
from ebbtide.cli.app import app

LOADTEST = {
    "ebbtide_loadtest": 1,
    "machine": {"cores": 4},
    "throughput": 812.5,
    "headline": "800/s, Poisson arrivals",
    "slo": {"text": "p99<20ms,errors<0.1%", "held": True},
    "search": None,
}
TUNE = {
    "ebbtide_tune": 1,
    "machine": {"cores": 2},
    "slo": "p99<20ms,errors<0.1%",
    "winner": {"is_default": False},
    "default": {"rate_per_s": 1_000.0},
    "found": {"rate_per_s": 1_250.0},
}


def written(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    return path


def test_plan_shows_every_step_when_zones_are_spread_over():
    found = plan(Demand(10_000_000), Replica(1_000.0, 4, Memory(200, 25, 1_000_000, 68, 2, 2)))
    assert [(line.name, line.arithmetic, line.shown) for line in found.lines] == [
        ("requests a day", "10,000,000 users × 10", "100,000,000 requests"),
        ("mean rate", "100,000,000 ÷ 86,400 s", "1,157 requests/s"),
        ("peak rate", "1,157 × 3", "3,472 requests/s"),
        ("rate of a replica to plan with", "1,000 × 0.7", "700 requests/s"),
        ("replicas for the peak", "⌈3,472 ÷ 700⌉", "5 replicas"),
        ("replicas in a zone, one lost", "⌈5 ÷ 2⌉", "3 replicas"),
        ("replicas", "3 × 3 zones", "9 replicas"),
        ("cores", "9 × 4", "36 cores"),
        ("factors of the catalog", "1,000,000 items × 68 columns × 4 bytes", "259 MiB"),
        ("memory of a replica", "200 + 259 × (1 + 2) + 2 × 25", "1,028 MiB"),
        ("memory in all", "9 × 1,028", "9,254 MiB"),
    ]
    assert (found.replicas, found.cores) == (9, 36)


@given(
    users=st.integers(1, 10**9),
    requests=st.floats(0.1, 100),
    peak=st.floats(1, 20),
    utilisation=st.floats(0.1, 1),
    zones=st.integers(1, 5),
    rate=st.floats(1, 1e5),
)
def test_replicas_bear_the_peak_when_a_zone_or_a_replica_is_lost(users, requests, peak, utilisation, zones, rate):
    found = plan(Demand(users, requests, peak, utilisation, zones), Replica(rate, 2))
    left = found.replicas - (1 if zones == 1 else found.replicas // zones)
    assert left * rate * utilisation >= users * requests / 86_400 * peak * (1 - 1e-9)
    needed = math.ceil(users * requests / 86_400 * peak / (rate * utilisation))
    assert found.replicas <= (needed + 1 if zones == 1 else (needed // (zones - 1) + 1) * zones)


@pytest.mark.parametrize(
    ("field", "value"),
    [("users_per_day", 0), ("requests_per_user", 0), ("peak_factor", 0.5), ("utilisation", 1.1), ("zones", 0)],
)
def test_demand_is_refused_with_its_field_when_a_number_makes_no_sense(field, value):
    with pytest.raises(CapacityError, match=f"{field}: got {value}"):
        Demand(**{"users_per_day": 1_000, field: value})


@pytest.mark.parametrize(
    ("content", "rate", "cores", "is_under_objective"),
    [
        (LOADTEST, 812.5, 4, True),
        ({**LOADTEST, "slo": None}, 812.5, 4, False),
        ({**LOADTEST, "search": {"highest_rate_held": 640.0}}, 640.0, 4, True),
        (TUNE, 1_250.0, 2, True),
        ({**TUNE, "winner": {"is_default": True}}, 1_000.0, 2, True),
    ],
)
def test_rate_is_read_when_a_result_has_one(tmp_path, content, rate, cores, is_under_objective):
    found = read_measured(written(tmp_path, content))
    assert (found.rate_per_s, found.cores, found.is_under_objective) == (rate, cores, is_under_objective)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**LOADTEST, "slo": {"text": "p99<20ms", "held": False}}, "slo.held: got a run that broke p99<20ms"),
        ({**LOADTEST, "search": {"highest_rate_held": None}}, "search.highest_rate_held: got none"),
        ({**TUNE, "winner": {"is_default": True}, "default": {"rate_per_s": None}}, "default.rate_per_s: got none"),
        ({"other": 1}, "got a file with other; expected"),
        ([1], "got a list; expected"),
        ({"ebbtide_tune": 1}, "got no 'winner'"),
    ],
)
def test_result_is_refused_when_it_has_no_rate(tmp_path, content, message):
    with pytest.raises(CapacityError, match=message):
        read_measured(written(tmp_path, content))


def test_memory_is_split_when_two_numbers_of_instances_were_measured(tmp_path):
    table_mib = 1_000_000 * 68 * 4 / 2**20
    used = {"1": {"pss_mib": 200 + 25 + 2 * table_mib}, "4": {"pss_mib": 200 + 100 + 2 * table_mib}}
    content = {"memory": {"instances": [1, 4], "recommend": used, "table_mib": table_mib, "items": 1_000_000}}
    found = read_memory(written(tmp_path, content))
    assert (found.base_mib, found.instance_mib, found.columns) == (pytest.approx(200), pytest.approx(25), 68)
    assert found.total_mib == pytest.approx(used["1"]["pss_mib"])


def test_command_prints_the_plans_as_json_when_asked():
    options = ["--users", "1000,250000", "--rate", "500", "--cores", "2", "--base-mib", "300", "--items", "10000"]
    done = CliRunner().invoke(app, ["capacity", *options, "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert [one["demand"]["users_per_day"] for one in content["plans"]] == [1_000, 250_000]
    assert content["plans"][0]["replicas"] == 3


def test_command_shows_the_arithmetic_when_printed():
    done = CliRunner().invoke(app, ["capacity", "--users", "1000", "--rate", "500", "--cores", "2"])
    assert done.exit_code == 0, done.output
    assert "1,000 users × 10" in done.stdout


@pytest.mark.parametrize("options", [[], ["--rate", "500"], ["--rate", "500", "--cores", "2", "--users", "many"]])
def test_command_is_refused_when_numbers_are_missing(options):
    assert isinstance(CliRunner().invoke(app, ["capacity", *options]).exception, CapacityError)
