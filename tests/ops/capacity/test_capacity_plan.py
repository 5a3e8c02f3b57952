"""The arithmetic of a plan, and where its numbers come from."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ebbtide.capacity import CapacityError, Demand, Memory, Replica, notes_of, plan, read_measured, read_memory
from ebbtide.cli.app import app

EPYC = {"processor": "AMD EPYC", "cores": 4, "memory_gib": 16.0}
XEON = {"cpu": "Intel(R) Xeon(R)", "cores": 4, "memory_gib": 16.0}
LOADTEST = {
    "ebbtide_loadtest": 1,
    "machine": EPYC,
    "throughput": 812.5,
    "headline": "800/s, Poisson arrivals",
    "runs": [{"headline": True, "model": "open"}],
    "slo": {"text": "p99<20ms,errors<0.1%", "held": True},
    "search": None,
    "requests": {"mix": {"recommend": 1.0}},
    "server": {"is_on_this_machine": True},
    "generator": {"limit": None},
    "notes": ["the test was interrupted"],
}
TUNE = {
    "ebbtide_tune": 1,
    "machine": EPYC,
    "slo": "p99<20ms,errors<0.1%",
    "winner": {"is_default": False},
    "default": {"rate_per_s": 1_000.0},
    "found": {"rate_per_s": 1_250.0},
    "requests": {"mix": {"recommend_text": 1.0}},
    "notes": ["the machine was not quiet"],
}
TABLE_MIB = 1_000_000 * 68 * 4 / 2**20
SERVING = {
    "machine": XEON,
    "runs": {"recommend": {"quick": False}, "memory": {"quick": True}},
    "recommend": {"concurrency_1": {}, "concurrency_16": {"ebbtide": {"requests_per_s": 900.0, "p99_ms": 31.0}}},
    "memory": {
        "instances": [1, 4],
        "recommend": {"1": {"pss_mib": 225 + 2 * TABLE_MIB}, "4": {"pss_mib": 300 + 2 * TABLE_MIB}},
        "table_mib": TABLE_MIB,
        "items": 1_000_000,
    },
}


def written(tmp_path, content, name="result.json"):
    path = tmp_path / name
    path.write_text(json.dumps(content))
    return path


def test_plan_shows_every_step_when_zones_are_spread_over():
    found = plan(Demand(10_000_000), Replica(1_000.0, 4, Memory(200, 25, 1_000_000, 68, 2, 2)))
    assert [(line.name, line.arithmetic, line.shown) for line in found.lines] == [
        ("requests per day", "10,000,000 users × 10", "100,000,000 requests"),
        ("mean rate", "100,000,000 ÷ 86,400 s", "1,157 requests/s"),
        ("peak rate", "1,157 × 3", "3,472 requests/s"),
        ("usable rate of a replica", "1,000 × 0.7", "700 requests/s"),
        ("replicas for the peak", "⌈3,472 ÷ 700⌉", "5 replicas"),
        ("replicas per zone, one zone lost", "⌈5 ÷ 2⌉", "3 replicas"),
        ("replicas", "3 × 3 zones", "9 replicas"),
        ("cores", "9 × 4", "36 cores"),
        ("factors of the catalog", "1,000,000 items × 68 columns × 4 bytes", "259 MiB"),
        ("memory of a replica", "200 + 259 × (1 + 2) + 2 × 25", "1,028 MiB"),
        ("total memory", "9 × 1,028", "9,254 MiB"),
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
    ("content", "rate", "is_under_objective"),
    [
        (LOADTEST, 812.5, True),
        ({**LOADTEST, "slo": None}, 812.5, False),
        ({**LOADTEST, "search": {"highest_rate_held": 640.0}}, 640.0, True),
        (TUNE, 1_250.0, True),
        ({**TUNE, "winner": {"is_default": True}}, 1_000.0, True),
        (SERVING, 900.0, False),
    ],
)
def test_rate_is_read_when_a_result_has_one(tmp_path, content, rate, is_under_objective):
    found = read_measured(written(tmp_path, content))
    assert (found.rate_per_s, found.machine.cores, found.is_under_objective) == (rate, 4, is_under_objective)


def test_mix_machine_and_notes_travel_when_a_rate_is_read(tmp_path):
    found = read_measured(written(tmp_path, TUNE))
    assert found.endpoints == "recommend_text"
    assert str(found.machine) == "AMD EPYC, 4 cores, 16 GiB"
    assert found.notes == ("the machine was not quiet",)
    limited = {**LOADTEST, "generator": {"limit": "the generator was busy"}}
    found = read_measured(written(tmp_path, {**limited, "requests": {"mix": {"recommend": 0.8, "embed": 0.2}}}))
    assert found.endpoints == "80 % recommend, 20 % embed"
    assert found.notes[0] == "the test was interrupted"
    assert "may have been the limit, not the server: the generator was busy" in found.notes[1]
    assert "the rate is the load that was sent" in found.notes[2]


def test_server_may_take_more_than_was_sent_unless_it_was_searched_or_kept_busy(tmp_path):
    def notes(**changed):
        return read_measured(written(tmp_path, {**LOADTEST, **changed})).notes

    assert "the server may take more" in notes()[-1]
    assert notes(runs=[{"headline": True, "model": "closed"}]) == ("the test was interrupted",)
    assert notes(search={"highest_rate_held": 640.0}) == ("the test was interrupted",)


def test_machine_is_unknown_when_the_load_came_from_another_one(tmp_path):
    path = written(tmp_path, {**LOADTEST, "server": {"is_on_this_machine": False}})
    assert read_measured(path).machine is None
    refused = CliRunner().invoke(app, ["capacity", "--measured", str(path)])
    assert "cores: got none" in str(refused.exception)
    done = CliRunner().invoke(app, ["capacity", "--measured", str(path), "--cores", "8"])
    assert "on 8 cores (recommend; a load of 800/s" in " ".join(done.stdout.split())


def test_memory_is_refused_when_the_rate_is_of_another_endpoint(tmp_path):
    paths = written(tmp_path, TUNE), written(tmp_path, SERVING, "serving.json")
    done = CliRunner().invoke(app, ["capacity", "--measured", str(paths[0]), "--memory", str(paths[1])])
    assert isinstance(done.exception, CapacityError)
    assert "memory: got that of a server with recommend; expected one with recommend_text" in str(done.exception)


def test_plan_says_so_when_rate_and_memory_are_of_different_machines(tmp_path):
    rate, memory = read_measured(written(tmp_path, LOADTEST)), read_memory(written(tmp_path, SERVING, "serving.json"))
    expected = (
        "rate and memory are of different machines: AMD EPYC, 4 cores, 16 GiB; Intel(R) Xeon(R), 4 cores, 16 GiB",
        "memory: measured in a quick run, for a first look",
    )
    assert notes_of(rate, memory) == (*rate.notes, *expected)
    same = read_measured(written(tmp_path, SERVING))
    assert notes_of(same, memory) == ("the rate held no objective: plan with a lower --utilisation", expected[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**LOADTEST, "slo": {"text": "p99<20ms", "held": False}}, "slo.held: got a run that broke p99<20ms"),
        ({**LOADTEST, "search": {"highest_rate_held": None}}, "search.highest_rate_held: got none"),
        (
            {**TUNE, "winner": {"is_default": True}, "default": {"rate_per_s": None}},
            "the default settings were kept and no rate was measured",
        ),
        ({"other": 1}, "got a file with other; expected"),
        ([1], "got a list; expected"),
        ({"ebbtide_tune": 1}, "got no 'winner'"),
    ],
)
def test_result_is_refused_when_it_has_no_rate(tmp_path, content, message):
    with pytest.raises(CapacityError, match=message):
        read_measured(written(tmp_path, content))


def test_memory_is_split_when_two_numbers_of_instances_were_measured(tmp_path):
    found = read_memory(written(tmp_path, SERVING)).memory
    assert (found.base_mib, found.instance_mib, found.columns) == (pytest.approx(200), pytest.approx(25), 68)
    assert found.total_mib == pytest.approx(SERVING["memory"]["recommend"]["1"]["pss_mib"])


def test_command_prints_the_plans_as_json_when_json_is_asked_for():
    options = ["--users", "1000,250000", "--rate", "500", "--cores", "2", "--base-mib", "300", "--items", "10000"]
    done = CliRunner().invoke(app, ["capacity", *options, "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert [one["demand"]["users_per_day"] for one in content["plans"]] == [1_000, 250_000]
    assert content["plans"][0]["replicas"] == 3


def test_command_shows_the_arithmetic_when_json_is_not_asked_for():
    done = CliRunner().invoke(app, ["capacity", "--users", "1000", "--rate", "500", "--cores", "2"])
    assert done.exit_code == 0, done.output
    assert "1,000 users × 10" in done.stdout


@pytest.mark.parametrize("options", [[], ["--rate", "500"], ["--rate", "500", "--cores", "2", "--users", "many"]])
def test_command_is_refused_when_numbers_are_missing(options):
    assert isinstance(CliRunner().invoke(app, ["capacity", *options]).exception, CapacityError)
