"""A bundle's prior is counted again from a log that has grown; nothing else of it changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from ebbtide.cli.app import app
from ebbtide.data.errors import DataError
from ebbtide.train.bundle import TUNED, EncoderReference, InterestBundle, fingerprint_of
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.errors import BundleError
from ebbtide.train.popularity import columns_at
from ebbtide.train.refresh import kept_among_best, largest_gains, prior_scores, read_grown_log, refresh_prior
from ebbtide.train.stage import train_bundle
from films import films_in

MODEL = ModelConfig(dimensions=8)
NEW_ITEM = 999_999


def trained_on(folder, holdout):
    data = films_in(folder, holdout=holdout)
    return train_bundle(data, "packaged", MODEL, TrainConfig(epochs=1, refit=False))[0]


@pytest.fixture(scope="module")
def ratings(small_files):
    return pl.read_parquet(small_files / "ratings.parquet").sort("timestamp")


@pytest.fixture(scope="module")
def bundle(small_files, ratings, tmp_path_factory):
    """Trained on the first three quarters of the log, some of them held out."""
    folder = tmp_path_factory.mktemp("short")
    ratings.head(ratings.height * 3 // 4).write_parquet(folder / "ratings.parquet")
    (folder / "movies.parquet").write_bytes((small_files / "movies.parquet").read_bytes())
    trained_on(folder, "leave-last-out").save(folder / "bundle")
    return InterestBundle.load(folder / "bundle")


@pytest.fixture(scope="module")
def whole(small_files):
    return small_files / "ratings.parquet"


def test_prior_is_that_of_a_training_on_the_longer_log_when_refreshed(bundle, whole, small_files):
    grown = read_grown_log(bundle, whole).log
    refreshed = refresh_prior(bundle, grown)
    longer = trained_on(small_files, "none")
    items, smoothing = len(bundle.catalog), bundle.model.smoothing
    counted = columns_at(grown.item, grown.time_ms, items, smoothing, longer.config.prior_counted_at_ms)
    np.testing.assert_array_equal(refreshed.prior_columns, counted)
    assert refreshed.config.prior_counted_at_ms == longer.config.prior_counted_at_ms
    assert not np.array_equal(refreshed.prior_columns, bundle.prior_columns)


def test_own_file_is_read_with_what_was_held_out_when_no_other_is_given(bundle, ratings):
    grown = read_grown_log(bundle)
    assert grown.log.events == ratings.height * 3 // 4
    assert grown.unknown_events == 0
    # The training held each user's last events out, and so counted up to an earlier time.
    assert (
        refresh_prior(bundle, grown.log).config.prior_counted_at_ms
        == int(grown.log.time_ms.max()) + 1
        > bundle.config.prior_counted_at_ms
    )


def test_nothing_but_the_prior_changes_when_refreshed(bundle, whole, tmp_path):
    refreshed = refresh_prior(bundle, read_grown_log(bundle, whole).log)
    refreshed.save(tmp_path / "bundle")
    read = InterestBundle.load(tmp_path / "bundle")
    assert read.config == refreshed.config
    changed = {"fingerprint", "prior_counted_at_ms"}
    assert read.config.model_dump(exclude=changed) == bundle.config.model_dump(exclude=changed)
    assert read.fingerprint != bundle.fingerprint
    assert read.catalog == bundle.catalog
    np.testing.assert_array_equal(read.text_vectors, bundle.text_vectors)
    for name, value in bundle.model.state_dict().items():
        assert torch.equal(read.model.state_dict()[name], value)


def test_bundle_is_the_same_when_nothing_has_happened(bundle, whole):
    log = read_grown_log(bundle, whole).log
    once = refresh_prior(bundle, log)
    assert refresh_prior(once, log).config == once.config


def test_later_events_do_not_count_when_a_moment_is_given(bundle, whole, ratings, tmp_path):
    log = read_grown_log(bundle, whole).log
    timestamp = int(np.quantile(log.time_ms, 0.9, method="lower"))
    assert (log.time_ms == timestamp).any()
    refreshed = refresh_prior(bundle, log, timestamp)
    ratings.filter(pl.col("timestamp") * 1000 < timestamp).write_parquet(tmp_path / "cut.parquet")
    expected = refresh_prior(bundle, read_grown_log(bundle, tmp_path / "cut.parquet").log, timestamp)
    np.testing.assert_array_equal(refreshed.prior_columns, expected.prior_columns)
    assert refreshed.config.prior_counted_at_ms == timestamp


def test_events_are_left_out_and_told_when_their_items_are_new(bundle, whole, ratings, tmp_path):
    many = ratings.height // 10
    new = ratings.tail(many).with_columns(movieId=pl.lit(NEW_ITEM, ratings.schema["movieId"]))
    pl.concat([ratings, new]).write_parquet(tmp_path / "grown.parquet")
    grown = read_grown_log(bundle, tmp_path / "grown.parquet")
    assert (grown.unknown_events, grown.unknown_items, grown.bad_rows.count) == (many, (str(NEW_ITEM),), 0)
    np.testing.assert_array_equal(
        refresh_prior(bundle, grown.log).prior_columns,
        refresh_prior(bundle, read_grown_log(bundle, whole).log).prior_columns,
    )


def with_encoder(bundle, files, source=TUNED):
    encoder = EncoderReference(source=source, fingerprint="0" * 64)
    fingerprint = fingerprint_of(bundle.model, bundle.prior_columns, bundle.catalog, encoder)
    config = bundle.config.model_copy(update={"encoder": encoder, "fingerprint": fingerprint})
    return replace(bundle, config=config, encoder_files=files)


def test_tuned_encoder_is_kept_when_the_bundle_is_saved_over_itself(bundle, whole, tmp_path):
    names = ("config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json")
    files = {name: name.encode() for name in names}
    folder = tmp_path / "bundle"
    with_encoder(bundle, files).save(folder)
    read = InterestBundle.load(folder)
    refresh_prior(read, read_grown_log(read, whole).log).save(folder)
    assert InterestBundle.load(folder).fingerprint != read.fingerprint
    kept = {str(path.relative_to(folder / "encoder")): path for path in (folder / "encoder").rglob("*.*")}
    assert {name: path.read_bytes() for name, path in kept.items()} == files


def test_item_gains_most_when_the_new_events_are_its_own(bundle, ratings, tmp_path):
    item = int(np.argmin(prior_scores(bundle)))
    own = ratings.tail(200).with_columns(movieId=pl.lit(int(bundle.catalog.item_id[item]), ratings.schema["movieId"]))
    pl.concat([ratings.head(ratings.height * 3 // 4), own]).write_parquet(tmp_path / "grown.parquet")
    refreshed = refresh_prior(bundle, read_grown_log(bundle, tmp_path / "grown.parquet").log)
    first, *others = largest_gains(bundle, refreshed, 3)
    assert (first.item, first.index) == (item, 1)
    assert first.index_before > 200
    assert first.score == pytest.approx(prior_scores(refreshed)[item])
    assert all(other.score - other.score_before < first.score - first.score_before for other in others)
    assert kept_among_best(bundle, refreshed, 10) < 10
    assert kept_among_best(bundle, bundle, 10) == 10
    assert largest_gains(bundle, bundle, 3) == []


def test_refresh_is_refused_when_the_bundle_has_no_prior(bundle, whole):
    log = read_grown_log(bundle, whole).log
    without = bundle.config.model.model_copy(update={"prior_half_life_days": ()})
    plain = replace(bundle, config=bundle.config.model_copy(update={"model": without}))
    with pytest.raises(BundleError, match=r"prior: got a bundle without one.*--prior-half-lives"):
        refresh_prior(plain, log)


def test_refresh_is_refused_when_the_log_has_new_events_only(bundle, ratings, tmp_path):
    late = ratings.filter(pl.col("timestamp") * 1000 >= bundle.config.prior_counted_at_ms)
    late.write_parquet(tmp_path / "late.parquet")
    with pytest.raises(DataError, match=r"got none before .*expected the whole log, old events and new"):
        refresh_prior(bundle, read_grown_log(bundle, tmp_path / "late.parquet").log)


def test_refresh_is_refused_when_nothing_is_before_the_moment(bundle, whole):
    with pytest.raises(DataError, match=r"as of: got 1970-01-01T00:00:00\+00:00; expected a time after .* first event"):
        refresh_prior(bundle, read_grown_log(bundle, whole).log, 0)


def test_log_is_refused_when_it_cannot_be_used(bundle, ratings, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_grown_log(bundle, tmp_path / "none.csv")
    ratings.with_columns(movieId=pl.lit("x")).write_csv(tmp_path / "other.csv")
    with pytest.raises(DataError, match="column movieId: got no item of the bundle's catalog; expected ids such as"):
        read_grown_log(bundle, tmp_path / "other.csv")
    bad = ratings.with_columns(userId=pl.when(pl.int_range(pl.len()) % 20 > 0).then("userId"))
    bad.write_csv(tmp_path / "bad.csv")
    with pytest.raises(DataError, match=r"no user.*more than the 1.0% allowed"):
        read_grown_log(bundle, tmp_path / "bad.csv")


def test_command_counts_a_log_with_other_columns_and_writes_elsewhere_when_options_say_so(bundle, whole, tmp_path):
    renamed = pl.read_parquet(whole).rename({"userId": "who", "movieId": "what", "timestamp": "at"})
    renamed = renamed.with_columns(pl.from_epoch("at").dt.strftime("%d.%m.%Y %H:%M:%S"))
    renamed.write_csv(tmp_path / "log.csv")
    columns = ("--user-col", "who", "--item-col", "what", "--time-col", "at", "--time-format", "%d.%m.%Y %H:%M:%S")
    out = tmp_path / "refreshed"
    arguments = ("refresh", bundle.folder, "--events", tmp_path / "log.csv", *columns, "--out", out)
    done = CliRunner().invoke(app, [*map(str, arguments), "--as-of", "2030-01-01T00:00Z"])
    assert done.exit_code == 0, done.output
    assert f"{renamed.height:,} events counted, up to 2030-01-01 00:00:00 UTC" in done.output
    read = InterestBundle.load(out)
    assert read.fingerprint in done.output
    assert read.config.data == bundle.config.data
    assert InterestBundle.load(Path(bundle.folder)).fingerprint == bundle.fingerprint


def test_command_is_refused_when_the_time_is_none(bundle):
    done = CliRunner().invoke(app, ["refresh", str(bundle.folder), "--as-of", "yesterday"])
    assert done.exit_code == 2
    assert "yesterday" in done.output


def test_frozen_popularity_is_refused_when_the_prior_has_seen_what_it_would_predict(bundle, tmp_path):
    refresh_prior(bundle, read_grown_log(bundle).log).save(tmp_path / "refreshed")
    arguments = ("evaluate", tmp_path / "refreshed", "--popularity", "frozen")
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert isinstance(done.exception, DataError)
    assert "got 'frozen' for a prior that `ebbtide refresh` counted past the training period" in str(done.exception)
