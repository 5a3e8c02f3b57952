"""Popularity that real servers count: a trend reaches the lists of every server of a store, and outlives them."""

from __future__ import annotations

import copy
import re
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from deadlines import until
from ebbtide.export.options import ExportOptions
from ebbtide.export.parity import TOLERANCE, ranking_difference
from ebbtide.export.repository import export_repository
from ebbtide.interest import contract, meters, served_models
from ebbtide.interest.keys import item_keys, user_keys
from ebbtide.serve import ServerConfig
from ebbtide.train.bundle import InterestBundle, fingerprint_of
from ebbtide.train.popularity import counted_at
from ebbtide.train.reference import score_request
from servers import only, serving

from .conftest import Door

NOW = 1_700_000_000_000
DAY_MS = 86_400_000
FIRST, SECOND = 150, 40
"""Items that become popular."""
SETTINGS = {"EBBTIDE_POPULARITY_SECONDS": "0.2", meters.METRICS_VARIABLE: "on"}


@pytest.fixture(scope="module")
def log(tiny_bundle: InterestBundle) -> tuple[np.ndarray, np.ndarray]:
    """Items and times of the events before the export."""
    random = np.random.default_rng(0)
    return random.integers(0, len(tiny_bundle.catalog), 500), NOW - random.integers(1, 40 * DAY_MS, 500)


@pytest.fixture(scope="module")
def counted_bundle(tiny_bundle: InterestBundle, log: tuple[np.ndarray, np.ndarray]) -> InterestBundle:
    """A bundle with counts, as training and `ebbtide refresh` leave it."""
    model = copy.deepcopy(tiny_bundle.model)
    model.prior_smoothing_events.fill_(20.0)
    counted = counted_at(*log, len(tiny_bundle.catalog), model.smoothing, NOW)
    columns = counted.columns()
    fingerprint = fingerprint_of(model, columns, tiny_bundle.catalog, tiny_bundle.config.encoder)
    config = tiny_bundle.config.model_copy(update={"fingerprint": fingerprint, "prior_counted_at_ms": NOW})
    return replace(tiny_bundle, config=config, model=model, prior_columns=columns, prior_counts=counted.counts)


@pytest.fixture(scope="module")
def repository(counted_bundle: InterestBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live") / "model_repository"
    return export_repository(counted_bundle, folder, ExportOptions(top_n=20)).folder


def asked(**tensors: Any) -> dict[str, Any]:
    return {
        "event_item": np.zeros((1, 0), np.int64),
        "event_time": np.zeros((1, 0), np.int64),
        "now": np.array([[NOW + DAY_MS]]),
        **tensors,
    }


def best(door: Door, **tensors: Any) -> list[str]:
    answer = door.call(served_models.RECOMMEND.name, asked(**tensors))
    return [item.decode() for item in answer["item_id"].ravel().tolist()]


def watch(door: Door, bundle: InterestBundle, item: int, users: int, at_ms: int) -> None:
    """Lets users see an item, one event each, in one call."""
    key = item_keys([bundle.catalog.item_id[item]])
    answer = door.call(
        served_models.OBSERVE.name,
        {
            "user": user_keys([f"{item} {user}" for user in range(users)]),
            "event_item": np.tile(key, (users, 1)),
            "event_time": np.arange(at_ms, at_ms + users)[:, None],
        },
    )
    assert answer[contract.OBSERVED.name][:, 0].sum() == users


def test_trend_reaches_all_servers_and_equals_a_refresh(
    counted_bundle: InterestBundle, log: tuple[np.ndarray, np.ndarray], repository: Path, tmp_path: Path
) -> None:
    bundle, ids = counted_bundle, counted_bundle.catalog.item_id
    config = ServerConfig(
        repository,
        state=f"embedded:{tmp_path / 'states'}",
        environment=SETTINGS,
        **only("recommend", "observe", "explain", "rank"),
    )
    with serving(config) as server, triton.InferenceServerClient(server.grpc_url) as client:
        one = Door(client)
        frozen = best(one)
        assert ids[FIRST] not in frozen
        watch(one, bundle, FIRST, 60, NOW)
        until(lambda: best(one)[0] == ids[FIRST])
        # A server that starts later finds the counts in the store.
        with serving(config) as later, triton.InferenceServerClient(later.grpc_url) as of_later:
            two = Door(of_later)
            until(lambda: best(two)[0] == ids[FIRST])
            watch(two, bundle, SECOND, 64, NOW + 1000)
            until(lambda: best(one)[0] == ids[SECOND])
            assert best(two, as_exported=np.array([[True]])) == frozen
        candidates = item_keys([ids[FIRST], ids[SECOND], ids[0]])[None]
        questions = {
            served_models.EXPLAIN.name: {**{k: v[0] for k, v in asked().items()}, "candidate_item": candidates},
            served_models.RANK.name: asked(candidate_item=candidates),
        }

        def is_second_ahead(scores: np.ndarray) -> bool:
            return bool(scores[1] > scores[0])

        def scores_of(model: str) -> np.ndarray:
            return one.call(model, questions[model])[contract.CANDIDATE_SCORE.name].ravel()

        # Every process reads the counts at times of its own.
        for model in questions:
            until(lambda model=model: is_second_ahead(scores_of(model)))
        read_at = re.compile(rf"^{meters.POPULARITY_READ.name}\{{.*\}} (\S+)$", re.MULTILINE)
        with urllib.request.urlopen(server.metrics_url) as page:  # noqa: S310 - an address of this machine
            read = read_at.findall(page.read().decode())
        assert read
        assert all(abs(time.time() - float(number)) < 600 for number in read)
        answer = one.call(served_models.RECOMMEND.name, asked())
        found = [scores_of(model) for model in questions]
    times = np.r_[np.arange(NOW, NOW + 60), np.arange(NOW + 1000, NOW + 1064)]
    item, time_ms = np.r_[log[0], np.repeat([FIRST, SECOND], [60, 64])], np.r_[log[1], times]
    columns = counted_at(item, time_ms, len(ids), bundle.model.smoothing, int(time_ms.max()) + 1).columns()
    weight = bundle.model.prior_weight.detach().numpy()
    shift = np.median((columns - bundle.prior_columns).astype(np.float64) @ weight)
    refreshed = score_request(bundle.model, columns, item=[], time_ms=[], now_ms=NOW + DAY_MS)
    listed = [text.decode() for text in answer["item_id"].ravel().tolist()]
    scores = answer[contract.SCORE.name].ravel() + shift
    assert ranking_difference(listed, scores, refreshed.scores, bundle.catalog.index) <= TOLERANCE
    for got in found:
        np.testing.assert_allclose(got + shift, refreshed.scores[[FIRST, SECOND, 0]], atol=TOLERANCE)
