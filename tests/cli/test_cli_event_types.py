"""Event types on the command line: trained, shown, evaluated, refreshed and refused."""

import json

import numpy as np
import pytest

from ebbtide.train.bundle import InterestBundle

TYPES = ("view", "purchase", "dislike")


@pytest.fixture
def typed_log(tmp_path):
    random = np.random.default_rng(0)
    rows = [
        f"u{user},i{random.integers(15)},{1_700_000_000 + 3_600 * (12 * step + user)},{TYPES[random.integers(3)]}"
        for user in range(12)
        for step in range(14)
    ]
    path = tmp_path / "log.csv"
    path.write_text("user,item,time,did\n" + "\n".join(rows) + "\n")
    return path


def test_weights_are_learned_shown_and_used_when_a_log_has_event_types(typed_log, ebbtide, tmp_path):
    out = tmp_path / "b"
    options = ("--event-type-col", "did", "--target", "purchase", "--epochs", 2, "--holdout", "time:0.2")
    options += ("--prior-half-lives", "inf")
    done = ebbtide("train", "--events", typed_log, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert b"Event types" in done.stdout
    bundle = InterestBundle.load(out)
    assert bundle.config.model.event_types == ("purchase", "dislike", "view")
    assert bundle.config.data.target_types == ("purchase",)
    shown = json.loads(ebbtide("inspect", out, "--json").stdout)
    assert list(shown["event_types"]) == ["purchase", "dislike", "view"]
    assert shown["event_types"]["purchase"] == 1
    assert shown["target_types"] == ["purchase"]
    assert b"predicted" in ebbtide("inspect", out).stdout
    evaluated = ebbtide("evaluate", out, "--json", tmp_path / "m.json")
    assert evaluated.returncode == 0, evaluated.stderr
    purchases = sum(line.endswith(",purchase") for line in typed_log.read_text().splitlines())
    assert 0 < json.loads((tmp_path / "m.json").read_text())["events"] < purchases
    refreshed = ebbtide("refresh", out, "--out", tmp_path / "r")
    assert refreshed.returncode == 0, refreshed.stderr
    # Without decay popularity is the number of purchases.
    assert InterestBundle.load(tmp_path / "r").prior_counts.sum() == purchases


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "expected at least one of the log's event types, --target NAME: 'dislike', 'purchase', 'view'"),
        (("--target", "purchases"), "target: got 'purchases', which no event has; expected a type of the log"),
    ],
)
def test_training_is_refused_when_no_target_is_of_the_log(typed_log, ebbtide, tmp_path, options, expected):
    done = ebbtide("train", "--events", typed_log, "--out", tmp_path / "b", "--event-type-col", "did", *options)
    assert done.returncode == 1
    assert expected in done.stderr.decode()


def test_evaluation_is_refused_when_the_log_has_a_type_that_the_training_did_not_know(typed_log, ebbtide, tmp_path):
    out = tmp_path / "b"
    options = ("--event-type-col", "did", "--target", "purchase", "--epochs", 1, "--holdout", "time:0.2")
    ebbtide("train", "--events", typed_log, "--out", out, *options)
    typed_log.write_text(typed_log.read_text() + "u1,i1,1700000001,disliked\n")
    done = ebbtide("evaluate", out)
    assert done.returncode == 1
    assert "got 'disliked'; expected an event type of the training, such as 'dislike'" in done.stderr.decode()
