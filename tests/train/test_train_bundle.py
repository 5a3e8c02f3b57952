"""A real fit on a slice of the shipped data, and the bundle it gives."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer

from ebbtide.data.dataset import DataReference
from ebbtide.data.errors import DataError
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.config import ModelConfig, TrainConfig, parse_half_lives
from ebbtide.train.encoder import embed_cached, embed_texts, encoder_fingerprint, encoder_folder
from ebbtide.train.errors import BundleError, EncoderError
from ebbtide.train.privacy import PrivacyConfig
from ebbtide.train.stage import train_bundle
from ebbtide.train.trainer import fit


def reference(files, **changes):
    settings = {
        "events": str(files / "ratings.parquet"),
        "catalog": str(files / "movies.parquet"),
        "user_column": "userId",
        "item_column": "movieId",
        "time_column": "timestamp",
        "weight_column": None,
        "catalog_item_column": "movieId",
        "text_template": "{title} ({year}). {genres}",
        "title_template": "{title}",
        "max_bad_rows": 0.01,
        "holdout": "leave-last-out",
    }
    return DataReference(**(settings | changes))


MODEL = ModelConfig(dimensions=16)
TRAINING = TrainConfig(epochs=3, windows_per_batch=8)


@pytest.fixture(scope="module")
def trained(small_files, tmp_path_factory):
    bundle, result, _ = train_bundle(reference(small_files), "packaged", MODEL, TRAINING)
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    bundle.save(folder)
    return bundle, result, folder


def test_training_lowers_the_loss_and_validates_every_epoch(trained):
    _, result, _ = trained
    losses = [epoch.loss for epoch in result.epochs]
    assert losses[-1] < losses[1]
    assert all(epoch.validation.events > 0 for epoch in result.epochs)
    found = [epoch.validation.ndcg_at_10 for epoch in result.epochs]
    near = [number for number, ndcg in enumerate(found) if ndcg > 0.99 * max(found[: number + 1])]
    assert result.best_epoch == near[-1]


def test_training_gives_the_same_bundle_when_seed_and_data_are_the_same(small_files, trained):
    again, _, _ = train_bundle(reference(small_files), "packaged", MODEL, TRAINING)
    other, _, _ = train_bundle(reference(small_files), "packaged", MODEL, TRAINING.model_copy(update={"seed": 1}))
    assert again.fingerprint == trained[0].fingerprint
    assert other.fingerprint != trained[0].fingerprint


def test_training_learns_no_decay_and_no_alpha_when_both_are_switched_off(small_log, small_vectors):
    log, _ = small_log
    config = ModelConfig(dimensions=8, decay="none", alpha="fixed:0.5")
    model = fit(log, np.ones(log.events, bool), small_vectors, config, TrainConfig(epochs=1)).model
    assert not model.decay_rate_per_day.any()
    assert not model.rank_decay_rate.any()
    assert model.prior_weight.shape == (1,)
    assert not [name for name, _ in model.named_parameters() if "gate" in name or "decay" in name]


def test_training_never_reads_held_out_events(small_log, small_vectors):
    log, _ = small_log
    kept = np.ones(log.events, bool)
    kept[log.start[1:] - 1] = False
    changed = log.__class__(log.users, log.start, np.where(kept, log.item, 0), log.time_ms, log.weight)
    first, second = (
        fit(one, kept, small_vectors, MODEL, TrainConfig(epochs=1)).model.state_dict() for one in (log, changed)
    )
    assert not [name for name in first if not torch.equal(first[name], second[name])]


def test_training_is_refused_when_there_is_nothing_to_learn_from(small_log, small_vectors):
    log, _ = small_log
    kept = np.zeros(log.events, bool)
    kept[log.start[:-1]] = True
    with pytest.raises(DataError, match="users need two events or more"):
        fit(log, kept, small_vectors, MODEL, TrainConfig(epochs=1))


def test_bundle_reads_back_what_was_saved(trained):
    bundle, _, folder = trained
    read = InterestBundle.load(folder)
    assert read.config == bundle.config
    assert read.catalog == bundle.catalog
    np.testing.assert_array_equal(read.prior_columns, bundle.prior_columns)
    for name, value in bundle.model.state_dict().items():
        assert torch.equal(read.model.state_dict()[name], value)
    assert sorted(path.name for path in folder.iterdir()) == ["bundle.json", "catalog.parquet", "weights.safetensors"]


def test_bundle_files_have_one_mode_when_saved(trained, tmp_path):
    (tmp_path / "any").touch()
    modes = {path.name: path.stat().st_mode for path in trained[2].iterdir()}
    assert set(modes.values()) == {(tmp_path / "any").stat().st_mode}, modes


def test_bundle_is_refused_when_its_settings_belong_to_another(trained, tmp_path):
    shutil.copytree(trained[2], tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    content = json.loads(path.read_text()) | {"fingerprint": "0" * 16}
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match=f"{trained[0].fingerprint}.*{'0' * 16}"):
        InterestBundle.load(tmp_path / "bundle")


def test_bundle_is_refused_when_a_key_is_misspelt(trained, tmp_path):
    shutil.copytree(trained[2], tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra": 1}))
    with pytest.raises(BundleError, match="extra"):
        InterestBundle.load(tmp_path / "bundle")


def test_bundle_is_refused_with_both_formats_when_it_is_of_another(trained, tmp_path):
    shutil.copytree(trained[2], tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    path.write_text(json.dumps({"format": 99, "written_by": "a later version"}))
    with pytest.raises(BundleError, match=r"format 99; expected \d+: train again"):
        InterestBundle.load(tmp_path / "bundle")


def test_bundle_is_refused_when_its_tensors_are_of_another_model(trained, tmp_path):
    shutil.copytree(trained[2], tmp_path / "bundle")
    path = tmp_path / "bundle" / "weights.safetensors"
    tensors = load_file(str(path))
    del tensors["model.gamma"]
    save_file(tensors, str(path))
    with pytest.raises(BundleError, match=r"(?s)train again.*gamma"):
        InterestBundle.load(tmp_path / "bundle")


def test_bundle_is_refused_when_a_file_is_missing(tmp_path):
    with pytest.raises(BundleError, match=r"no bundle\.json"):
        InterestBundle.load(tmp_path)


def test_bundle_is_not_saved_over_something_else(trained, tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(BundleError, match="got other files; expected an empty folder"):
        trained[0].save(tmp_path)


def test_bundle_takes_its_folder_as_text_too(trained, tmp_path):
    trained[0].save(str(tmp_path / "text"))
    assert InterestBundle.load(str(tmp_path / "text")).fingerprint == trained[0].fingerprint


def test_empty_path_of_a_bundle_or_an_encoder_is_refused(trained):
    for call in (trained[0].save, InterestBundle.load):
        with pytest.raises(BundleError, match="got an empty path"):
            call("")
    with pytest.raises(EncoderError, match="got an empty text"):
        encoder_folder("")


def test_encoder_gives_the_vectors_of_sentence_transformers():
    texts = ["Toy Story (1995). Adventure|Animation", "Heat", "a much longer text about robots in space " * 40]
    folder = encoder_folder("packaged")
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts, show_progress_bar=False)
    np.testing.assert_allclose(embed_texts(folder, texts), expected, atol=2e-6)


def test_embedding_reads_known_texts_from_the_cache(tmp_path):
    folder = encoder_folder("packaged")
    fingerprint = encoder_fingerprint(folder)
    done = []
    first = embed_cached(folder, fingerprint, ["a", "b", "a"], tmp_path, done.append)
    again = embed_cached(folder, fingerprint, ["b", "c"], tmp_path, done.append)
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[1], again[0])
    assert done == [1, 2, 1, 1]


def test_embedding_keeps_the_vectors_of_another_run_when_both_embed_at_once(tmp_path):
    folder = encoder_folder("packaged")
    fingerprint = encoder_fingerprint(folder)
    others = []

    def other_run(_done):
        if not others:
            others.append(np.empty(0))
            # With a longer text in its batch, "a" gets other last digits.
            others.append(embed_cached(folder, fingerprint, ["a", "b", "a much longer text " * 9], tmp_path))

    mine = embed_cached(folder, fingerprint, ["a", "c"], tmp_path, other_run)
    np.testing.assert_array_equal(mine[0], others[1][0])
    kept = []
    embed_cached(folder, fingerprint, ["a", "b", "c"], tmp_path, kept.append)
    assert kept == [3]


def test_encoder_is_refused_when_the_folder_has_no_safetensors(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EncoderError, match="only safetensors"):
        encoder_folder(str(tmp_path))


def test_half_lives_are_read_from_text():
    assert parse_half_lives("2, 7,inf") == (2.0, 7.0, float("inf"))
    assert parse_half_lives("none") == ()
    for text in ("0", "nan", "7,nan"):
        with pytest.raises(DataError, match=f"'{text}'"):
            parse_half_lives(text)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (TrainConfig, "learning_rate", math.inf),
        (TrainConfig, "dropout", math.nan),
        (TrainConfig, "repeat_offsets", (0.0, math.nan)),
        (TrainConfig, "interest_shares", (0.0, 1.5)),
        (ModelConfig, "session_gap_minutes", math.inf),
        (ModelConfig, "prior_half_life_days", (math.nan,)),
        (ModelConfig, "prior_half_life_days", (0.0,)),
        (ModelConfig, "repeat_half_life_days", (1.0, 2.0, 3.0, math.inf)),
        (PrivacyConfig, "epsilon", math.inf),
        (DataReference, "max_bad_rows", 5),
        (DataReference, "max_bad_rows", math.nan),
    ],
)
def test_settings_are_refused_when_a_number_is_not_finite_or_a_share_is_above_1(tmp_path, kind, field, value):
    sound = {PrivacyConfig: {"epsilon": 1.0, "delta": 0.1}, DataReference: dict(reference(tmp_path))}.get(kind, {})
    kind(**sound)
    with pytest.raises(ValidationError) as caught:
        kind(**{**sound, field: value})
    assert {error["loc"][0] for error in caught.value.errors()} == {field}


def test_a_prior_half_life_may_be_infinite():
    config = ModelConfig(prior_half_life_days=(1.0, math.inf))
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config
