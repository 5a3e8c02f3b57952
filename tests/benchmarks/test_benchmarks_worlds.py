"""Synthetic worlds: deterministic, well-formed, and their oracle is the best ranking."""

import dataclasses
import json
import sys

import numpy as np
import polars as pl
import pytest

from benchmarks.quality import worlds
from benchmarks.quality.datasets import builders, drawn, online_retail, synthetic
from benchmarks.quality.lastfm import write_lastfm
from benchmarks.quality.split import ndcg_at_10, splits
from benchmarks.quality.worlds import (
    HOLDOUT,
    WORLDS,
    inferred_oracle_lists,
    oracle_lists,
    simple_baselines,
    world,
    write,
)
from benchmarks.quality.zoo.inferred import inferred_lists
from ebbtide.data.dataset import read_dataset

SCALE = 0.2


# The two that take longest are left to the slow tests.
LONG = {"music", "series"}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in WORLDS]
)
def made(request):
    return world(request.param, seed=3, scale=SCALE)


@pytest.fixture(scope="module")
def test_split(made, tmp_path_factory):
    data = read_dataset(write(made, tmp_path_factory.mktemp(made.design.name)))
    return splits(data.log, data.catalog, HOLDOUT, made.design.repeats)


def test_world_is_the_same_when_the_seed_is_the_same(made):
    again, other = world(made.design.name, seed=3, scale=SCALE), world(made.design.name, seed=4, scale=SCALE)
    assert again.design.texts == made.design.texts
    for name in ("item", "basket", "oracle_item", "oracle_probability"):
        np.testing.assert_array_equal(getattr(again, name), getattr(made, name))
    assert not np.array_equal(other.item, made.item)


def test_times_ascend_and_no_user_repeats_an_item_when_the_world_has_no_repeats(made, tmp_path):
    reference = write(made, tmp_path)
    events = pl.read_parquet(reference.events)
    assert events["time"].is_sorted()
    assert events["time"].min() >= made.design.start_ms
    same_user = np.diff(made.design.schedule.user) == 0
    assert (np.diff(made.design.schedule.time_ms)[same_user] > 0).all()
    repeated = events.height - events.n_unique(["user", "item"])
    assert repeated > 0.05 * events.height if made.design.repeats else repeated == 0


def test_no_item_is_chosen_before_its_birth(made):
    time_days = made.design.schedule.time_ms[made.basket] / 86_400_000
    assert (time_days > made.design.born_days[made.item]).all()


def test_oracle_is_ahead_of_simple_baselines_on_the_test_baskets(made, test_split):
    validation, test = test_split
    assert len(test.test.baskets) > 100
    oracle = ndcg_at_10(test, oracle_lists(made, test))
    assert 0.1 < oracle < 0.8
    baselines = simple_baselines(validation, test)
    assert set(baselines) == {"decayed popularity"} | (
        {"personal frequency with decay"} if made.design.repeats else set()
    )
    for row in baselines.values():
        assert oracle > 1.1 * row["ndcg_at_10"]


def test_oracle_probabilities_are_those_of_the_choices(made):
    """Items at a rank are chosen as often as the probabilities say, in baskets of one event."""
    single = np.flatnonzero(np.bincount(made.basket, minlength=made.design.schedule.user.shape[0]) == 1)
    if single.size < 500:
        pytest.skip("groceries come in baskets of several events")
    item = made.item[np.searchsorted(made.basket, single)]
    probability = made.oracle_probability[single]
    assert (np.diff(probability, axis=1) <= 0).all()
    assert (probability.sum(axis=1) <= 1 + 1e-9).all()
    for ranks in (slice(0, 1), slice(1, 5), slice(5, 20)):
        hits = (made.oracle_item[single][:, ranks] == item[:, None]).sum(axis=1)
        expected = probability[:, ranks].sum(axis=1)
        error = np.sqrt((expected * (1 - expected)).sum())
        assert abs(hits.sum() - expected.sum()) < 5 * error


@pytest.fixture(scope="module", params=["news", "fashion", "groceries"])
def small(request):
    return world(request.param, seed=3, scale=0.12)


