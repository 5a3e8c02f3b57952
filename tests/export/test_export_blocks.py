"""A feature block passes from vectors through training and bundle to the export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch

from ebbtide.data.catalog import Catalog, read_catalog
from ebbtide.data.vectors import ItemVectors
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.interest.checks import Request
from ebbtide.interest.keys import item_keys
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.encoder import PACKAGED
from ebbtide.train.model import InterestModel
from ebbtide.train.reference import score_request
from ebbtide.train.stage import train_bundle
from films import films_in

MOVIELENS = Path(__file__).parents[2] / "examples" / "movielens-small"
NOW_MS = 1_600_000_000_000


def zeros(catalog: Catalog) -> ItemVectors:
    return ItemVectors(np.zeros((len(catalog), 3), np.float32), np.zeros(len(catalog), np.bool_))


def initial(catalog: Catalog) -> ItemVectors:
    """The first letter of the title, one-hot and not of length 1; every fifth item has none."""
    letters = np.array([ord(title[0].upper()) - ord("A") for title in catalog.title])
    is_present = np.arange(len(catalog)) % 5 > 0
    one_hot = 30 * np.equal.outer(letters, np.arange(26)) * is_present[:, None]
    return ItemVectors(one_hot.astype(np.float32), is_present)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., InterestBundle]:
    """Trains on the 30 users with the lowest ids; the bundle is saved and read again."""
    folder = tmp_path_factory.mktemp("blocks")
    ratings = pl.read_parquet(MOVIELENS / "ratings.parquet").filter(pl.col("userId") <= 30)
    movies = pl.read_parquet(MOVIELENS / "movies.parquet").head(200)
    ratings.filter(pl.col("movieId").is_in(movies["movieId"].implode())).write_parquet(folder / "ratings.parquet")
    movies.write_parquet(folder / "movies.parquet")
    reference = films_in(folder)
    catalog, _ = read_catalog(folder / "movies.parquet", "movieId", "{title}")

    def run(name: str, **blocks: Callable[[Catalog], ItemVectors]) -> InterestBundle:
        bundle, _, _ = train_bundle(
            reference,
            PACKAGED,
            ModelConfig(dimensions=8),
            TrainConfig(epochs=2, windows_per_batch=4, refit=False, block_dropout=0 if "nothing" in blocks else 0.2),
            vectors={block: made(catalog) for block, made in blocks.items()},
        )
        bundle.save(folder / name)
        return InterestBundle.load(folder / name)

    return run


def answer(folder: Path, bundle: InterestBundle) -> tuple[list[str], npt.NDArray[np.float32]]:
    items = [1, 5, 7]
    keys = item_keys([bundle.catalog.item_id[item] for item in items])
    request = Request(keys, np.array([NOW_MS - 3_000, NOW_MS - 2_000, NOW_MS - 1_000]), np.array([NOW_MS]))
    (found,) = InProcessPipeline(folder).recommend([request])
    scores = score_request(
        bundle.model,
        bundle.prior_columns,
        item=items,
        time_ms=request.event_time.tolist(),
        now_ms=NOW_MS,
    ).scores
    np.testing.assert_allclose(found.score, np.sort(scores)[::-1][: len(found.score)], atol=1e-4)
    return found.item_id, found.score


def test_block_of_zeros_changes_no_score_when_trained_and_exported(
    train: Callable[..., InterestBundle], write_without_encoder: Callable[..., Path]
) -> None:
    plain, with_block = train("plain"), train("zeros", nothing=zeros)
    assert list(with_block.model.blocks) == ["text", "residual", "nothing"]
    (items, scores), (same_items, same_scores) = (
        answer(write_without_encoder(bundle, top_n=20), bundle) for bundle in (plain, with_block)
    )
    assert same_items == items
    np.testing.assert_allclose(same_scores, scores, atol=1e-5)


def test_block_of_features_is_learned_and_kept_when_trained_and_exported(
    train: Callable[..., InterestBundle], write_without_encoder: Callable[..., Path]
) -> None:
    bundle = train("initial", initial=initial)
    block = bundle.model.blocks["initial"]
    assert block.features is not None
    vectors = initial(bundle.catalog)
    is_present, features = vectors.is_present, block.features.numpy()
    np.testing.assert_allclose(features[is_present].mean(axis=0), 0, atol=1e-6)
    assert np.square(features[is_present]).sum(axis=1).mean() == pytest.approx(1)
    assert not features[~is_present].any()
    module = bundle.model.added_blocks.modules_by_name()["initial"]
    again = features[is_present] * module.scale.numpy() + module.centre.numpy()
    np.testing.assert_allclose(again, vectors.vector[is_present], atol=1e-4)
    assert bundle.config.blocks["initial"].model_dump() == {"width": 26, "items": int(is_present.sum())}
    assert block.event_projection.abs().max() > 1e-3
    assert block.item_projection.abs().max() > 1e-3
    folder = write_without_encoder(bundle, top_n=20)
    answer(folder, bundle)

    items = [0, 3, 9, 14]
    keys = item_keys([*(bundle.catalog.item_id[item] for item in items), "unknown"])
    request = Request(keys[:3], np.array([NOW_MS - 3_000, NOW_MS - 2_000, NOW_MS - 1_000]), np.array([NOW_MS]))
    found = InProcessPipeline(folder).run("explainer", {**request.tensors(), "candidate_item": keys[None]})
    assert isinstance(found, dict)
    names = [name.decode() for name in found["block_name"]]
    assert names == list(bundle.model.blocks) == ["text", "residual", "initial"]
    shares = found["block_share"]
    assert np.isnan(shares[-1]).all()
    np.testing.assert_allclose(shares.sum(axis=1), found["dimension_share"].sum(axis=1), atol=1e-5)
    features = bundle.model.blocks["initial"].features
    assert features is not None
    assert (shares[:-1, 2] != 0).tolist() == features[items].any(dim=1).tolist() == [False, True, True, True]


def test_explanation_has_no_blocks_when_the_bundle_has_no_vectors(
    train: Callable[..., InterestBundle], write_without_encoder: Callable[..., Path]
) -> None:
    bundle = train("plain")
    keys = item_keys(bundle.catalog.item_id[:2])
    request = Request(keys[:1], np.array([NOW_MS - 1_000]), np.array([NOW_MS]))
    folder = write_without_encoder(bundle, top_n=20)
    found = InProcessPipeline(folder).run("explainer", {**request.tensors(), "candidate_item": keys[None]})
    assert isinstance(found, dict)
    assert (found["block_name"].size, found["block_share"].shape) == (0, (2, 0))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"text": torch.zeros(4, 2)}, "got name 'text'; expected an identifier other than"),
        ({"a.b": torch.zeros(4, 2)}, r"got name 'a\.b'"),
        ({"brand": torch.zeros(3, 2)}, r"feature block brand: got shape \[3, 2\]; expected \[4 items, width\]"),
    ],
)
def test_block_is_refused_when_its_name_or_shape_is_wrong(features: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InterestModel(ModelConfig(dimensions=2), torch.zeros(4, 5), features)
