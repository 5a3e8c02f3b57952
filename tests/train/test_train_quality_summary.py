"""The quality benchmark's page and pictures, made from its JSON alone."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PNG = b"\x89PNG\r\n\x1a\n"


def row(name, ndcg, **more):
    return {
        "name": name,
        "ndcg_at_10": ndcg,
        "ci95": [ndcg - 0.01, ndcg + 0.01],
        "recall_at_10": 0.2,
        "hit_rate_at_10": 0.3,
        "train_s": 12.3,
        **more,
    }


def broken_down(low):
    estimate = {"mean": 0.1, "low": low, "high": None if low is None else 0.2}
    bins = [{"label": "1 to 5", "users": 1, "baskets": 7, "ndcg_at_10": estimate}]
    return {name: {"bins": bins} for name in ("gap", "history", "interest_age")}


@pytest.fixture
def report():
    difference = {"mean": 0.02, "low": 0.01, "high": 0.03, "p_value": 0.001}
    machine = {"cores": 2, "machine": "x86_64", "torch": "2.9"}
    ours = row("ebbtide", 0.12, kind="ours", popularity="updated", breakdowns=broken_down(0.05))
    ours |= {"machine": machine, "date": "2026-11-29"}
    ours |= {
        "ratio_to_best_baseline": 1.2,
        "ratio_to_best_baseline_against": "EASE",
        "ratio_to_best_baseline_difference": difference,
        "cold_item_ratio_to_no_text": None,
    }
    ours |= {"ratio_to_oracle": 0.8, "ratio_to_oracle_against": "oracle", "ratio_to_oracle_difference": difference}
    oracle = row("oracle", 0.15, kind="oracle", popularity="known")
    ease = row("EASE", 0.1, kind="baseline", popularity="frozen", breakdowns=broken_down(None), known_items=8)
    ease |= {
        "settings": {"regularisation": 300.0},
        "tried": [{"settings": {"regularisation": 300.0}, "validation_ndcg_at_10": 0.09}],
        "known_share_of_relevant": 0.75,
    }
    data_set = {
        "name": "films",
        "holdout": "time:0.2",
        "repeats": False,
        "items": 10,
        "users": 5,
        "users_drawn": None,
        "events": 1000,
        "test_users": 3,
        "test_baskets": 70,
        "quick": False,
        "tries": 5,
        "left_out": ["SASRec"],
        "models": [ease, ours, oracle],
    }
    over = {"seeds": [0, 1], "ndcg_at_10": 0.121, "ratio_to_best_baseline": 1.21}
    over |= {"ratio_to_best_baseline_against": "EASE", "ratio_to_best_baseline_low": 1.1}
    return {"data_sets": [{**data_set, "over_seeds": {"ebbtide": over}}]}


def test_summary_tells_ranking_ratios_limits_and_settings(report, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    summary = importlib.import_module("benchmarks.quality.summary")
    (tmp_path / "quality.json").write_text(json.dumps(report))
    page, *pictures = summary.write_summary(tmp_path / "quality.json")
    text = page.read_text()
    assert text.index("| **ebbtide** | 0.1200") < text.index("| EASE | 0.1000 | 0.0900 to 0.1100 |")
    for expected in (
        "ebbtide: 1.20 times the NDCG@10 of the best baseline (EASE); difference +0.0200, "
        "95 % +0.0100 to +0.0300, p 0.001",
        "ebbtide: 0.80 times the NDCG@10 of the oracle; difference",
        "EASE: limited to the 8 most frequent of the 10 items, which cover 75% of the targets.",
        "| EASE | regularisation 300.0 | 0.0900 |",
        "1,000 events of 5 users",
        "Rows were computed on: 2 cores, torch 2.9, 2026-11-29.",
        "ebbtide, mean of the seeds 0, 1: NDCG@10 0.1210, 1.210 times that of the best baseline (EASE), "
        "95 % from 1.100",
        "For each baseline at most 5 settings were tried on the validation period. Models left out: SASRec.",
    ):
        assert expected in text
    assert [picture.name for picture in pictures] == ["quality-films.png", "quality-films-breakdowns.png"]
    for picture in pictures:
        assert f"({picture.name})" in text
        assert picture.read_bytes().startswith(PNG)
