"""The recommenders of the quality benchmark against plain counts and sums, on a log small enough for both."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest

from ebbtide.data.catalog import Catalog
from ebbtide.data.events import EventLog
from ebbtide.interest.events import MS_PER_DAY

ROOT = Path(__file__).parents[2]
ITEMS = 15


@pytest.fixture
def quality(monkeypatch):
    """Imports a module of the benchmark."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.quality.{name}")


@pytest.fixture
def log():
    """Twelve users over 900 days, with ties."""
    random = np.random.default_rng(8)
    lengths = random.integers(3, 40, 12)
    start = np.concatenate([[0], np.cumsum(lengths)])
    times = [np.sort(random.integers(0, 900, length)) * MS_PER_DAY for length in lengths]
    item = random.integers(0, ITEMS, start[-1])
    users = [f"u{user}" for user in range(12)]
    return EventLog(users, start, item, np.concatenate(times), np.ones(start[-1], np.float32))


@pytest.fixture
def split(quality, log):
    ids = [f"i{item}" for item in range(ITEMS)]
    return quality("split").splits(log, Catalog(ids, ids, ids), "time:0.3", repeats=True)[1]


def cases_by_time(split):
    return np.argsort(split.test.log.time_ms[split.test.baskets.head], kind="stable")


@pytest.mark.parametrize("updated", [True, False])
@pytest.mark.parametrize(
    ("half_life_days", "window_days"), [(math.inf, math.inf), (0.5, math.inf), (40.0, math.inf), (math.inf, 30.0)]
)
def test_popularity_equals_a_plain_sum_at_every_basket(quality, split, updated, half_life_days, window_days):
    test = split.test
    score = quality("popularity").popularity_scorer(split, updated, half_life_days, window_days)
    for case in cases_by_time(split):
        now = test.log.time_ms[test.baskets.head[case]] if updated else split.training_end_ms
        age_days = (now - test.log.time_ms) / MS_PER_DAY
        counted = (age_days > 0) & (age_days <= window_days) & (updated | split.training)
        expected = np.bincount(
            test.log.item[counted], weights=np.exp2(-age_days[counted] / half_life_days), minlength=ITEMS
        )
        found = score(np.array([case]))[0]
        assert found * expected.max() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_personal_frequency_counts_only_what_the_user_had_before(quality, split):
    test = split.test
    lists = quality("personal").personal_frequency(split, updated=True, half_life_days=20.0)
    for case in range(len(test.baskets)):
        past = split.history(case)
        age_days = (test.log.time_ms[test.baskets.head[case]] - test.log.time_ms[past]) / MS_PER_DAY
        assert (age_days > 0).all()
        expected = np.bincount(test.log.item[past], weights=np.exp2(-age_days / 20.0), minlength=ITEMS)
        best = lists.item[case, 0]
        assert expected[best] == pytest.approx(expected.max(), rel=1e-3, abs=1e-5)


def test_ease_predicts_every_item_by_the_ridge_regression_on_the_others(quality, split):
    linear = quality("linear")
    kept, gram = linear._cooccurrence(split)
    had = np.zeros((12, ITEMS))
    had[split.test.log.user[split.training], split.test.log.item[split.training]] = 1
    assert np.array_equal(gram, (had.T @ had)[np.ix_(kept, kept)])
    others = np.flatnonzero(kept != kept[0])
    x, y = had[:, kept[others]], had[:, kept[0]]
    weights = np.linalg.solve(x.T @ x + 5.0 * np.eye(others.size), x.T @ y)
    lists = linear.ease(split, regularisation=5.0)
    case = 0
    past = np.zeros(ITEMS)
    past[split.test.log.item[split.history(case)]] = 1
    index = lists.item[case].tolist().index(kept[0])
    assert lists.score[case, index] == pytest.approx(past[kept[others]] @ weights, abs=1e-4)


def test_neighbours_follow_the_newest_event_when_the_half_life_is_short(quality, split):
    test = split.test
    lists = quality("linear").decayed_neighbours(split, half_life_days=0.1, shrinkage=10.0, neighbours=ITEMS)
    followed = 0
    for case, head in enumerate(test.baskets.head.tolist()):
        past = split.history(case)
        newest = set(test.log.item[past][test.log.time_ms[past] == test.log.time_ms[head - 1]].tolist())
        # After 60 days a weight of 2 ** -600 is 0 in float32, and every item's score with it.
        if len(newest) == 1 and test.log.time_ms[head] - test.log.time_ms[head - 1] < 10 * MS_PER_DAY:
            # With repeats an item is its own nearest neighbour.
            assert {lists.item[case, 0]} == newest
            followed += 1
    assert followed > 5


