"""Event types of requests and states: a factor on the weight of an event, and which events popularity counts."""

import numpy as np
import pytest

from ebbtide.interest.blend import blend_interest
from ebbtide.interest.errors import RequestError
from ebbtide.interest.event_types import EventType, EventTypes, known_types
from ebbtide.interest.events import order_events
from ebbtide.interest.observer import Observer
from ebbtide.interest.parameters import InterestConfig
from ebbtide.interest.users import Users
from ebbtide.store import open_store
from stores import PATIENT

NOW = 1_700_000_000_000
DAY_MS = 86_400_000
TYPES = (EventType("purchase", 11, 1.0, True), EventType("view", -7, 0.25, False), EventType("dislike", 5, -1.5, False))
KEYS = np.array([one.key for one in TYPES])
WEIGHTS = np.array([one.weight for one in TYPES])


def events(model, count, seed=0):
    """Items, times and types of events, and their weights."""
    random = np.random.default_rng(seed)
    kind = random.integers(0, 3, count)
    weight = random.uniform(0.5, 3, count).astype(np.float32)
    items = model.keys[random.integers(0, 30, count)]
    return items, np.sort(NOW - random.integers(1, 200 * DAY_MS, count)), kind, weight


@pytest.fixture(params=[False, True], ids=["by factors", "repeat score"])
def model(request, make_model):
    return make_model(repeats=request.param, event_types=TYPES)


def run(model, *requests):
    found = model.pipeline.run(requests)
    for one in found:
        if isinstance(one, RequestError):
            raise one
    return found


def test_types_multiply_weights_when_a_request_has_both(model, ask):
    items, times, kind, weight = events(model, 30)
    typed = ask(items, event_time=times, event_weight=weight, event_type=KEYS[kind])
    alone = ask(items, event_time=times, event_type=KEYS[kind])
    vectors = model.vectors[model.pipeline.index.find(items)]
    for answer, given in zip(run(model, typed, alone), (weight, np.ones(30)), strict=True):
        weights = (given * WEIGHTS[kind]).astype(np.float32)
        batch = order_events(np.array([30]), times, np.array([NOW]), weights, None, 1_800_000)
        blend = blend_interest(batch, vectors[batch.source], model.parameters)
        np.testing.assert_allclose(answer.interest[: vectors.shape[1]], blend.interest[0], atol=1e-5)
        assert np.isfinite(answer.adjust_score).all()


def test_config_is_read_as_it_was_written_when_it_has_event_types(model):
    config = model.parameters.config
    assert InterestConfig.from_json(config.to_json()) == config


def test_event_without_a_type_counts_as_one_of_the_first(model, ask):
    items, times, _, weight = events(model, 9)
    zero, first, without = run(
        model,
        ask(items, event_time=times, event_weight=weight, event_type=np.zeros(9)),
        ask(items, event_time=times, event_weight=weight, event_type=np.full(9, 11)),
        ask(items, event_time=times, event_weight=weight),
    )
    for other in (first, without):
        np.testing.assert_array_equal(zero.interest, other.interest)
        np.testing.assert_array_equal(zero.adjust_score, other.adjust_score)


def test_disliked_event_points_away_from_its_item(make_model, ask):
    model = make_model(alpha="fixed", event_types=TYPES)
    item = model.keys[3:4]
    liked, disliked = run(model, ask(item, event_type=[11]), ask(item, event_type=[5]))
    d = model.vectors.shape[1]
    np.testing.assert_allclose(liked.interest[:d], -disliked.interest[:d], atol=1e-6)


@pytest.mark.parametrize("count", [5, 35])
def test_state_equals_the_request_when_its_events_have_types(model, ask, tmp_path, count):
    items, times, kind, weight = events(model, count)
    with open_store(f"embedded:{tmp_path / 'states'}", PATIENT) as store:
        users = Users(store, model.parameters.config.states)
        observer = Observer(model.pipeline, users, clock_ms=lambda: NOW)
        user = np.array([[1, 2]])
        for start in range(0, count, 7):
            part = slice(start, start + 7)
            observed = {
                "user": user,
                "event_item": items[part][None],
                "event_time": times[part][None],
                "event_weight": weight[part][None],
                "event_type": KEYS[kind[part]][None],
            }
            [answer] = observer.run_requests([observed])
            assert answer["observed"].ravel().tolist() == [len(items[part]), 0, 0, 0]
        asked = {"user": user, "now": np.array([[NOW]])}
        [by_state] = users.answer([asked], lambda some, records: model.pipeline.run_requests(some, records=records))
    typed = ask(items, event_time=times, event_weight=weight, event_type=KEYS[kind])
    [by_request] = run(model, typed)
    np.testing.assert_allclose(by_state["interest"][0], by_request.interest, atol=1e-4)
    if model.parameters.repeat is not None:
        found = dict(zip(by_state["adjust_item"][0].tolist(), by_state["adjust_score"][0].tolist(), strict=True))
        right = dict(zip(by_request.adjust_item.tolist(), by_request.adjust_score.tolist(), strict=True))
        assert found.keys() == right.keys()
        for item, score in right.items():
            assert found[item] == pytest.approx(score, abs=1e-3)


def test_popularity_counts_target_types_only_when_events_are_observed(model, tmp_path):
    items, times, kind, _ = events(model, 20)
    counted = []

    class Writer:
        def add(self, key, time_ms):
            counted.extend(zip(key.tolist(), time_ms.tolist(), strict=True))

    with open_store(f"embedded:{tmp_path / 'states'}", PATIENT) as store:
        users = Users(store, model.parameters.config.states)
        observer = Observer(model.pipeline, users, clock_ms=lambda: NOW, popularity=Writer())
        observed = {"event_item": items[None], "event_time": times[None], "event_type": KEYS[kind][None]}
        observer.run_requests([{"user": np.array([[1, 2]]), **observed}])
        without = {"event_item": items[:1][None], "event_time": times[:1][None] + 1}
        observer.run_requests([{"user": np.array([[3, 4]]), **without}])
    wanted = [(int(item), int(time)) for item, time, one in zip(items, times, kind, strict=True) if one == 0]
    assert counted == [*wanted, (int(items[0]), int(times[0]) + 1)]


def test_unknown_type_is_refused_with_those_that_are_known(model, ask):
    items, times, _, _ = events(model, 3)
    refused, sound = model.pipeline.run(
        [ask(items, event_time=times, event_type=[11, 99, 5]), ask(items, event_time=times, event_type=[11, 11, 5])]
    )
    assert isinstance(refused, RequestError)
    assert not isinstance(sound, RequestError)
    assert (refused.field, refused.value) == ("event_type[1]", "99")
    assert "'dislike', 'purchase', 'view'" in refused.expected


def test_type_is_refused_when_the_training_knew_none(make_model, ask):
    model = make_model()
    items = model.keys[:2]
    refused, sound = model.pipeline.run([ask(items, event_type=[0, 11]), ask(items, event_type=[0, 0])])
    assert (refused.field, refused.value) == ("event_type[1]", "11")
    assert "trained without event types" in refused.expected
    [plain] = run(model, ask(items))
    np.testing.assert_array_equal(sound.interest, plain.interest)


def test_known_types_are_the_nearest_when_a_name_is_given():
    names = ("purchase", "view", "Dislike")
    assert known_types(names, "dislikes") == "'Dislike'"
    assert known_types(names, "zzz") == "'Dislike', 'purchase', 'view'"
    assert EventTypes(TYPES).names == ("purchase", "view", "dislike")
