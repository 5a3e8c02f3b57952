"""``ebbtide evaluate`` on a real slice: its report, its predictions file, and lists that see nothing of the future."""

import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from ebbtide.cli.app import app
from ebbtide.data.catalog import Catalog
from ebbtide.data.dataset import read_dataset
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventLog
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.evaluation.evaluate import evaluate_bundle
from ebbtide.train.evaluation.lists import NO_ITEM, rank_baskets, read_predictions
from ebbtide.train.evaluation.ratings import predicted_ratings
from ebbtide.train.evaluation.report import protocol_line
from ebbtide.train.evaluation.scores import frozen_popularity, live_popularity
from ebbtide.train.evaluation.segments import MOST_SEGMENTS, OTHER, segments
from ebbtide.train.evaluation.testset import TestSet
from ebbtide.train.stage import train_bundle
from films import films_in

PNG = b"\x89PNG\r\n\x1a\n"


def bundle_of(files, *, weight=None, loss="full-softmax", **model):
    data = films_in(files, weight_column=weight, title_template=None, max_bad_rows=0.0, holdout="time:0.3")
    training = TrainConfig(epochs=1, refit=False, loss=loss)
    return train_bundle(data, "packaged", ModelConfig(dimensions=8, **model), training)[0]


@pytest.fixture(scope="module")
def bundles(small_files, tmp_path_factory):
    """Bundles on disk, with decay and without."""
    folder = tmp_path_factory.mktemp("bundles")
    bundle_of(small_files).save(folder / "decay")
    bundle_of(small_files, decay="none", alpha="fixed:0.5").save(folder / "plain")
    return folder


@pytest.fixture
def held_out_otherwise(bundles, tmp_path):
    """A bundle that says it was trained with another holdout."""

    def copy(holdout):
        shutil.copytree(bundles / "decay", tmp_path / "other")
        config = json.loads((tmp_path / "other" / "bundle.json").read_text())
        config["data"]["holdout"] = holdout
        (tmp_path / "other" / "bundle.json").write_text(json.dumps(config))
        return tmp_path / "other"

    return copy


@pytest.fixture(scope="module")
def run_of(bundles):
    bundle = InterestBundle.load(bundles / "decay")
    data = read_dataset(bundle.config.data)
    test = TestSet.of(data.log, data.catalog, "time:0.3")
    return evaluate_bundle(bundle, test, frozen=False, repeats=None)