def test_split_to_tune_on_knows_no_test_event(quality, log):
    ids = [f"i{item}" for item in range(ITEMS)]
    validation, test = quality("split").splits(log, Catalog(ids, ids, ids), "time:0.3", repeats=False)
    assert validation.test.log.events == test.training.sum()
    assert validation.test.log.time_ms.max() < test.training_end_ms
    assert validation.test.is_test.any()


def test_rank_leaves_out_what_was_had_unless_repeats_are_allowed(quality, log):
    ids = [f"i{item}" for item in range(ITEMS)]
    module = quality("split")
    for repeats in (False, True):
        split = module.splits(log, Catalog(ids, ids, ids), "time:0.3", repeats=repeats)[1]
        lists = quality("popularity").popularity(split, updated=True)
        repeated = [
            bool(set(split.test.log.item[split.history(case)]) & set(lists.item[case]))
            for case in range(len(split.test.baskets))
        ]
        assert any(repeated) == repeats


@pytest.mark.parametrize("updated", [True, False])
def test_up_cf_equals_its_formula_user_by_user(quality, split, updated):
    test, recency, locality, asymmetry = split.test, 3, 2, 0.25
    lists = quality("next_basket").up_cf(
        split, updated=updated, recency=recency, locality=locality, asymmetry=asymmetry
    )
    border = split.training_end_ms if not updated else test.log.time_ms[test.baskets.head].min()
    for case in range(len(test.baskets)):
        own = baskets_before(test.log, test.owner[case], test.log.time_ms[test.baskets.head[case]])
        expected = shares(own, recency)
        for user in range(len(test.log.users)):
            theirs = baskets_before(test.log, user, border)
            if user != test.owner[case] and theirs:
                mine, other = set().union(*own), set().union(*theirs)
                alike = len(mine & other) / (len(mine) ** asymmetry * len(other) ** (1 - asymmetry))
                expected = expected + alike**locality * shares(theirs, recency)
        assert_best(lists, case, expected)


@pytest.mark.parametrize("updated", [True, False])
def test_tifu_knn_equals_its_formula_user_by_user(quality, split, updated):
    test, module = split.test, quality("next_basket")
    settings = {"neighbours": 3, "within_decay": 0.9, "group_decay": 0.5, "own_share": 0.4, "groups": 2}
    lists = module.tifu_knn(split, updated=updated, **settings)
    border = split.training_end_ms if not updated else test.log.time_ms[test.baskets.head].min()
    for case in range(len(test.baskets)):
        own = tifu_vector(baskets_before(test.log, test.owner[case], test.log.time_ms[test.baskets.head[case]]))
        others = [
            tifu_vector(baskets)
            for user in range(len(test.log.users))
            if user != test.owner[case] and (baskets := baskets_before(test.log, user, border))
        ]
        nearest = sorted(others, key=lambda vector: np.square(vector - own).sum())[:3]
        assert_best(lists, case, 0.4 * own + 0.6 * np.mean(nearest, axis=0))


def baskets_before(log, user, timestamp_ms):
    """A user's baskets strictly before a timestamp, as sets, oldest first."""
    own = slice(int(log.start[user]), int(log.start[user + 1]))
    times = [time for time in np.unique(log.time_ms[own]) if time < timestamp_ms]
    return [set(log.item[own][log.time_ms[own] == time].tolist()) for time in times]


def shares(baskets, recency):
    newest = baskets[-recency:]
    return sum(np.isin(np.arange(ITEMS), list(basket)) for basket in newest) / len(newest)


