"""Fidelity checks of compressed encoders: the split of texts, options, rankings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ebbtide.data.catalog import Catalog
from ebbtide.export.choices import Precision
from ebbtide.export.encoder.options import EncoderOptions
from ebbtide.export.encoder.ranking_loss import NotMeasured, TextRanking
from ebbtide.export.encoder.texts import fragments, split_texts
from ebbtide.export.errors import EncoderOptionsError
from ebbtide.export.options import ExportOptions
from ebbtide.train.bundle import InterestBundle

MOVIELENS = Path(__file__).parents[2] / "examples" / "movielens-small"


def test_split_keeps_texts_apart_when_some_are_equal(catalog: Catalog) -> None:
    split = split_texts([*catalog.text, *catalog.text])
    assert not set(split.calibration) & set(split.kept_back)
    assert sorted(split.calibration + split.kept_back) == sorted(set(catalog.text))
    assert len(split.kept_back) == len(catalog.text) // 5
    assert split == split_texts([*catalog.text, *catalog.text])


def test_split_gives_one_text_to_both_sides_when_there_is_only_one() -> None:
    assert split_texts(["a"]).calibration == split_texts(["a"]).kept_back == ["a"]


def test_fragments_are_consecutive_words_of_each_text(catalog: Catalog) -> None:
    pieces = fragments(catalog.text)
    assert all(piece and piece in " ".join(text.split()) for piece, text in zip(pieces, catalog.text, strict=True))
    assert len(set(map(len, map(str.split, pieces)))) > 3


def test_options_are_refused_when_the_precision_is_unknown() -> None:
    with pytest.raises(EncoderOptionsError, match="precision: got 'int4'; expected one of fp32, fp16, int8"):
        EncoderOptions("int4")  # type: ignore[arg-type]


def test_fingerprint_follows_the_encoder_when_answers_change(bundle: InterestBundle) -> None:
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    found = {ExportOptions(encoder=EncoderOptions(one)).fingerprint(bundle) for one in precisions}
    assert len(found) == len(precisions)
    accepted = ExportOptions(encoder=EncoderOptions(precision="int8", allow_fidelity_loss=True))
    assert accepted.fingerprint(bundle) in found


@pytest.fixture(scope="module")
def with_data(bundle: InterestBundle, tmp_path_factory: pytest.TempPathFactory) -> InterestBundle:
    """The small bundle with real events of its items."""
    folder = tmp_path_factory.mktemp("data")
    items = [int(item) for item in bundle.catalog.item_id]
    for name in ("movies", "ratings"):
        frame = pl.read_parquet(MOVIELENS / f"{name}.parquet")
        frame.filter(pl.col("movieId").is_in(items)).write_parquet(folder / f"{name}.parquet")
    reference = bundle.config.data.model_copy(
        update={"events": str(folder / "ratings.parquet"), "catalog": str(folder / "movies.parquet")}
    )
    return replace(bundle, config=bundle.config.model_copy(update={"data": reference}))


def test_ranking_loses_nothing_when_vectors_are_the_full_encoders(with_data: InterestBundle) -> None:
    index = {text: row for row, text in enumerate(with_data.catalog.text)}
    full = (with_data.model.text_vectors @ with_data.model.event_projection).detach().numpy()
    ranking = TextRanking.read(with_data)
    loss = ranking.loss(lambda texts: full[[index[text] for text in texts]])
    assert loss.ratio == pytest.approx(1, abs=1e-6)
    assert loss.standard_error == pytest.approx(0, abs=1e-6)
    assert loss.events > 400
    assert 256 < loss.users <= 671

    random = np.random.default_rng(0)
    noise = ranking.loss(lambda texts: random.standard_normal((len(texts), full.shape[1])).astype(np.float32))
    # By how much is chance: this model's parameters are random, and its prior ranks as well as its interests do.
    assert noise.ratio != 1
    assert noise.standard_error > 0.01


def test_ranking_is_not_measured_when_the_data_is_gone(bundle: InterestBundle) -> None:
    with pytest.raises(NotMeasured, match=r"ratings\.parquet does not exist any more"):
        TextRanking.read(bundle)


def test_ranking_is_not_measured_when_the_catalog_has_changed(with_data: InterestBundle) -> None:
    other = Catalog(
        *(column[1:] for column in (with_data.catalog.item_id, with_data.catalog.text, with_data.catalog.title))
    )
    with pytest.raises(NotMeasured, match="other items than the bundle"):
        TextRanking.read(replace(with_data, catalog=other))
