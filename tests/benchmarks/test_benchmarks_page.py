"""The pages that are built from results: committed as built, whatever results there are, and never typed by hand."""

import json
import shutil

import pytest

from benchmarks.page.__main__ import DOCS, RESULTS, stale_pages
from benchmarks.page.build import benchmarks_page, capacity_page
from benchmarks.page.sections import SECTIONS
from benchmarks.page.text import tables_of
from benchmarks.tune import summary

TUNED = {
    "ebbtide_tune": 1,
    "machine": {"processor": "a processor", "cores": 2, "memory_gib": 8.0},
    "requests": {"mix": {"recommend": 1.0}},
    "began_unix_s": 1_700_000_000.0,
    "slo": "p99<20ms,errors<0.1%",
    "seconds": 301.4,
    "default": {"rate_per_s": 1_000.0},
    "found": {"rate_per_s": 1_250.0},
    "winner": {"is_default": False, "export_options": "--tuned scoring_head:instances=2"},
    "ratio": 1.25,
    "ratio_ci95": [1.2, 1.31],
    "noise": {"ratio": 1.01, "ratio_ci95": [0.98, 1.04], "pairs": 4},
    "trials": [
        {
            "settings": "scoring_head:instances=2",
            "ratio": 1.2,
            "ratio_ci95": None,
            "pairs": 1,
            "outcome": "wins",
        }
    ],
    "notes": ["the generator may have limited 3 of 90 turns"],
}


def test_committed_pages_are_what_the_results_say():
    assert stale_pages() == []


def test_page_names_the_command_when_a_result_is_missing(tmp_path):
    page = benchmarks_page(tmp_path)
    for section in SECTIONS:
        assert f"Not measured yet: `{section.command}` writes `benchmarks/results/{section.result}`." in page


def test_every_command_of_the_page_is_a_target_of_the_makefile_when_it_was_measured():
    makefile = (DOCS.parent / "Makefile").read_text(encoding="utf-8")
    targets = {line.partition(":")[0] for line in makefile.splitlines() if line.startswith("bench-")}
    measured = {section.command.split()[1] for section in SECTIONS if (RESULTS / section.result).is_file()}
    assert measured <= targets


def test_page_takes_a_result_as_it_comes_when_its_keys_are_known_to_nobody(tmp_path):
    (tmp_path / "training.json").write_text(
        json.dumps(
            {
                "machine": {"cores": 2, "versions": {"torch": "2.13.0"}},
                "date": "2026-01-02T03:04:05Z",
                "speed": {"events_per_s": 12_345.6, "ratio": 0.42},
                "models": [{"name": "ours", "s": 1.5, "curve": [1, 2]}, {"name": "SASRec", "s": 3.0, "curve": []}],
            }
        )
    )
    page = benchmarks_page(tmp_path)
    assert "Measured on 2026-01-02. `make bench-training` measures it again. Machine: cores 2, torch 2.13.0." in page
    assert "| speed.events_per_s | 12,346 |\n| speed.ratio | 0.42 |" in page
    assert "### models\n\n| name | s |\n| --- | --- |\n| ours | 1.5 |\n| SASRec | 3 |" in page


def test_page_shows_each_run_and_judges_the_goals_when_tuning_was_measured(tmp_path):
    worse = {
        **TUNED,
        "ratio": 1.1,
        "winner": {"is_default": False, "export_options": "--tuned scoring_head:instances=4"},
    }
    (tmp_path / "tune.json").write_text(json.dumps(summary([TUNED, worse, TUNED])))
    page = benchmarks_page(tmp_path)
    assert "| ratio | 1.25 | at least 1 | yes |\n| same_choice_share | 0.667 | at least 1 | no |" in page
    assert "| 2 | `--tuned scoring_head:instances=4` | 1,000 | 1,250 | 1.1 | 1.2 to 1.31 | 1.01 | 301 |" in page
    assert "- the generator may have limited 3 of 90 turns" in page


def test_summary_is_of_the_run_in_the_middle_when_ratios_differ():
    runs = [{**TUNED, "ratio": ratio} for ratio in (1.3, 1.1, 1.2)]
    found = summary(runs)
    assert (found["ratio"], found["same_choice_share"], found["runs"]) == (1.2, 1.0, runs)


def test_worked_numbers_come_from_tuning_when_recommend_was_measured(tmp_path):
    shutil.copy(RESULTS / "serving.json", tmp_path)
    page = (DOCS / "capacity.md").read_text(encoding="utf-8")
    assert "`benchmarks/results/serving.json`" in capacity_page(page, tmp_path)
    (tmp_path / "tune.json").write_text(json.dumps(summary([TUNED])))
    built = capacity_page(page, tmp_path)
    assert "One replica: 1,250 requests/s of `recommend` on a processor, 2 cores, 8 GiB: the rate at which" in built
    assert "- Rate and memory are of different machines: a processor, 2 cores, 8 GiB; " in built
    assert built == capacity_page(built, tmp_path)
    other = {**TUNED, "requests": {"mix": {"recommend_text": 1.0}}}
    (tmp_path / "tune.json").write_text(json.dumps(summary([other])))
    assert "1,250 requests/s" not in capacity_page(page, tmp_path)


def test_capacity_page_is_refused_when_its_marks_are_gone(tmp_path):
    with pytest.raises(ValueError, match=r"docs/capacity\.md: got no"):
        capacity_page("# Capacity", tmp_path)


def test_tables_leave_out_what_is_no_cell():
    (figures,) = tables_of({"a": 1, "b": {"c": True, "d": [1, 2]}, "machine": {"cores": 2}})
    assert figures.rows == [("a", "1"), ("b.c", "yes")]
