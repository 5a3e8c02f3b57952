"""A held-out log replayed through the states of a real server gives what `ebbtide evaluate` gives."""

import pytest

from benchmarks.replay import replay, serving
from commands import ebbtide
from ebbtide.data.dataset import read_dataset
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.evaluation.evaluate import evaluate_bundle, evaluate_lists
from ebbtide.train.evaluation.testset import TestSet


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_replay_through_states_equals_evaluation_on_the_shipped_data(movielens, tmp_path):
    ebbtide(
        *("train", "--out", tmp_path / "bundle", "--holdout", "time:0.2", "--epochs", "1", "--no-refit"),
        *("--events", movielens / "ratings.parquet", "--user-col", "userId", "--item-col", "movieId"),
        *("--time-col", "timestamp", "--catalog", movielens / "movies.parquet"),
        *("--text-template", "{title} ({year}). {genres}", "--dimensions", "32"),
    )
    bundle = InterestBundle.load(tmp_path / "bundle")
    data = read_dataset(bundle.config.data)
    test = TestSet.of(data.log, data.catalog, "time:0.2")
    with serving(bundle, test, tmp_path) as served:
        replayed = replay(served.url, test)
    of_server = evaluate_lists(test, replayed.lists, bundle.text_vectors)
    right = evaluate_bundle(bundle, test, frozen=True, repeats=None, all_events=True)
    difference = of_server.metrics["ndcg_at_10"].mean - right.evaluation.metrics["ndcg_at_10"].mean
    assert right.evaluation.metrics["ndcg_at_10"].mean > 0.01
    assert abs(difference) <= 1e-4
    assert (replayed.lists.item[:, :10] == right.lists.item[:, :10]).all(axis=1).mean() > 0.98
