"""Live popularity: counts of observed events in a store, and what they change in scores, rankings and explanations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.interest import contract, served_models
from ebbtide.interest.adjustments import find_pairs
from ebbtide.interest.contract import Limits
from ebbtide.interest.keys import user_keys
from ebbtide.interest.live_counts import LEAST_COUNT, Part, PopularityWriter, Settings
from ebbtide.interest.live_prior import LivePrior
from ebbtide.interest.observer import Observer
from ebbtide.interest.popularity import CountedPopularity, PriorOfOthers, Smoothing
from ebbtide.interest.popularity_reader import POPULARITY_VARIABLE, PopularityReader, popularity_seconds
from ebbtide.interest.users import Users
from ebbtide.store import StoreConfig, UnavailableError, open_store
from ebbtide.train.popularity import counted_at

NOW = 1_700_000_000_000
DAY_MS = 86_400_000
HALF_LIVES = np.array([0.05, 2.0, 30.0, np.inf])
SMOOTHING = Smoothing(HALF_LIVES, np.array([4.0, np.inf, 20.0, 50.0]), (0, 1, 2), 3.0)


@pytest.fixture
def store(tmp_path):
    with open_store(f"embedded:{tmp_path / 'states'}", StoreConfig(timeout_ms=60_000)) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(limits=Limits(max_events=40, max_exclude_items=300), repeats=True)


class Counted:
    """A version that has counted a log up to a time."""

    def __init__(self, model, store, item, time_ms, since_ms=NOW, fingerprint="f" * 16):
        self.model = model
        self.base = counted_at(item, time_ms, len(model.keys), SMOOTHING, since_ms)
        self.users = Users(store, fingerprint)
        columns = self.base.columns()
        self.factors = np.concatenate([model.factors[:, : -columns.shape[1]], columns], axis=1)
        model.pipeline.prior = None
        self.reader = PopularityReader(model.pipeline, self.users, self.base, self.factors)

    def writer(self):
        return PopularityWriter(self.users, self.base)


def old_log(model, events=300):
    random = np.random.default_rng(1)
    return random.integers(0, len(model.keys), events), NOW - random.integers(1, 90 * DAY_MS, events)


def log_of_all_items(model):
    item = np.arange(len(model.keys))
    return item, NOW - 1 - item


@settings(max_examples=8)
@given(
    st.lists(st.tuples(st.integers(0, 199), st.integers(0, 9 * DAY_MS)), min_size=1, max_size=60),
    st.randoms(use_true_random=False),
)
def test_live_counts_equal_refreshed_ones_whatever_the_order_and_the_writers(model, tmp_path_factory, events, random):
    item, time_ms = old_log(model)
    with open_store(f"embedded:{tmp_path_factory.mktemp('live') / 'states'}", StoreConfig(durability="crash")) as store:
        version = Counted(model, store, item, time_ms)
        writers = [version.writer() for _ in range(2)]
        shuffled = random.sample(events, len(events))
        while shuffled:
            count = random.randint(1, len(shuffled))
            some, shuffled = shuffled[:count], shuffled[count:]
            writer = random.choice(writers)
            writer.add(model.keys[[one for one, _ in some]], NOW + np.array([time for _, time in some]))
            if random.random() < 0.7:
                writer.flush()
            version.reader.poll()
        for writer in writers:
            writer.flush()
        version.reader.poll()
    live = version.reader.counted()
    new_item, new_time_ms = np.array(events).T
    whole = np.r_[item, new_item], np.r_[time_ms, NOW + new_time_ms]
    refreshed = counted_at(*whole, len(model.keys), SMOOTHING, int(whole[1].max()) + 1)
    assert live.as_of_ms == refreshed.as_of_ms
    finite = np.isfinite(SMOOTHING.events)
    np.testing.assert_allclose(live.counts[finite], refreshed.counts[finite], rtol=1e-9, atol=10 * LEAST_COUNT)
    np.testing.assert_allclose(live.columns(), refreshed.columns(), rtol=1e-5, atol=1e-5)


def test_events_that_the_export_has_counted_do_not_count_again(model, store):
    item, time_ms = old_log(model)
    version = Counted(model, store, item, time_ms)
    writer = version.writer()
    writer.add(model.keys[item], time_ms)
    writer.flush()
    version.reader.poll()
    assert model.pipeline.prior is None
    np.testing.assert_array_equal(version.reader.counted().counts, version.base.counts)


def test_batch_counts_once_when_it_is_sent_again(model, store, monkeypatch):
    version = Counted(model, store, *log_of_all_items(model))
    writer = version.writer()
    original, calls = type(store).update, []

    def broken(self, users, change):
        original(self, users, change)
        calls.append(len(users))
        if len(calls) == 2:  # the counts are written, but the writer does not hear of it
            raise UnavailableError("the connection broke")

    monkeypatch.setattr(type(store), "update", broken)
    writer.add(model.keys[:9], np.full(9, NOW))
    with pytest.raises(UnavailableError):
        writer.flush()
    writer.add(model.keys[:1], np.full(1, NOW))
    writer.flush()
    version.reader.poll()
    more = version.reader.counted().counts[-1] - version.base.counts[-1]
    assert more[:10].round(9).tolist() == [2, 1, 1, 1, 1, 1, 1, 1, 1, 0]


def test_every_version_in_use_counts_what_one_of_them_observes(model, store):
    item, time_ms = log_of_all_items(model)
    old = Counted(model, store, item, time_ms)
    later = Counted(model, store, item, time_ms, NOW + 1000, fingerprint="e" * 16)
    # Servers that have loaded a version are told in the store, before they have observed anything.
    later.reader.poll()
    writer = old.writer()
    writer.add(model.keys[[3, 3, 4]], np.array([NOW, NOW + 2000, NOW + 2000]))
    writer.flush()
    for version, expected in ((old, [2, 1]), (later, [1, 1])):
        version.reader.poll()
        more = version.reader.counted().counts[-1] - version.base.counts[-1]
        np.testing.assert_allclose(more[[3, 4]], expected)


def test_observed_events_count_unless_repeated_unknown_or_as_exported(model, store):
    version = Counted(model, store, *log_of_all_items(model))
    writer = version.writer()
    observer = Observer(model.pipeline, version.users, clock_ms=lambda: NOW + DAY_MS, popularity=writer)

    def row(user, keys, **tensors):
        return {
            "user": user_keys([user]),
            "event_item": np.array([keys]),
            "event_time": NOW + np.arange(len(keys))[None],
            "ignore_unknown": np.array([[True]]),
            **tensors,
        }

    a, b, c = model.keys[:3].tolist()
    first = row("ann", [a, b, 123])
    left_out = row("cid", [c], as_exported=np.array([[True]]))
    for answer in observer.run_requests([first, first, row("bob", [a]), left_out]):
        assert not isinstance(answer, Exception)
    observer.run_requests([first])
    writer.flush()
    version.reader.poll()
    more = version.reader.counted().counts[-1] - version.base.counts[-1]
    assert more[:3].round(9).tolist() == [2, 1, 0]


@pytest.fixture
def trending(model, store):
    """A version after one item became popular."""
    version = Counted(model, store, *log_of_all_items(model))
    version.explainer = type(model.explainer)(model.pipeline, version.factors)
    version.scorer = type(model.scorer)(model.pipeline, version.factors)
    writer = version.writer()
    writer.add(np.repeat(model.keys[[7, 8]], [900, 300]), NOW + np.arange(1200))
    writer.flush()
    version.reader.poll()
    yield version
    model.pipeline.prior = None


def test_scores_rankings_and_explanations_have_the_live_prior(model, trending):
    events = {"event_item": model.keys[[1, 2, 8]][None], "event_time": np.array([[NOW - 5, NOW - 3, NOW - 1]])}
    candidates = model.keys[:30][None]
    request = {**events, "now": np.array([[NOW + 2000]]), "candidate_item": candidates}
    [weights] = model.pipeline.run_requests([request])
    [frozen] = model.pipeline.run_requests([{**request, "as_exported": np.array([[True]])}])
    live = trending.reader.counted().columns()
    gain = (live - trending.base.columns()) @ model.parameters.prior_weight
    expected = trending.factors[:30] @ weights["interest"][0] + (gain - np.median(gain))[:30]
    repeats = find_pairs(
        frozen["adjust_item"], frozen["adjust_score"], np.zeros(30, np.int64), np.arange(30), len(model.keys)
    )
    # An item with a repeat score keeps it: that replaces the prior.
    expected = np.where(repeats != 0, repeats, expected)
    [ranked] = trending.scorer.run_requests([{**weights, "candidate_item": candidates}])
    np.testing.assert_allclose(ranked["candidate_score"][0], expected, atol=1e-4)
    [why] = trending.explainer.run_requests([request])
    np.testing.assert_allclose(why["candidate_score"][0], expected, atol=1e-4)
    assert np.isfinite(model.pipeline.prior.gains(np.array([7, -1]))).all()
    assert repeats[8] != 0
    [was] = trending.explainer.run_requests([{**request, "as_exported": np.array([[True]])}])
    assert abs(why["prior_share"][7] - was["prior_share"][7]) > 1


@pytest.mark.usefixtures("trending")
def test_adjustments_of_the_user_come_first_when_there_is_no_room(model):
    limits = replace(model.limits, max_exclude_items=0, max_events=3)
    narrow = type(model.pipeline)(
        replace(model.parameters, config=replace(model.parameters.config, limits=limits), repeat=None),
        model.pipeline.index,
        model.vectors,
    )
    narrow.prior = model.pipeline.prior
    events = {"event_item": model.keys[[1, 2]][None], "event_time": np.full((1, 2), NOW)}
    request = {**events, "now": np.array([[NOW]]), "exclude_seen": np.array([[True]])}
    [answer] = narrow.run_requests([request])
    assert answer["adjust_item"][0].tolist() == [1, 2, 7]
    assert np.isneginf(answer["adjust_score"][0]).tolist() == [True, True, False]


def test_items_whose_share_changes_most_are_chosen():
    frozen = np.log(np.array([8, 1, 1e-3, 1, 1, 1, 1]))
    now = np.log(np.array([8.1, 4, 1e-2, 1, 1, 1, 1]))
    prior = LivePrior.of(now - frozen, frozen, np.zeros((7, 2), np.float32), most=2)
    assert prior is not None
    assert prior.item.tolist() == [0, 1]
    assert LivePrior.of(np.full(7, 0.5), frozen, np.zeros((7, 2), np.float32)) is None


def test_part_is_read_as_written_and_damage_is_named():
    settings_of = Settings(HALF_LIVES, NOW)
    part = Part.empty(settings_of).plus(settings_of, np.array([5, 2, 5]), np.array([NOW, NOW, NOW + 1]), 2**63 + 1, 4)
    read = Part.from_bytes(part.to_bytes())
    assert (read.as_of_ms, read.key.tolist(), dict(read.batches)) == (NOW + 1, [2, 5], {2**63 + 1: 4})
    assert read.first_ms.tolist() == [NOW, NOW]
    np.testing.assert_array_equal(read.counts, part.counts)
    with pytest.raises(ValueError, match="damaged record"):
        Part.from_bytes(part.to_bytes()[:-3])
    with pytest.raises(ValueError, match="got format 9; expected 2"):
        Part.from_bytes(b"\x09" + part.to_bytes()[1:])


def test_counts_are_read_as_the_export_wrote_them():
    counted = CountedPopularity(SMOOTHING, np.ones((4, 3)), NOW)
    read = CountedPopularity.from_tensors(counted.to_tensors())
    assert read is not None
    assert (read.smoothing.starts, read.smoothing.first_event_bonus, read.as_of_ms) == ((0, 1, 2), 3, NOW)
    np.testing.assert_array_equal(read.columns(), counted.columns())
    assert CountedPopularity.from_tensors({}) is None


@pytest.mark.parametrize(("value", "seconds"), [("", 5.0), ("0.5", 0.5), ("off", None)])
def test_seconds_are_read_from_the_environment(value, seconds):
    assert popularity_seconds({POPULARITY_VARIABLE: value}) == seconds


@pytest.mark.parametrize("value", ["0", "-1", "soon", "inf"])
def test_wrong_seconds_are_named(value):
    with pytest.raises(ValueError, match=f"{POPULARITY_VARIABLE}: got '{value}'; expected a number of seconds"):
        popularity_seconds({POPULARITY_VARIABLE: value})


def test_observer_takes_the_switch_as_the_users_models_do():
    assert contract.AS_EXPORTED in served_models.OBSERVE.inputs
    assert contract.AS_EXPORTED in served_models.RECOMMEND.inputs


def test_added_item_begins_as_the_average_one_and_fades_to_one_without_events():
    random = np.random.default_rng(0)
    smoothing = Smoothing(np.array([1.0, 30.0]), np.array([4.0, 50.0]), (0, 1))
    counted = CountedPopularity(smoothing, random.random((2, 40)) * 9, NOW)
    weight = np.array([0.7, 0.3])
    key = np.array([5])
    prior = PriorOfOthers(counted, weight)
    ages = [prior.scores(key, np.array([NOW - days * DAY_MS]))[0] for days in (-1, 0, 1, 30, 10_000)]
    assert ages[:2] == pytest.approx([0, 0], abs=1e-6)
    assert sorted(ages, reverse=True) == ages
    assert ages[2] < -0.01
    assert ages[-1] == pytest.approx(prior.columns() @ weight, abs=1e-6)
    taken = PriorOfOthers(counted, weight, 0.0, key, np.full((2, 1), 3.0))
    assert taken.scores(key, np.array([NOW - 10_000 * DAY_MS]))[0] > ages[-1]
    assert taken.scores(key, np.array([NOW]))[0] > 0