def test_oracle_that_infers_users_stands_between_popularity_and_oracle(small, tmp_path):
    data = read_dataset(write(small, tmp_path))
    validation, test = splits(data.log, data.catalog, HOLDOUT, small.design.repeats)
    inferred = ndcg_at_10(test, inferred_oracle_lists(small, test))
    assert inferred < ndcg_at_10(test, oracle_lists(small, test))
    assert inferred > simple_baselines(validation, test)["decayed popularity"]["ndcg_at_10"]


def test_inferred_lists_use_no_later_choice(small):
    """Without the choices of every user's last basket, the earlier lists are the same."""
    last = np.r_[np.diff(small.design.schedule.user) > 0, True]
    kept = ~last[small.basket]
    shorter = dataclasses.replace(small, basket=small.basket[kept], item=small.item[kept])
    np.testing.assert_array_equal(inferred_lists(shorter)[0], inferred_lists(small)[0])


def test_texts_tell_the_topic_when_they_come_from_news():
    made = world("news", seed=1, scale=0.1)
    assert len({text.partition(":")[0] for text in made.design.texts}) == 12


def test_command_writes_files_and_report(tmp_path, monkeypatch, capsys):
    arguments = ["worlds", str(tmp_path), "--world", "evergreen", "--scale", "0.1", "--seed", "5"]
    monkeypatch.setattr(sys, "argv", arguments)
    worlds.main()
    folder = tmp_path / "evergreen"
    assert pl.read_parquet_schema(folder / "events.parquet") == {
        "user": pl.String,
        "item": pl.String,
        "time": pl.Int64,
    }
    assert pl.read_parquet_schema(folder / "catalog.parquet") == {"item": pl.String, "text": pl.String}
    report = json.loads((folder / "oracle.json").read_text())
    assert report["oracle"]["ndcg_at_10"] > report["decayed popularity"]["ndcg_at_10"]
    assert "oracle" in capsys.readouterr().out


@pytest.fixture
def tagged(tmp_path):
    """Ten users tag artist 1 with rock over time, then one user tags artist 2; late tags are called late."""
    hours = [*range(10), 10, 11]
    pl.DataFrame(
        {
            "userID": [*range(10), 0, 1],
            "artistID": [1] * 10 + [2, 1],
            "tagID": [1] * 10 + [2, 2],
            "time": pl.Series([3_600_000_000 * (350_000 + hour) for hour in hours]).cast(pl.Datetime("us", "UTC")),
        }
    ).write_parquet(tmp_path / "tag_events.parquet")
    pl.DataFrame({"id": [1, 2, 3], "name": ["A", "B", "C"]}).write_parquet(tmp_path / "artists.parquet")
    pl.DataFrame({"tagID": [1, 2], "tagValue": ["rock", "late"]}).write_parquet(tmp_path / "tags.parquet")
    return tmp_path


def test_lastfm_texts_have_only_tags_from_before_the_validation_period(tagged, tmp_path):
    events, artists = write_lastfm(tagged, tmp_path / "written")
    assert pl.read_parquet(artists).rows() == [(1, "A. rock"), (2, "B")]
    assert pl.read_parquet(events).height == 12


def test_lastfm_names_the_file_that_is_missing(tagged):
    (tagged / "tags.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"got no tags\.parquet"):
        write_lastfm(tagged, tagged / "written")


def test_online_retail_is_read_without_bad_rows():
    data = read_dataset(online_retail().reference)
    assert data.log.events == 167_990
    assert len(data.catalog) == 3_259
    assert data.bad_events.count == 0


def test_builders_leave_lastfm_out_when_no_folder_is_named(tagged, tmp_path):
    assert set(builders(tmp_path, None, tagged)) - set(builders(tmp_path, None, None)) == {"lastfm"}
    assert read_dataset(builders(tmp_path, None, tagged)["lastfm"]().reference).log.events == 12


def test_sample_of_users_keeps_the_catalog_when_the_data_set_has_an_oracle(tmp_path):
    dataset = synthetic("evergreen", tmp_path / "world")
    data = read_dataset(drawn(dataset, 40, tmp_path / "drawn"))
    _, test = splits(data.log, data.catalog, HOLDOUT, dataset.repeats)
    assert len(data.log.users) == 40
    assert len(data.catalog) == 1000
    assert ndcg_at_10(test, dataset.oracles["oracle"](test)) > 0.1