def evaluate(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def written(bundles, tmp_path_factory):
    """What one run of the command wrote, and printed."""
    folder = tmp_path_factory.mktemp("written")
    done = evaluate(
        *(bundles / "decay", "--against", bundles / "plain"),
        *("--predictions", folder / "lists.parquet", "--report", folder / "report", "--json", folder / "metrics.json"),
    )
    assert done.exit_code == 0, done.output
    return folder, done.output


def test_evaluate_prints_metrics_and_the_paired_difference(written):
    _, output = written
    for expected in ("NDCG", "Hit rate", "95 % of @10", "not applicable", "popularity updated", "Against plain"):
        assert expected in output


def test_evaluate_writes_a_report_with_every_metric_its_interval_and_plots(written):
    folder, _ = written
    report = json.loads((folder / "report" / "report.json").read_text())
    assert report == json.loads((folder / "metrics.json").read_text())
    low, high = report["interval_95"]["ndcg_at_10"]
    assert 0 < low <= report["ndcg_at_10"] <= high <= 1
    assert 0 < report["coverage_at_10"] <= 1
    assert report["rmse"] is None
    assert len(report["learned"]["half_life_days"]) == 8
    difference = report["against"]["differences"]["ndcg_at_10"]
    assert difference["mean"] == pytest.approx(report["ndcg_at_10"] - report["against"]["ndcg_at_10"])
    assert sum(row["baskets"] for row in report["breakdowns"]["gap"]["bins"]) == report["baskets"]
    text = (folder / "report" / "report.md").read_text()
    for plot in ("half_lives.png", "alpha.png", "breakdowns.png"):
        assert f"({plot})" in text
        assert (folder / "report" / plot).read_bytes().startswith(PNG)


def test_predictions_give_the_reported_metrics_when_scored_by_hand(written):
    folder, _ = written
    report = json.loads((folder / "metrics.json").read_text())
    rows = pl.read_parquet(folder / "lists.parquet")
    assert rows.columns == ["user", "time", "rank", "item", "score", "is_relevant", "relevant_items"]
    users = {}
    for (user, _), indices in rows.group_by(["user", "time"]):
        top = indices.filter(pl.col("rank") <= 10)
        hits = top.filter("is_relevant")["rank"].to_list()
        relevant = indices["relevant_items"][0]
        best = sum(1 / np.log2(rank + 1) for rank in range(1, min(relevant, 10) + 1))
        users.setdefault(user, []).append(
            {
                "ndcg_at_10": sum(1 / np.log2(rank + 1) for rank in hits) / best,
                "recall_at_10": len(hits) / relevant,
                "precision_at_10": len(hits) / 10,
                "hit_rate_at_10": float(bool(hits)),
                "mrr_at_10": 1 / min(hits) if hits else 0.0,
            }
        )
    assert len(users) == report["users"]
    for name in ("ndcg_at_10", "recall_at_10", "precision_at_10", "hit_rate_at_10", "mrr_at_10"):
        by_hand = np.mean([np.mean([basket[name] for basket in baskets]) for baskets in users.values()])
        assert by_hand == pytest.approx(report[name], abs=1e-6), name


def test_relevant_items_of_the_predictions_are_those_of_the_event_log(written, small_files):
    folder, _ = written
    rows = pl.read_parquet(folder / "lists.parquet")
    events = pl.read_parquet(small_files / "ratings.parquet").select(
        user=pl.col("userId").cast(pl.String),
        time=pl.from_epoch("timestamp", time_unit="s").cast(pl.Datetime("ms", "UTC")),
        item=pl.col("movieId").cast(pl.String),
        found=pl.lit(True),
    )
    joined = rows.join(events.unique(), on=["user", "time", "item"], how="left")
    assert joined["found"].fill_null(False).equals(joined["is_relevant"], check_names=False)
    counted = events.group_by("user", "time").agg(pl.col("item").n_unique().alias("n"))
    joined = rows.join(counted, on=["user", "time"])
    assert (joined["n"] == joined["relevant_items"]).all()


def test_evaluate_scores_a_predictions_file_as_it_scored_the_bundle(bundles, written, tmp_path):
    folder, _ = written
    done = evaluate(bundles / "decay", "--against", folder / "lists.parquet", "--json", tmp_path / "m.json")
    assert done.exit_code == 0, done.output
    differences = json.loads((tmp_path / "m.json").read_text())["against"]["differences"]
    assert all(found["mean"] == 0 and found["p_value"] == 1 for found in differences.values())


def test_predictions_differ_by_nothing_from_themselves_when_written_as_csv(bundles, run_of, tmp_path):
    done = evaluate(bundles / "decay", "--predictions", tmp_path / "lists.csv")
    assert done.exit_code == 0, done.output
    lists = read_predictions(tmp_path / "lists.csv", run_of.test.log, run_of.test.baskets, run_of.test.catalog)
    assert (lists.item == run_of.lists.item).all()
    done = evaluate(bundles / "decay", "--against", tmp_path / "lists.csv", "--json", tmp_path / "m.json")
    assert done.exit_code == 0, done.output
    differences = json.loads((tmp_path / "m.json").read_text())["against"]["differences"]
    assert all(found["mean"] == 0 for found in differences.values())


@pytest.mark.parametrize("name", ["baskets.csv", "baskets.parquet"])
def test_own_recommender_is_compared_when_it_predicts_the_baskets_that_were_written(bundles, run_of, tmp_path, name):
    done = evaluate(bundles / "decay", "--baskets", tmp_path / name)
    assert done.exit_code == 0, done.output
    assert f"{len(run_of.test.baskets):,} baskets to predict" in done.output
    read = pl.read_csv if name.endswith(".csv") else pl.read_parquet
    own = read(tmp_path / name)
    assert own.columns == ["user", "time"]
    items = pl.DataFrame({"item": run_of.test.catalog.item_id[:3], "rank": [1, 2, 3]})
    own.join(items, how="cross").write_csv(tmp_path / "own.csv")
    lists = read_predictions(tmp_path / "own.csv", run_of.test.log, run_of.test.baskets, run_of.test.catalog)
    assert (lists.item[:, :3] == [0, 1, 2]).all()
    assert (lists.item[:, 3:] == NO_ITEM).all()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,2024-05-01,first,7", "line 2, column rank: got 'first'; expected a whole number from 1"),
        ("1,yesterday,1,7", "column time: got 'yesterday'"),
    ],
)
def test_predictions_are_refused_with_line_and_column_when_a_value_cannot_be_read(run_of, tmp_path, row, message):
    (tmp_path / "lists.csv").write_text(f"user,time,rank,item\n{row}\n")
    with pytest.raises(DataError, match=message):
        read_predictions(tmp_path / "lists.csv", run_of.test.log, run_of.test.baskets, run_of.test.catalog)


