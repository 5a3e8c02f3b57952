"""Texts of a history that predict the next text, and what validation makes of an interest that predicts nothing."""

import numpy as np
import polars as pl
import pytest
import torch

from ebbtide.data.events import build_log
from ebbtide.data.splits import after_time
from ebbtide.train.calibration import calibrate
from ebbtide.train.canonical import canonical_text
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.model import InterestModel
from ebbtide.train.windows import LogTensors

ITEMS, WIDTH = 400, 8


def log_of(faithful):
    """Items are met once each by a user; of two topics, the first coordinate of the text, a faithful user takes one."""
    random = np.random.default_rng(0)
    rows = []
    for user in range(120):
        items = np.arange(ITEMS)
        if faithful:
            items = items[items % 2 == user % 2]
        for step, item in enumerate(random.permutation(items)[:15]):
            rows.append((f"u{user}", f"i{item:03}", int(random.integers(0, 10**9)) + step, 1.0))
    schema = {"user": pl.String, "item": pl.String, "time_ms": pl.Int64, "weight": pl.Float32}
    return build_log(pl.DataFrame(rows, schema=schema, orient="row"), {f"i{item:03}": item for item in range(ITEMS)})


@pytest.fixture(scope="module")
def texts():
    texts = np.random.default_rng(1).normal(size=(ITEMS, WIDTH)).astype(np.float32)
    texts[:, 0] = np.where(np.arange(ITEMS) % 2, 2, -2)
    return texts


def test_strongest_direction_is_the_one_in_which_users_are_faithful(texts):
    log = log_of(faithful=True)
    found = canonical_text(log, np.ones(log.events, bool), torch.from_numpy(texts), None, 3, seed=0)
    for projection in (found.event, found.item):
        direction = projection[:, 0] / projection[:, 0].norm()
        assert direction[0].abs() > 0.9
    scores = torch.from_numpy(texts) @ found.event @ (torch.from_numpy(texts) @ found.item).T
    assert scores[::2, ::2].mean() > 0 > scores[::2, 1::2].mean()


def test_no_direction_is_found_when_the_log_is_too_small_or_there_are_no_texts(texts):
    log = log_of(faithful=True)
    assert canonical_text(log, np.arange(log.events) < 5, torch.from_numpy(texts), None, 3, seed=0) is None
    assert canonical_text(log, np.ones(log.events, bool), torch.zeros(ITEMS, WIDTH), None, 3, seed=0) is None


def test_interest_gets_no_weight_when_it_is_noise_and_popularity_decides():
    random = np.random.default_rng(2)
    share = 1 / np.arange(1, ITEMS + 1)
    rows = [
        (f"u{user}", f"i{item:03}", int(random.integers(0, 10**9)), 1.0)
        for user in range(120)
        for item in random.choice(ITEMS, 15, p=share / share.sum())
    ]
    schema = {"user": pl.String, "item": pl.String, "time_ms": pl.Int64, "weight": pl.Float32}
    log = build_log(pl.DataFrame(rows, schema=schema, orient="row"), {f"i{item:03}": item for item in range(ITEMS)})
    torch.manual_seed(0)
    model = InterestModel(ModelConfig(dimensions=16, exclude_seen=False), torch.zeros(ITEMS, WIDTH))
    with torch.no_grad():
        for residual in (model.event_residual, model.item_residual):
            residual.normal_()
    tensors = LogTensors.of(log, model.config.session_gap_ms)
    assert calibrate(model, log, tensors, after_time(log, 0.3), TrainConfig()).variant.interest_scale == 0