def tifu_vector(baskets):
    """Of two groups, the later one with the odd basket more."""
    hot = [np.isin(np.arange(ITEMS), list(basket)).astype(float) for basket in baskets]
    groups = [hot] if len(hot) == 1 else [hot[: len(hot) // 2], hot[len(hot) // 2 :]]
    vectors = [
        sum(0.9 ** (len(group) - 1 - index) * basket for index, basket in enumerate(group)) / len(group)
        for group in groups
    ]
    return sum(0.5 ** (len(vectors) - 1 - index) * vector for index, vector in enumerate(vectors)) / len(vectors)


def assert_best(lists, case, expected):
    """The list is in the order of the expected scores."""
    assert lists.score[case, :ITEMS] == pytest.approx(np.sort(expected)[::-1], abs=1e-5)
    assert expected[lists.item[case, :ITEMS]] == pytest.approx(np.sort(expected)[::-1], abs=1e-5)


def test_fits_are_found_again_until_their_key_changes(quality, split, tmp_path):
    cache = quality("cache")
    made = []

    def fit():
        made.append(1)
        return cache.Fitted(quality("popularity").popularity(split, updated=True), 1.5, 0.5)

    kept = cache.Cache(tmp_path)
    first, again = kept.get("a model", {"alpha": "1"}, fit), kept.get("a model", {"alpha": "1"}, fit)
    assert len(made) == 1
    assert np.array_equal(first.lists.item, again.lists.item)
    assert (again.train_s, again.cpu_s) == (1.5, 0.5)
    kept.get("a model", {"alpha": "2"}, fit)
    assert len(made) == 2


def test_code_counts_as_changed_only_when_it_does_something_else(quality, tmp_path):
    fingerprint = quality("cache").code_fingerprint
    file = tmp_path / "code.py"
    found = []
    for text in (
        "def f():\n    return 1\n",
        'def f():\n    """Says."""\n\n    return 1  # so\n',
        "def f():\n    return 2\n",
    ):
        file.write_text(text)
        found.append(fingerprint([file]))
    assert found[0] == found[1] != found[2]


def test_results_are_kept_for_later_runs_while_their_fingerprint_is_the_same(quality, split, tmp_path):
    results, records = quality("results").Results, quality("records").Records
    vectors = np.eye(ITEMS, dtype=np.float32)
    facts = {"name": "films", "data": "split 1"}
    order = ["popularity", "personal", "ebbtide", "ebbtide, seed 1"]

    def fitted(half_life_days):
        lists = quality("personal").personal_frequency(split, updated=True, half_life_days=half_life_days)
        return quality("cache").Fitted(lists, 1.5, 0.5)

    def begin(**more):
        return results(split, vectors, {**facts, **more}, order, records(tmp_path / "quality.json"))

    ours = {"kind": "ours", "model": "ebbtide", "popularity": "updated"}
    first = begin()
    first.add("personal", "b1", fitted(300.0), kind="baseline", popularity="updated")
    first.add("ebbtide", "e1", fitted(10.0), **ours, seed=0)
    later = begin()
    assert later.kept("personal", "b1")["ndcg_at_10"] == first.rows[0]["ndcg_at_10"]
    assert later.kept("ebbtide", "other code") is None
    assert later.kept("popularity", "b1") is None
    later.add("ebbtide, seed 1", "e2", fitted(300.0), **ours, seed=1)
    entry = later.save()
    outdated = {row["name"]: row.get("outdated", False) for row in entry["models"]}
    assert outdated == {"personal": False, "ebbtide": True, "ebbtide, seed 1": False}
    assert entry["left_out"] == ["popularity"]
    assert entry["over_seeds"]["ebbtide"]["ratio_to_best_baseline"] == pytest.approx(1)
    whole = begin()
    kept = [whole.kept(name, fingerprint) for name, fingerprint in (("personal", "b1"), ("ebbtide, seed 1", "e2"))]
    assert all(row is not None for row in kept)
    assert whole.kept("ebbtide", "e1") is None
    assert [row["name"] for row in begin(data="split 2").save()["models"]] == []


def test_actr_equals_its_formula_user_by_user(quality, split):
    test = split.test
    lists = quality("actr").actr(split, decay=0.5, spreading=0.2)
    training = [set(test.log.item[split.training][slice_].tolist()) for slice_ in sessions(split)]
    for case in range(len(test.baskets)):
        past = split.history(case)
        now = test.log.time_ms[test.baskets.head[case]]
        strength = ((now - test.log.time_ms[past]) / 3_600_000.0) ** -0.5
        expected = np.bincount(test.log.item[past], weights=strength / strength.sum(), minlength=ITEMS)
        last = set(test.log.item[past][test.log.time_ms[past] == test.log.time_ms[past].max()].tolist())
        for item in range(ITEMS):
            shares = [
                np.mean([item in had for had in training if source in had] or [0]) if item != source else 0.0
                for source in last
            ]
            expected[item] += 0.2 * np.mean(shares)
        found = np.sort(expected)[::-1]
        assert lists.score[case, :ITEMS] == pytest.approx(found, abs=1e-5)


def sessions(split):
    """Of the training events, those of one user and day."""
    log, training = split.test.log, split.training
    key = log.user[training] * 10_000 + log.time_ms[training] // MS_PER_DAY
    return [key == one for one in np.unique(key)]
