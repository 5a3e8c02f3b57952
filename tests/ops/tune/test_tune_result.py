"""The result of a tuning: what it says, and what it chooses by it."""

import json
from pathlib import Path

import pytest

from ebbtide.export.tuned_settings import TunedSettings
from ebbtide.loadtest import Slo, Workload
from ebbtide.loadtest.calibrate import Calibration
from ebbtide.tune.result import Outcome, result_of
from ebbtide.tune.search import Search
from ebbtide.tune.space import changes
from ebbtide.tune.verdict import Verdict

HEAD = "scoring_head"
START = (TunedSettings(HEAD, 1, 1, 0, ()),)


class Steady:
    """Twice as fast with two instances, without noise."""

    def time_shares(self):
        return {}

    def pair(self, *both):
        return tuple(1_000.0 * min(2, settings[0].instances) for settings in both)


def outcome(verdict, *, limited_turns=0):
    search = Search(START, Steady(), cores=1)
    return Outcome(
        repository=Path("repository"),
        start=START,
        found=search.run(),
        search=search,
        verdict=verdict,
        slo=Slo.parse("p99<20ms"),
        workload=Workload({"recommend": 1.0}, {"recommend": [b""]}, [], 3),
        calibration=Calibration(5_000.0, 100.0),
        turns=60,
        limited_turns=limited_turns,
        server_version="2.51.0",
        machine={"cores": 2},
        command="ebbtide tune repository",
        began_unix_s=1_700_000_000.0,
        seconds=61.2,
    )


def test_result_states_the_ratio_and_how_to_get_it_when_the_winner_is_proven():
    result = result_of(outcome(Verdict((1_000.0, 1_010.0, 990.0), (1_250.0, 1_240.0, 1_260.0))))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["ratio"] == pytest.approx(1.25, abs=0.01)
    assert result["ratio_ci95"][0] > 1
    assert result["winner"]["changes"] == [{"model": HEAD, "instances": 2}]
    assert result["winner"]["export_options"] == "--tuned scoring_head:instances=2"
    assert result["verdict"].startswith(
        "the tuned settings hold 1,250 instead of 1,000 requests per second under p99<20ms,errors<0.1%"
    )
    assert result["notes"] == []


def test_default_is_kept_when_the_open_model_does_not_prove_the_winner():
    result = result_of(outcome(Verdict((1_000.0, 1_100.0, 950.0), (1_050.0, 1_000.0, 1_020.0))))
    assert result["found"]["changes"] == [{"model": HEAD, "instances": 2}]
    assert result["winner"] == {
        "is_default": True,
        "changes": [],
        "settings": result["default"]["settings"],
        "export_options": "",
    }
    assert result["verdict"].startswith(
        "the default settings were kept: the other settings held 1,020 instead of 1,000"
    )
    assert result["verdict"].endswith("which does not prove them better")


def test_result_names_what_limits_it_when_the_generator_was_busy():
    result = result_of(outcome(None, limited_turns=7))
    (note,) = result["notes"]
    assert "may have limited 7 of 60 turns" in note
    assert result["ratio"] == 1.0
    assert result["ratio_ci95"] is None
    assert result["verdict"].startswith("the default settings were kept and no rate was measured")


def test_changes_state_only_what_differs():
    assert changes(START, (TunedSettings(HEAD, 1, 2, 0, ()),)) == (TunedSettings(HEAD, threads=2),)
    assert changes(START, START) == ()