def test_evaluate_is_refused_when_nothing_was_held_out(held_out_otherwise):
    done = evaluate(held_out_otherwise("none"))
    assert isinstance(done.exception, DataError)
    assert "--holdout time:0.2" in str(done.exception)


def test_evaluate_is_refused_when_the_bundles_are_of_another_split(bundles, held_out_otherwise):
    done = evaluate(bundles / "decay", "--against", held_out_otherwise("leave-last-out"))
    assert isinstance(done.exception, DataError)
    assert "holdout: got 'leave-last-out'; expected 'time:0.3'" in str(done.exception)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop("rank"), "no column 'rank'"),
        (lambda rows: rows.filter(pl.col("user") != rows["user"][0]), "got no list for"),
        (lambda rows: rows.with_columns(item=pl.lit("nothing")), "expected ids of the catalog"),
        (lambda rows: rows.with_columns(rank=pl.lit(1)), "same rank twice"),
        (lambda rows: rows.with_columns(item=pl.lit(rows["item"][0])), "same item twice"),
    ],
)
def test_predictions_are_refused_when_they_do_not_fit(written, run_of, tmp_path, change, message):
    folder, _ = written
    change(pl.read_parquet(folder / "lists.parquet")).write_parquet(tmp_path / "changed.parquet")
    with pytest.raises(DataError, match=message):
        read_predictions(tmp_path / "changed.parquet", run_of.test.log, run_of.test.baskets, run_of.test.catalog)


def test_evaluate_is_refused_when_the_catalog_has_changed_since_training(run_of):
    test = run_of.test
    shorter = Catalog(test.catalog.item_id[1:], test.catalog.text[1:], test.catalog.title[1:])
    with pytest.raises(DataError, match=r"catalog: got 299 items .* expected the 300"):
        evaluate_bundle(run_of.bundle, replace(test, catalog=shorter), frozen=False, repeats=None)


def lists_on(run, item, repeats=False):
    """The lists where the log's items are replaced."""
    log = run.test.log
    changed = EventLog(log.users, log.start, item, log.time_ms, log.weight)
    popularity = live_popularity(run.bundle.model, changed)
    return rank_baskets(run.bundle.model, changed, run.test.baskets, popularity, repeats=repeats)[0]


def test_lists_see_nothing_of_their_basket_or_later_when_the_future_is_changed(run_of):
    log, baskets = run_of.test.log, run_of.test.baskets
    timestamp = np.quantile(log.time_ms[baskets.head], 0.5, method="lower")
    item = log.item.copy()
    later = log.time_ms >= timestamp
    item[later] = np.random.default_rng(0).permutation(item[later])
    assert (item != log.item).any()
    changed = lists_on(run_of, item)
    before = log.time_ms[baskets.head] <= timestamp
    assert np.array_equal(changed.item[before], run_of.lists.item[before])
    assert not np.array_equal(changed.item[~before], run_of.lists.item[~before])


def test_lists_hold_no_seen_item_unless_repeats_are_allowed(run_of):
    log, baskets = run_of.test.log, run_of.test.baskets
    allowed = lists_on(run_of, log.item, repeats=True)
    repeated = 0
    for case, head in enumerate(baskets.head.tolist()):
        seen = set(log.item[log.start[run_of.test.owner[case]] : head].tolist())
        assert not seen & set(run_of.lists.item[case].tolist())
        repeated += bool(seen & set(allowed.item[case].tolist()))
    assert repeated > 0
    assert (allowed.item != NO_ITEM).all()


def test_frozen_popularity_is_that_of_the_bundle_at_any_time(run_of):
    frozen = frozen_popularity(run_of.bundle)
    for columns in frozen.columns_at(run_of.test.log.time_ms[:5]):
        assert np.array_equal(columns, run_of.bundle.prior_columns)
    other = evaluate_bundle(run_of.bundle, run_of.test, frozen=True, repeats=None)
    assert not np.array_equal(other.lists.score, run_of.lists.score)


