"""Related items: the nearest texts, what the newest events add, and that training weighs them where they help."""

import numpy as np
import pytest
import torch

from ebbtide.data.events import EventLog
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.related import Related, related_before
from ebbtide.train.seen_items import seen_items
from ebbtide.train.trainer import Fit, fit

DAY_MS = 86_400_000


def near_pairs(pairs: int, width: int = 24, seed: int = 0) -> np.ndarray:
    """Texts of items 2 i and 2 i + 1 are nearly the same, ``[2 pairs, width]``."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((pairs, width)).repeat(2, axis=0)
    return (vectors + 0.02 * random.standard_normal(vectors.shape)).astype(np.float32)


def test_related_items_are_those_with_the_nearest_texts() -> None:
    related = Related.of(torch.from_numpy(near_pairs(15)))
    assert related is not None
    assert related.item.shape == related.score.shape == (30, 8)
    assert related.item[:, 0].tolist() == [index ^ 1 for index in range(30)]
    assert related.score[:, 0].min() > 0.95
    assert related.score[:, 1].max() < 0.2
    assert (related.item != torch.arange(30)[:, None]).all()


def test_items_of_the_same_text_have_no_related_items_when_there_are_too_many() -> None:
    vectors = near_pairs(15)
    vectors[4:26] = vectors[4]
    related = Related.of(torch.from_numpy(vectors))
    assert related is not None
    assert not related.score[4:26].any()
    assert related.score[:4].any(dim=1).all()


@pytest.mark.parametrize("vectors", [np.zeros((30, 4)), np.ones((1, 4))])
def test_there_are_no_related_items_without_texts_to_compare(vectors: np.ndarray) -> None:
    assert Related.of(torch.from_numpy(vectors.astype(np.float32))) is None


def test_every_event_counts_that_weighs_more_than_nothing() -> None:
    related = Related(torch.tensor([[1], [2], [3], [1]], dtype=torch.int32), torch.tensor([[1.0], [2.0], [4.0], [8.0]]))
    # Two baskets of one user: before the first there are items 0, 0 and 3, before the second item 1 too.
    item, weight = np.array([0, 0, 3, 1, 2]), np.array([1, 1, -1, 1, 1], dtype=np.float32)
    seen = seen_items(item, np.arange(5) * DAY_MS, weight, np.array([0, 0]), np.array([3, 4]), 16)
    assert related_before(related, seen, 2).tolist() == [[0, 2, 0, 0], [0, 2, 2, 0]]
    newest = seen_items(item, np.arange(5) * DAY_MS, weight, np.array([0, 0]), np.array([3, 4]), 1)
    assert related_before(related, newest, 2).tolist() == [[0, 0, 0, 0], [0, 0, 2, 0]]


def log_of(users: int, pairs: int, seed: int, *, follow: bool) -> EventLog:
    """With ``follow`` every second event of a user is the pair of the one before; else few items have most events."""
    random = np.random.default_rng(seed)
    popularity = (np.arange(2 * pairs) + 1.0) ** -1.5
    items = []
    for _ in range(users):
        if follow:
            first = 2 * random.permutation(pairs)[:6] + random.integers(0, 2, 6)
            items.append(np.stack([first, first ^ 1], axis=1).reshape(-1))
        else:
            items.append(random.choice(2 * pairs, 12, replace=False, p=popularity / popularity.sum()))
    time_ms = np.sort(random.integers(0, 100, (users, 12)), axis=1) * DAY_MS + np.arange(12)
    return EventLog(
        users=[str(user) for user in range(users)],
        start=np.arange(users + 1) * 12,
        item=np.concatenate(items),
        time_ms=time_ms.reshape(-1),
        weight=np.ones(12 * users, dtype=np.float32),
    )


def fitted(log: EventLog, **settings: tuple[float, ...]) -> Fit:
    config = TrainConfig.model_validate({"epochs": 1, **settings})
    return fit(log, np.ones(log.events, dtype=np.bool_), near_pairs(60), ModelConfig(dimensions=4), config)


def test_validation_weighs_related_items_where_users_take_them() -> None:
    log = log_of(150, 60, seed=1, follow=True)
    found, without = fitted(log), fitted(log, related_weights=(0.0,))
    assert found.model.related is not None
    assert without.model.related is None
    assert found.validation_ndcg_at_10 > 1.5 * without.validation_ndcg_at_10


def test_validation_leaves_related_items_out_where_they_say_nothing() -> None:
    assert fitted(log_of(150, 60, seed=1, follow=False)).model.related is None
