"""A new feature block passes through training, bundle and export without specific code there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch

from ebbtide.data.catalog import Catalog
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


def zeros(catalog: Catalog) -> npt.NDArray[np.float32]:
    return np.zeros((len(catalog), 3), np.float32)


def initial(catalog: Catalog) -> npt.NDArray[np.float32]:
    """The first letter of the title, one-hot."""
    letters = np.array([ord(title[0].upper()) - ord("A") for title in catalog.title])
    return np.equal.outer(letters, np.arange(26)).astype(np.float32)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., InterestBundle]:
    """Trains on the 30 users with the lowest ids; the bundle is saved and read again."""
    folder = tmp_path_factory.mktemp("blocks")
    ratings = pl.read_parquet(MOVIELENS / "ratings.parquet").filter(pl.col("userId") <= 30)
    movies = pl.read_parquet(MOVIELENS / "movies.parquet").head(200)
    ratings.filter(pl.col("movieId").is_in(movies["movieId"].implode())).write_parquet(folder / "ratings.parquet")
    movies.write_parquet(folder / "movies.parquet")
    reference = films_in(folder)

    def run(name: str, **blocks: Callable[[Catalog], npt.NDArray[np.float32]]) -> InterestBundle:
        bundle, _, _ = train_bundle(
            reference,
            PACKAGED,
            ModelConfig(dimensions=8),
            TrainConfig(epochs=2, windows_per_batch=4, refit=False),
            feature_blocks=blocks,
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
    np.testing.assert_array_equal(block.features.numpy(), initial(bundle.catalog))
    assert block.event_projection.abs().max() > 1e-3
    assert block.item_projection.abs().max() > 1e-3
    answer(write_without_encoder(bundle, top_n=20), bundle)


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
