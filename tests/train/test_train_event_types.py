"""Learned weights of event types: dislikes push away, and evaluation has the weights of a request."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from ebbtide.data.event_types import EventTypeNames
from ebbtide.data.events import EventLog, build_log
from ebbtide.train.choices import Start
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.evaluation.scores import score_baskets
from ebbtide.train.model import EVENT_TYPE_BOUND, InterestModel
from ebbtide.train.reference import score_request
from ebbtide.train.trainer import fit
from ebbtide.train.windows import LogTensors

GROUPS, PER_GROUP, USERS = 4, 12, 240
ITEMS = GROUPS * PER_GROUP
NAMES = EventTypeNames(("purchase", "dislike"), 1)


@pytest.fixture(scope="module")
def tastes():
    """Users buy items of one group and dislike items of another one, twice as often; and texts that tell the groups."""
    random = np.random.default_rng(5)
    rows = []
    for user in range(USERS):
        liked, hated = random.choice(GROUPS, 2, replace=False)
        bought, disliked = (group * PER_GROUP + random.permutation(PER_GROUP) for group in (liked, hated))
        did = random.permutation([0] * 5 + [1] * 10)
        start = int(random.integers(0, 100))
        for step, kind in enumerate(did.tolist()):
            item, bought, disliked = (
                (bought[0], bought[1:], disliked) if kind == 0 else (disliked[0], bought, disliked[1:])
            )
            rows.append((f"u{user:03}", f"i{item:02}", (start + step) * 86_400_000, 1.0, NAMES.names[kind]))
    schema = {"user": pl.String, "item": pl.String, "time_ms": pl.Int64, "weight": pl.Float32, "event_type": pl.String}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    log = build_log(frame, {f"i{item:02}": item for item in range(ITEMS)}, NAMES)
    vectors = random.standard_normal((ITEMS, 16)) * 0.3 + np.repeat(np.eye(GROUPS, 16), PER_GROUP, axis=0)
    return log, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def fitted(log: EventLog, vectors: np.ndarray, **settings: object):
    config = ModelConfig(dimensions=12, prior_half_life_days=(30.0,), **settings)
    training = TrainConfig(epochs=6, start=Start.texts, refit=False, windows_per_batch=8, dropout=0.0, patience=6)
    return fit(log, np.ones(log.events, bool), vectors, config, training)


def test_dislikes_get_a_negative_weight_and_validation_improves_over_ignoring_the_column(tastes):
    log, vectors = tastes
    learned = fitted(log, vectors, event_types=NAMES.names)
    purchase, dislike = learned.model.event_type_weight.tolist()
    assert purchase == 1
    assert -EVENT_TYPE_BOUND < dislike < 0.1
    # The same targets, from a history in which all events are alike.
    ignoring = fitted(log, vectors)
    assert learned.validation_ndcg_at_10 > ignoring.validation_ndcg_at_10 + 0.02


def test_fit_is_the_same_when_the_only_type_is_the_target(tastes):
    log, vectors = tastes
    plain = replace(log.only(log.is_target), event_type=None, event_types=None)
    one = replace(plain, event_type=np.zeros(plain.events, np.int64), event_types=EventTypeNames(("purchase",), 1))
    first, second = fitted(plain, vectors), fitted(one, vectors, event_types=("purchase",))
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{}, {"repeat_score": True, "exclude_seen": False}], ids=["factors", "repeats"])
def test_evaluated_scores_are_those_of_the_formula_when_weights_are_negative(tastes, settings):
    log, vectors = tastes
    torch.manual_seed(2)
    config = ModelConfig(dimensions=6, prior_half_life_days=(), event_types=NAMES.names, **settings)
    model = InterestModel(config, torch.from_numpy(vectors)).eval()
    model.event_type_raw.data.fill_(-3.0)
    if model.repeat is not None:
        for parameter in (model.repeat.text_weight, model.repeat.item_bias, model.repeat.output.weight):
            torch.nn.init.normal_(parameter)
    weights = model.event_type_weight.detach().numpy()
    assert weights[1] < -1
    tensors = LogTensors.of(log, config.session_gap_ms)
    heads = log.start[1:7] - 1
    [scored] = score_baskets(model, log, tensors, heads, None)
    scores = scored.scores()
    for row, head in enumerate(scored.head.tolist()):
        past = slice(int(tensors.first[head]), head)
        expected = score_request(
            model,
            np.zeros((ITEMS, 0), np.float32),
            item=log.item[past].tolist(),
            time_ms=log.time_ms[past].tolist(),
            now_ms=int(log.time_ms[head]),
            weight=weights[log.event_type[past]].tolist(),
            exclude_seen=False,
        )
        np.testing.assert_allclose(scores[row].numpy(), expected.scores, atol=1e-4)
