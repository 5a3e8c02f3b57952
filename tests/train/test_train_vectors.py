"""Feature blocks of precomputed vectors in training: what they are worth, their scale, and items without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch

from ebbtide.data.dataset import DataReference, read_dataset
from ebbtide.data.vectors import ItemVectors
from ebbtide.train.blocks import Standardised
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.checkpoint import CheckpointFolder
from ebbtide.train.choices import Start
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.encoder import PACKAGED
from ebbtide.train.errors import BundleError, CheckpointError
from ebbtide.train.evaluation.evaluate import evaluate_bundle
from ebbtide.train.evaluation.testset import TestSet
from ebbtide.train.model import InterestModel
from ebbtide.train.progress import Epoch
from ebbtide.train.stage import train_bundle
from ebbtide.train.watcher import Watcher

CLASSES, DAYS, PER_DAY, USERS, WIDTH = 8, 6, 4, 80, 12
ITEMS = CLASSES * DAYS * PER_DAY
MODEL = ModelConfig(dimensions=48)
TRAINING = TrainConfig(epochs=2, start=Start.texts, refit=False)

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataReference, Floats]:
    """A log whose users like one class each. Every day has new items, as in news, so that few of them have many events.

    Texts are random letters; only the vectors show an item's class.
    """
    folder = tmp_path_factory.mktemp("planted")
    random = np.random.default_rng(5)
    item = np.arange(ITEMS)
    classes, day = item % CLASSES, item // (CLASSES * PER_DAY)
    centres = random.normal(size=(CLASSES, WIDTH))
    vectors = (centres[classes] + 0.3 * random.normal(size=(ITEMS, WIDTH))).astype(np.float32)
    rows = [
        (f"u{user}", f"i{random.choice(np.flatnonzero((classes == user % CLASSES) & (day == today)))}", seconds)
        for user in range(USERS)
        for today, seconds in enumerate(range(1_600_000_000 + 60 * user, 1_600_000_000 + 86_400 * DAYS, 86_400))
    ]
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_parquet(folder / "log.parquet")
    texts = ["".join(chr(97 + letter) for letter in random.integers(26, size=8)) for _ in range(ITEMS)]
    ids = [f"i{item}" for item in range(ITEMS)]
    pl.DataFrame({"item": ids, "text": texts}).write_parquet(folder / "items.parquet")
    pl.DataFrame({"item": ids, "embedding": vectors.tolist()}).write_parquet(folder / "vectors.parquet")
    reference = DataReference(
        events=str(folder / "log.parquet"),
        catalog=str(folder / "items.parquet"),
        user_column="user",
        item_column="item",
        time_column="time",
        weight_column=None,
        catalog_item_column="item",
        text_template="{text}",
        title_template=None,
        max_bad_rows=0,
        holdout="leave-last-out",
    )
    return reference, vectors


@pytest.fixture(scope="module")
def train(files: tuple[DataReference, Floats]) -> Callable[..., InterestBundle]:
    def run(
        vectors: Mapping[str, ItemVectors] | None = None, *, read: bool = False, text: bool = True
    ) -> InterestBundle:
        reference, _ = files
        if read:
            path = str(Path(reference.events).with_name("vectors.parquet"))
            reference = reference.model_copy(update={"vectors": {"image": path}})
        bundle, _, _ = train_bundle(
            reference, PACKAGED, MODEL.model_copy(update={"text": text}), TRAINING, vectors=vectors
        )
        return bundle

    return run


@pytest.fixture(scope="module")
def with_vectors(train: Callable[..., InterestBundle]) -> InterestBundle:
    return train(read=True)


def ndcg(bundle: InterestBundle) -> float:
    data = read_dataset(bundle.config.data)
    test = TestSet.of(data.log, data.catalog, "leave-last-out")
    run = evaluate_bundle(bundle, test, frozen=False, repeats=None)
    return float(run.evaluation.user_values["ndcg_at_10"].mean())


def every(vectors: Floats) -> ItemVectors:
    return ItemVectors(vectors, np.ones(len(vectors), np.bool_))


def test_lists_are_better_when_only_the_vectors_show_what_users_like(
    train: Callable[..., InterestBundle], with_vectors: InterestBundle
) -> None:
    without, found = ndcg(train()), ndcg(with_vectors)
    assert found > 2 * without, (found, without)


def test_lists_are_better_when_the_model_has_no_text(
    train: Callable[..., InterestBundle], files: tuple[DataReference, Floats]
) -> None:
    found = ndcg(train({"image": every(files[1])}, text=False))
    assert found > 1.5 * ndcg(train(text=False))


def test_model_is_the_same_when_vectors_are_longer_and_moved(
    train: Callable[..., InterestBundle], with_vectors: InterestBundle, files: tuple[DataReference, Floats]
) -> None:
    """Norms of about 3 and of about 300, with a part that all have."""
    scaled = train({"image": every(100 * files[1] + 7)})
    ours, theirs = (one.model.item_factors().detach().numpy() for one in (with_vectors, scaled))
    # A thousandth of the largest: training carries on what rounding has begun.
    np.testing.assert_allclose(theirs, ours, atol=5e-3)
    assert ndcg(scaled) == pytest.approx(ndcg(with_vectors), rel=0.02)


def test_items_without_vector_score_by_the_rest_when_others_have_one(
    train: Callable[..., InterestBundle], files: tuple[DataReference, Floats]
) -> None:
    """A quarter of the items has none: the block adds exactly nothing to theirs, and lists stay better than without."""
    is_present = np.arange(ITEMS) % 4 > 0
    some = train({"image": ItemVectors(files[1] * is_present[:, None], is_present)})
    block = some.model.blocks["image"]
    assert block.features is not None
    with torch.no_grad():
        added = block.features @ block.item_projection
    assert not added[torch.from_numpy(~is_present)].any()
    assert added[torch.from_numpy(is_present)].norm(dim=1).min() > 0
    assert some.model.item_factors().isfinite().all()
    assert ndcg(some) > 2 * ndcg(train())


def test_bundle_keeps_blocks_and_gives_the_same_scores_when_loaded(
    with_vectors: InterestBundle, tmp_path: Path
) -> None:
    with_vectors.save(tmp_path / "bundle")
    loaded = InterestBundle.load(tmp_path / "bundle")
    assert loaded.fingerprint == with_vectors.fingerprint
    assert list(loaded.model.blocks) == ["text", "residual", "image"]
    assert loaded.config.blocks["image"].model_dump() == {"width": WIDTH, "items": ITEMS}
    assert torch.equal(loaded.model.item_factors(), with_vectors.model.item_factors())
    config = (tmp_path / "bundle" / "bundle.json").read_text()
    (tmp_path / "bundle" / "bundle.json").write_text(config.replace('"image": {', '"audio": {'))
    with pytest.raises(
        BundleError, match=r"got feature blocks \['image'\] in weights\.safetensors; expected \['audio'\]"
    ):
        InterestBundle.load(tmp_path / "bundle")


def test_training_continues_to_the_same_bundle_when_it_was_stopped(
    with_vectors: InterestBundle, files: tuple[DataReference, Floats], tmp_path: Path
) -> None:
    class Stops(Watcher):
        def epoch_ended(self, epoch: Epoch) -> None:
            if epoch.number == 1:
                raise KeyboardInterrupt

    vectors = {"image": every(files[1])}
    reference = with_vectors.config.data
    with pytest.raises(KeyboardInterrupt):
        train_bundle(reference, PACKAGED, MODEL, TRAINING, Stops(), CheckpointFolder(tmp_path), vectors=vectors)
    other = {"image": every(files[1] * np.float32(1.5) ** np.arange(WIDTH, dtype=np.float32))}
    with pytest.raises(CheckpointError):
        train_bundle(reference, PACKAGED, MODEL, TRAINING, None, CheckpointFolder(tmp_path, resume=True), vectors=other)
    bundle, _, _ = train_bundle(
        reference, PACKAGED, MODEL, TRAINING, None, CheckpointFolder(tmp_path, resume=True), vectors=vectors
    )
    assert bundle.fingerprint == with_vectors.fingerprint


def test_vectors_have_zero_mean_and_unit_norm_when_standardised() -> None:
    random = np.random.default_rng(1)
    is_present = np.array([True, False, True, True, True])
    raw = (100 * random.normal(size=(5, 3)) + 50).astype(np.float32) * is_present[:, None]
    found = Standardised.of(ItemVectors(raw.astype(np.float32), is_present))
    assert not found.features[1].any()
    present = found.features[is_present]
    np.testing.assert_allclose(present.mean(axis=0), 0, atol=1e-6)
    assert np.square(present).sum(axis=1).mean() == pytest.approx(1)
    np.testing.assert_allclose(present * found.scale + found.centre, raw[is_present], rtol=1e-4)


def test_block_is_dropped_for_a_share_of_the_items_when_training() -> None:
    torch.manual_seed(0)
    model = InterestModel(ModelConfig(dimensions=4), torch.zeros(1000, 2), {"image": torch.ones(1000, 1)})
    with torch.no_grad():
        model.item_residual.zero_()
        model.added_blocks.blocks()["image"].item_projection.fill_(1)
        factors = model.item_factors(block_dropout=0.3)
    dropped = (factors == 0).all(dim=1)
    assert 0.25 < dropped.float().mean() < 0.35
    assert (factors[~dropped] == 1).all()


@pytest.mark.parametrize("name", ["items", "features", "keys", "type", "training"])
def test_block_may_have_any_name_when_a_module_has_a_method_of_it(name: str) -> None:
    model = InterestModel(ModelConfig(dimensions=2), torch.zeros(3, 2), {name: torch.ones(3, 1)})
    assert list(model.blocks) == ["text", "residual", name]
