"""`ebbtide inspect`: what a bundle has learned, as tables and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from ebbtide.cli.inspect import half_life_text
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.inspection import inspect_bundle
from ebbtide.train.refresh import prior_scores


def test_tables_and_json_tell_what_was_learned(bundle, ebbtide):
    shown = ebbtide("inspect", bundle, "--items", 2)
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout.decode()
    for words in ("Learned half-lives", "by age", "alpha (share of history)", "Where popularity"):
        assert words in text
    found = json.loads(ebbtide("inspect", bundle, "--items", 2, "--json").stdout)
    loaded = InterestBundle.load(bundle)
    assert found["fingerprint"] == loaded.fingerprint
    assert found["items"] == len(loaded.catalog) == 9
    assert found["half_life_days"] == sorted(found["half_life_days"])
    best = loaded.catalog.item_id[int(np.argmax(prior_scores(loaded)))]
    assert found["most_popular"][0]["item_id"] == best
    shares = [item["learned_from_events"] for item in found["most_learned_from_events"] + found["most_from_text"][::-1]]
    assert shares == sorted(shares, reverse=True)


def test_shares_of_the_half_lives_add_up_to_one_with_the_uniform_rest(bundle):
    loaded = InterestBundle.load(bundle)
    assert loaded.prior_counts is not None
    half_lives = inspect_bundle(loaded).prior
    smoothing, totals = loaded.model.smoothing.events, loaded.prior_counts.sum(axis=1)
    finite = np.isfinite(smoothing)
    rest = np.prod(smoothing[finite] / (totals[finite] + smoothing[finite]))
    assert sum(one.share or 0 for one in half_lives) + rest == pytest.approx(1)
    assert {one.share for one in inspect_bundle(replace(loaded, prior_counts=None)).prior} == {None}


@pytest.mark.parametrize(
    ("days", "text"),
    [(20 / 1440, "20 min"), (3.25, "3 d"), (730.5, "2.0 y"), (999_999.6, "endless"), (math.inf, "endless")],
)
def test_half_lives_are_shown_with_the_unit_of_people(days, text):
    assert half_life_text(days) == text
