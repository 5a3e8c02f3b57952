"""What compressed encoders are fitted and judged with: ridge regression, the split of texts, options, rankings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ebbtide.data.catalog import Catalog
from ebbtide.export.encoder.options import EncoderOptions
from ebbtide.export.encoder.ranking_loss import NotMeasured, TextRanking
from ebbtide.export.encoder.ridge import cosines, fit_ridge
from ebbtide.export.encoder.static import StaticEncoder
from ebbtide.export.encoder.texts import fragments, split_texts
from ebbtide.export.errors import EncoderOptionsError
from ebbtide.export.options import ExportOptions
from ebbtide.train.bundle import InterestBundle

MOVIELENS = Path(__file__).parents[2] / "examples" / "movielens-small"


def test_ridge_gives_the_left_out_prediction_when_each_row_is_refitted() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((40, 6)).astype(np.float32)
    y = (x @ random.standard_normal((6, 3)) + 2 + random.standard_normal((40, 3))).astype(np.float32)
    _, left_out = fit_ridge(x, y)
    distances = []
    for row in range(40):
        others = np.arange(40) != row
        # Without a penalty worth the name: ordinary least squares with an intercept.
        design = np.column_stack([x[others], np.ones(39)])
        weight = np.linalg.lstsq(design, y[others], rcond=None)[0]
        distances.append(left_out[row] - np.append(x[row], 1) @ weight)
    # The fit has chosen a strength of its own, so it is near, and not worse on the whole.
    assert np.abs(distances).max() < 0.5
    assert ((left_out - y) ** 2).sum() <= ((left_out - y - distances) ** 2).sum() * 1.001


def test_ridge_shrinks_when_targets_are_noise() -> None:
    random = np.random.default_rng(1)
    x, y = (random.standard_normal((30, width)).astype(np.float32) for width in (60, 4))
    fitted, _ = fit_ridge(x, y)
    assert np.abs(fitted(x) - y.mean(0)).max() < 0.8 * np.abs(y - y.mean(0)).max()


def test_ridge_recovers_the_map_when_it_is_linear() -> None:
    random = np.random.default_rng(2)
    x, weight = random.standard_normal((200, 8)), random.standard_normal((8, 5))
    fitted, left_out = fit_ridge(x.astype(np.float32), (x @ weight + 3).astype(np.float32))
    np.testing.assert_allclose(fitted.weight, weight, atol=1e-4)
    np.testing.assert_allclose(fitted.bias, 3, atol=1e-4)
    np.testing.assert_allclose(cosines(left_out, (x @ weight + 3).astype(np.float32)), 1, atol=1e-5)


def test_split_keeps_texts_apart_when_some_are_equal(catalog: Catalog) -> None:
    split = split_texts([*catalog.text, *catalog.text])
    assert not set(split.fitted) & set(split.kept_back)
    assert sorted(split.fitted + split.kept_back) == sorted(set(catalog.text))
    assert len(split.kept_back) == len(catalog.text) // 5
    assert split == split_texts([*catalog.text, *catalog.text])


def test_split_gives_one_text_to_both_sides_when_there_is_only_one() -> None:
    assert split_texts(["a"]).fitted == split_texts(["a"]).kept_back == ["a"]


def test_fragments_are_consecutive_words_of_each_text(catalog: Catalog) -> None:
    pieces = fragments(catalog.text)
    assert all(piece and piece in " ".join(text.split()) for piece, text in zip(pieces, catalog.text, strict=True))
    assert len(set(map(len, map(str.split, pieces)))) > 3


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ({"kind": "tiny"}, "encoder: got 'tiny'"),
        ({"precision": "int4"}, "precision: got 'int4'"),
        ({"layers": 0}, "layers: got 0"),
        ({"kind": "static", "precision": "int8"}, "static: got precision int8"),
        ({"kind": "static", "layers": 3}, "layers 3"),
    ],
)
def test_options_are_refused_when_they_do_not_go_together(choices: dict[str, object], named: str) -> None:
    with pytest.raises(EncoderOptionsError, match=named):
        EncoderOptions(**choices)  # type: ignore[arg-type]


def test_fingerprint_follows_the_encoder_when_answers_change(bundle: InterestBundle) -> None:
    labels = [EncoderOptions(), EncoderOptions(precision="int8"), EncoderOptions(layers=3), EncoderOptions("static")]
    assert [one.label for one in labels] == ["fp32", "int8", "layers3", "static"]
    found = {ExportOptions(encoder=one).fingerprint(bundle) for one in labels}
    assert len(found) == len(labels)
    accepted = ExportOptions(encoder=EncoderOptions(precision="int8", allow_fidelity_loss=True))
    assert accepted.fingerprint(bundle) in found


def test_static_encoder_ignores_padding_when_texts_have_different_lengths() -> None:
    encoder = StaticEncoder(torch.randn(10, 4))
    ids, mask = torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    expected = torch.stack([encoder.table[[1, 2]].mean(0), encoder.table[[3, 4, 5]].mean(0)])
    torch.testing.assert_close(encoder(ids, mask), expected)
    assert encoder(ids, torch.zeros_like(mask)).isfinite().all()


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
    with pytest.raises(NotMeasured, match=r"ratings\.parquet is not there any more"):
        TextRanking.read(bundle)


def test_ranking_is_not_measured_when_the_catalog_has_changed(with_data: InterestBundle) -> None:
    other = Catalog(
        *(column[1:] for column in (with_data.catalog.item_id, with_data.catalog.text, with_data.catalog.title))
    )
    with pytest.raises(NotMeasured, match="other items than the bundle"):
        TextRanking.read(replace(with_data, catalog=other))
