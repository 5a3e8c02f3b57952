"""A small export in memory and random requests for it, for the tests of the interest code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ebbtide.interest.attributes import AttributeIndex
from ebbtide.interest.candidates import CandidateScorer
from ebbtide.interest.checks import Request
from ebbtide.interest.contract import Limits
from ebbtide.interest.explanation import Explainer
from ebbtide.interest.lookup import KeyIndex
from ebbtide.interest.parameters import GateParameters, InterestConfig, InterestParameters
from ebbtide.interest.pipeline import InterestPipeline
from ebbtide.interest.repeat import RepeatParameters

NOW = 1_700_000_000_000
MS_PER_DAY = 86_400_000
DTYPES = {
    "event_item": np.int64,
    "event_time": np.int64,
    "now": np.int64,
    "event_is_current": np.bool_,
    "event_weight": np.float32,
    "event_type": np.int64,
    "event_count": np.int32,
    "alpha": np.float32,
    "decay_scale": np.float32,
    "exclude_item": np.int64,
    "exclude_seen": np.bool_,
    "ignore_unknown": np.bool_,
    "allow_attribute": np.int64,
    "candidate_item": np.int64,
    "text_vector": np.float32,
    "text_event": np.int64,
}


def request(items=(), **tensors) -> Request:
    """A request; times are `NOW` where none are given."""
    texts = len(tensors.get("text_vector", ()))
    own = texts if "text_event" not in tensors else sum(index == -1 for index in tensors["text_event"])
    values = {"event_item": items, "event_time": [NOW] * (len(items) + own), "now": [NOW]} | tensors
    return Request(**{name: np.array(value, DTYPES[name]) for name, value in values.items()})


class RandomModel:
    """Everything that an export serves, with random parameters: N items, d dimensions, p columns of the prior."""

    def __init__(
        self, seed=0, items=200, d=8, p=3, *, alpha="learned", limits=None, repeats=False, interest_share=0.0, **config
    ):
        random = np.random.default_rng(seed)

        def normal(*shape):
            return random.standard_normal(shape).astype(np.float32)

        self.limits = limits or Limits(max_events=40, max_exclude_items=10, max_texts=6, max_candidates=30)
        outputs = d if alpha == "per-dimension" else 1
        gate = None
        if alpha != "fixed":
            gate = GateParameters(normal(2 * d + 4, 5) / 3, normal(5), normal(5, outputs), normal(outputs))
        settings = {"exclude_seen": False, "ignore_unknown": False} | config
        self.parameters = InterestParameters(
            InterestConfig("f" * 16, 1_800_000, 0.5 if gate is None else None, limits=self.limits, **settings),
            (np.log(2) / np.geomspace(0.01, 900, d)).astype(np.float32),
            (np.log(2) / np.geomspace(2, 200, d)).astype(np.float32),
            gate,
            normal(p),
        )
        self.keys = random.choice(2**62, items, replace=False) - 2**61
        self.vectors = normal(items, d)
        self.factors = normal(items, d + p)
        if repeats:
            rates = (np.log(2) / np.array([2, 60])).astype(np.float32)
            items_own = (normal(items), normal(items, 2), normal(items, 5))
            hidden = (normal(6, 5), normal(5), normal(5), normal(1))
            share = None if interest_share is None else np.float32([interest_share])
            repeat = RepeatParameters(rates, normal(6), *items_own, *hidden, interest_share=share)
            self.parameters = replace(self.parameters, repeat=repeat)
        self.attributes = attributes()
        self.pipeline = InterestPipeline(
            self.parameters, KeyIndex.build(self.keys), self.vectors, self.attributes, self.factors
        )
        self.scorer = CandidateScorer(self.pipeline, self.factors)
        self.explainer = Explainer(self.pipeline, self.factors)


ATTRIBUTES = {"genre=drama": 11, "genre=far": 12, "stock=yes": -13}


def attributes() -> AttributeIndex:
    """Two columns: `genre` in words 0 and 1 (its values at bits 63 and 64), `stock` in word 2 (at bit 1)."""
    keys = np.array(list(ATTRIBUTES.values()), np.int64)
    return AttributeIndex(np.array([0, 2, 3]), KeyIndex.build(keys), np.array([0, 0, 1]), np.array([63, 64, 1]))


def random_request(random, model, *, candidates=False, texts=True) -> Request:
    """One of every kind: empty sets, padding, unknown items, texts of both kinds, every optional tensor or none."""
    count = int(random.choice([0, 1, 2, random.integers(3, model.limits.max_events - 3)]))
    items = random.choice(model.keys, count)
    tensors = {}
    own = 0
    if random.random() < 0.4:
        items = np.where(random.random(count) < 0.3, random.integers(-50, 50, count), items)
        tensors["ignore_unknown"] = [True]
    if texts and random.random() < 0.5:
        stands_for = random.permutation(count)[: random.integers(0, 4)]
        own = int(random.integers(0, 3))
        indices = np.r_[stands_for, np.full(own, -1)]
        tensors["text_event"] = random.permutation(indices)
        tensors["text_vector"] = random.standard_normal((indices.size, model.vectors.shape[1]))
    events = count + own
    ages_ms = np.exp(random.uniform(5, np.log(1000 * MS_PER_DAY), events)).astype(np.int64)
    tensors["event_time"] = NOW - (np.sort(ages_ms)[::-1] if random.random() < 0.5 else ages_ms)
    if random.random() < 0.5:
        tensors["event_is_current"] = random.random(events) < random.choice([0, 0.3, 1])
    for name, value in (
        ("event_weight", random.random(events) * 5),
        ("alpha", random.random(1)),
        ("decay_scale", random.choice([0, 0.5, 1, 7], 1)),
        ("exclude_item", random.choice(model.keys, random.integers(0, model.limits.max_exclude_items))),
        ("exclude_seen", [random.random() < 0.5]),
        ("allow_attribute", random.choice(list(ATTRIBUTES.values()), random.integers(0, 4))),
    ):
        if random.random() < 0.4:
            tensors[name] = value
    if "text_event" not in tensors and random.random() < 0.3:
        tensors["event_count"] = [random.integers(0, count + 1)]
    if candidates:
        chosen = random.choice(model.keys, random.integers(0, 12))
        tensors["candidate_item"] = np.r_[chosen, items[:3], [5]]
        tensors.pop("event_count", None)
    return request(items, **tensors)


@pytest.fixture(scope="session")
def make_model():
    return RandomModel


@pytest.fixture(scope="session")
def ask():
    return request


@pytest.fixture(scope="session")
def ask_at_random():
    return random_request