def test_ratings_are_the_scores_of_the_lists_plus_the_mean_when_trained_on_them(small_files):
    bundle = bundle_of(small_files, weight="rating", loss="mse")
    data = read_dataset(bundle.config.data)
    test = TestSet.of(data.log, data.catalog, "time:0.3")
    run = evaluate_bundle(bundle, test, frozen=False, repeats=True)
    mean = bundle.config.rating_mean
    popularity = live_popularity(bundle.model, test.log)
    events, predicted = predicted_ratings(bundle.model, test, popularity, mean)
    assert np.isfinite(predicted).all()
    assert events.size == (test.baskets.stop - test.baskets.head).sum()
    found = 0
    for event, rating in zip(events.tolist(), predicted.tolist(), strict=True):
        case = np.searchsorted(test.baskets.head, event, side="right") - 1
        index = np.flatnonzero(run.lists.item[case] == test.log.item[event])
        if index.size:
            assert rating == pytest.approx(run.lists.score[case, index[0]] + mean, abs=1e-4)
            found += 1
    assert found > 0
    assert run.ratings.rmse.mean >= run.ratings.mae.mean > 0
    assert run.ratings.rmse_of_mean > 0


def test_online_replay_reports_the_paired_difference_and_moves_offsets(bundles, tmp_path):
    done = evaluate(
        *(bundles / "decay", "--online", "--online-learning-rate", 1),
        *("--json", tmp_path / "m.json", "--report", tmp_path / "report"),
    )
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "m.json").read_text())
    online = report["online"]
    difference = online["differences"]["ndcg_at_10"]
    assert difference["mean"] == pytest.approx(online["ndcg_at_10"] - report["ndcg_at_10"])
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert any(online["alpha_offset_quantiles"])
    assert "Learning online, paired over users" in done.output
    assert "## Learning online" in (tmp_path / "report" / "report.md").read_text()


def test_online_replay_is_refused_when_alpha_is_fixed(bundles):
    done = evaluate(bundles / "plain", "--online")
    assert isinstance(done.exception, DataError)
    assert "alpha: got a bundle with alpha fixed at 0.5" in str(done.exception)


def test_all_events_of_a_user_count_when_they_are_asked_for(run_of):
    parts = run_of.bundle.model, run_of.test.log, run_of.test.baskets, frozen_popularity(run_of.bundle)
    whole, few, many = (rank_baskets(*parts, repeats=False, context_events=events)[0] for events in (None, 5, 10_000))
    np.testing.assert_allclose(whole.score, many.score, atol=1e-5)
    history = run_of.test.baskets.head - run_of.test.log.start[run_of.test.owner]
    assert np.abs(whole.score - few.score)[history <= 5].max(initial=0) < 1e-5
    assert np.abs(whole.score - few.score)[history > 5].max() > 1e-3
    run = evaluate_bundle(run_of.bundle, run_of.test, frozen=False, repeats=None, all_events=True)
    assert run.all_events
    assert "all events of a user" in protocol_line(run, "updated")


def test_segments_of_items_are_judged_by_their_relevant_items_alone(run_of):
    found = segments(run_of, "genres")
    assert found.title == "By genres of the items"
    counts = [row.baskets for row in found.bins[:MOST_SEGMENTS]]
    assert counts == sorted(counts, reverse=True)
    movies = pl.read_parquet(run_of.bundle.config.data.catalog)
    dramas = movies.filter(pl.col("genres").str.split("|").list.contains("Drama"))["movieId"].cast(pl.String)
    mark = np.isin(run_of.test.catalog.item_id, dramas.to_list())
    relevant = np.split(run_of.test.relevance.item, run_of.test.relevance.start[1:-1])
    [drama] = [row for row in found.bins if row.label == "Drama"]
    assert drama.baskets == sum(mark[items].any() for items in relevant)


def test_segments_of_users_share_the_users_and_their_mean(run_of, tmp_path):
    log = pl.read_parquet(run_of.bundle.config.data.events)
    log.with_columns(half=pl.col("userId") % 2).write_parquet(tmp_path / "log.parquet")
    data = run_of.bundle.config.data.model_copy(update={"events": str(tmp_path / "log.parquet")})
    config = run_of.bundle.config.model_copy(update={"data": data})
    found = segments(replace(run_of, bundle=replace(run_of.bundle, config=config)), "half")
    assert {row.label for row in found.bins} == {"0", "1"}
    assert sum(row.users for row in found.bins) == run_of.evaluation.users
    mean = sum(row.users * row.ndcg_at_10.mean for row in found.bins) / run_of.evaluation.users
    assert mean == pytest.approx(run_of.evaluation.means["ndcg_at_10"])
    assert OTHER not in {row.label for row in found.bins}


def test_column_that_is_nowhere_is_named(run_of):
    with pytest.raises(DataError, match=r"column 'colour': expected one of the catalog or of the event log; .*colour"):
        segments(run_of, "colour")
