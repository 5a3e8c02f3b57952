"""Events per second, and time to the best validation NDCG@10, of Ebbtide and of RecTools' SASRec.

Both models train on the events before T1. After every epoch they rank the whole catalog for the baskets between T1 and
T2, the split time of `ebbtide evaluate`; events after T2 are not used. The models train one after the other with the
same number of threads, and only training is timed. The time to embed the catalog's texts is reported separately,
because SASRec does not read texts.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.quality.datasets import HOLDOUT
from benchmarks.quality.library import SEQUENTIAL_ITEMS, sequential_loss
from benchmarks.quality.split import events_of
from ebbtide.data.baskets import has_past
from ebbtide.data.dataset import DataReference, read_dataset
from ebbtide.data.splits import after_time, held_out
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.encoder import PACKAGED, embed_texts, encoder_folder
from ebbtide.train.evaluation.accuracy import accuracy, user_means
from ebbtide.train.evaluation.lists import LENGTH, NO_ITEM, RankedLists
from ebbtide.train.evaluation.testset import TestSet
from ebbtide.train.trainer import fit

SASREC = {"n_factors": 64, "n_blocks": 2, "n_heads": 2, "batch_size": 16, "lr": 1e-3, "session_max_len": 100}
"""The settings of the quality benchmark."""


@dataclass(frozen=True)
class Curve:
    """The learning curve of a model."""

    name: str
    ndcg_at_10: list[float]
    """NDCG@10 on the validation period after each epoch."""
    seconds: list[float]
    """Training time of each epoch."""
    setup_s: float
    """Training time before the first epoch."""
    start_ndcg_at_10: float | None
    """NDCG@10 on the validation period before the first epoch; None if unknown.

    Ebbtide starts from closed forms; of two starts this is the better one, and the other is part of `setup_s`.
    """
    events_per_epoch: int
    """Number of events predicted in an epoch."""
    embedding_s: float = 0.0
    """Time to embed the catalog's texts."""
    settings: dict[str, object] = field(default_factory=dict)

    @property
    def best_epoch(self) -> int:
        """The epoch with the highest NDCG@10, counted from 1."""
        return int(np.argmax(self.ndcg_at_10)) + 1

    @property
    def time_to_best_s(self) -> float:
        """Time of setup and training up to the end of the best epoch."""
        return self.setup_s + sum(self.seconds[: self.best_epoch])

    @property
    def events_per_s(self) -> float:
        """Events per second of the median epoch."""
        return self.events_per_epoch / float(np.median(self.seconds))

    def time_to_s(self, ndcg: float) -> float | None:
        """Time of setup and training until the validation NDCG@10 first reached a value; None if it never did."""
        if self.start_ndcg_at_10 is not None and self.start_ndcg_at_10 >= ndcg:
            return self.setup_s
        reached = np.flatnonzero(np.array(self.ndcg_at_10) >= ndcg)
        return self.setup_s + sum(self.seconds[: reached[0] + 1]) if reached.size else None


def before_split(reference: DataReference) -> TestSet:
    """The events of a log before T2; the baskets from T1 on are the test baskets."""
    data = read_dataset(reference)
    log = events_of(data.log, ~held_out(data.log, HOLDOUT))
    return TestSet.where(log, data.catalog, after_time(log, TrainConfig().validation_fraction))


def ours(test: TestSet, epochs: int, *, repeats: bool) -> Curve:
    """The learning curve of Ebbtide with default settings."""
    began = time.monotonic()
    vectors = embed_texts(encoder_folder(PACKAGED), test.catalog.text)
    embedding_s = time.monotonic() - began
    model = ModelConfig(exclude_seen=not repeats, repeat_score=repeats)
    config = TrainConfig(epochs=epochs, patience=epochs, refit=False)
    all_events = np.ones(test.log.events, dtype=np.bool_)
    began = time.monotonic()
    result = fit(test.log, all_events, vectors, model, config)
    total = time.monotonic() - began
    start, trained = result.epochs[0].validation, result.epochs[1:]
    seconds = [epoch.seconds for epoch in trained]
    return Curve(
        name="ebbtide",
        ndcg_at_10=[epoch.validation.ndcg_at_10 if epoch.validation else float("nan") for epoch in trained],
        seconds=seconds,
        setup_s=total - sum(seconds) - sum(epoch.validation_seconds for epoch in trained),
        start_ndcg_at_10=start.ndcg_at_10 if start else None,
        events_per_epoch=int((has_past(test.log) & ~test.is_test).sum()),
        embedding_s=embedding_s,
        settings={"epochs": epochs},
    )


def sasrec(test: TestSet, epochs: int, python: Path, folder: Path, *, repeats: bool) -> Curve:
    """The learning curve of RecTools' SASRec, trained in its own environment.

    Raises:
        subprocess.CalledProcessError: The training failed; its message is on standard error.
    """
    pl.DataFrame(
        {"user": test.log.user, "item": test.log.item, "time": test.log.time_ms, "training": ~test.is_test}
    ).write_parquet(folder / "events.parquet")
    pl.DataFrame({"user": test.owner, "time": test.log.time_ms[test.baskets.head]}).write_parquet(
        folder / "baskets.parquet"
    )
    known = min(np.unique(test.log.item[~test.is_test]).shape[0], SEQUENTIAL_ITEMS)
    settings = {**SASREC, **sequential_loss(known)}
    job = {"settings": settings, "epochs": epochs, "items": SEQUENTIAL_ITEMS, "repeats": repeats}
    (folder / "job.json").write_text(json.dumps(job))
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    script = Path(__file__).parent / "sasrec.py"
    subprocess.run([str(python), str(script), str(folder)], check=True, env=environment)
    measured = json.loads((folder / "epochs.json").read_text())
    return Curve(
        name="SASRec (RecTools)",
        ndcg_at_10=[_ndcg(test, folder / f"lists-{epoch}.parquet") for epoch in range(1, epochs + 1)],
        seconds=measured["seconds"],
        setup_s=0.0,
        start_ndcg_at_10=None,
        events_per_epoch=measured["events_per_epoch"],
        settings={**settings, "epochs": epochs},
    )


def _ndcg(test: TestSet, file: Path) -> float:
    """NDCG@10 of the lists in a file; a basket that is not in it has an empty list."""
    lists = pl.read_parquet(file)
    case, position = lists["case"].to_numpy(), lists["position"].to_numpy()
    item = np.full((len(test.baskets), LENGTH), NO_ITEM, dtype=np.int64)
    item[case, position] = lists["item"].to_numpy()
    score = np.where(item == NO_ITEM, -np.inf, -np.arange(LENGTH)).astype(np.float32)
    values = accuracy(RankedLists(item, score), test.relevance)["ndcg_at_10"]
    return float(user_means(test.owner, values).mean())
