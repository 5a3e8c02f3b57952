"""Fits a library model on the files of an exchange folder and writes its lists.

    python benchmarks/quality/library.py FOLDER

It runs in the environment of requirements.txt. It reads three files:

- ``events.parquet``: ``user``, ``item``, ``time`` (Unix ms) and ``training`` of each event;
- ``baskets.parquet``: ``user`` and ``time`` of each basket to predict;
- ``job.json``: the model, its settings, and whether seen items may be recommended.

It writes the lists (``lists.parquet``) and the times of the fit (``took.json``).
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

LENGTH = 20
SESSION = 100
"""Maximum number of a user's newest events that the sequential models read."""
SEQUENTIAL_ITEMS = 20_000
"""Maximum number of items that the sequential models know: the most frequent ones of the training events."""
FULL_SOFTMAX_ITEMS = 10_000
"""Maximum number of items for the full softmax; larger catalogs use a sampled softmax."""
_NEGATIVES = 64
"""Sampled negatives per target."""
SEED = 0
_NS_PER_MS = 1_000_000


class Job:
    """The content of an exchange folder."""

    def __init__(self, folder: Path) -> None:
        events = pd.read_parquet(folder / "events.parquet")
        self.baskets = pd.read_parquet(folder / "baskets.parquet")
        job = json.loads((folder / "job.json").read_text())
        self.model: str = job["model"]
        self.settings: dict[str, Any] = job["settings"]
        self.repeats: bool = job["repeats"]
        self.events = events
        self.training = events[events["training"]]
        self.item_ids = np.sort(self.training["item"].unique())
        self.user_ids = np.sort(self.training["user"].unique())
        self.past, self.past_ms = self._past(events[events["item"].isin(self.item_ids)])
        popular = self.training["item"].value_counts(sort=True)
        self.popular = np.searchsorted(self.item_ids, popular.index.to_numpy())

    def _past(self, known: pd.DataFrame) -> tuple[list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
        """Matrix columns and times of the known items in the history of each basket, oldest first."""
        column = np.searchsorted(self.item_ids, known["item"])
        time_ms = known["time"].to_numpy()
        rows_of_user = known.groupby("user", sort=False).indices
        no_rows = np.empty(0, dtype=np.int64)
        past, past_ms = [], []
        for user, timestamp in zip(self.baskets["user"], self.baskets["time"], strict=True):
            rows = rows_of_user.get(user, no_rows)
            rows = rows[: np.searchsorted(time_ms[rows], timestamp)]
            past.append(column[rows])
            past_ms.append(time_ms[rows])
        return past, past_ms

    def training_matrix(self) -> csr_matrix:
        """Number of interactions of each user with each item, in the training events."""
        rows = np.searchsorted(self.user_ids, self.training["user"])
        columns = np.searchsorted(self.item_ids, self.training["item"])
        ones = np.ones(len(rows), dtype=np.float32)
        return csr_matrix((ones, (rows, columns)), shape=(len(self.user_ids), len(self.item_ids)))

    def past_matrix(self) -> csr_matrix:
        """Number of interactions of each basket's user with each item before the basket."""
        rows = np.repeat(np.arange(len(self.past)), [len(items) for items in self.past])
        flat = np.concatenate(self.past).astype(np.int64)
        ones = np.ones(len(flat), dtype=np.float32)
        return csr_matrix((ones, (rows, flat)), shape=(len(self.past), len(self.item_ids)))

    def filled(self, found: dict[int, list[int]]) -> list[list[int]]:
        """Lists of `LENGTH` matrix columns for each basket: the model's items, then the most popular other items."""
        lists = []
        for case, past in enumerate(self.past):
            items = [item for item in found.get(case, []) if item >= 0][:LENGTH]
            excluded = set(items) | (set() if self.repeats else set(past.tolist()))
            for item in self.popular.tolist():
                if len(items) == LENGTH:
                    break
                if item not in excluded:
                    items.append(item)
            lists.append(items)
        return lists


def ials(job: Job, factors: int, regularization: float, alpha: float, iterations: int) -> Callable[[], dict[int, Any]]:
    """Implicit ALS (Hu et al., ICDM 2008) on counts; the user's factors are recomputed before every basket."""
    from implicit.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=factors, regularization=regularization, alpha=alpha, iterations=iterations, random_state=SEED
    )
    model.fit(job.training_matrix(), show_progress=False)

    def recommend() -> dict[int, Any]:
        past = job.past_matrix()
        ids, scores = model.recommend(
            np.arange(past.shape[0]), past, N=LENGTH, filter_already_liked_items=not job.repeats, recalculate_user=True
        )
        return _without_filtered(ids, scores)

    return recommend


def bpr(job: Job, factors: int, learning_rate: float, regularization: float, iterations: int) -> Callable[[], Any]:
    """BPR matrix factorisation (Rendle et al., UAI 2009); new users get the most popular items."""
    from implicit.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(
        factors=factors,
        learning_rate=learning_rate,
        regularization=regularization,
        iterations=iterations,
        random_state=SEED,
    )
    model.fit(job.training_matrix(), show_progress=False)

    def recommend() -> dict[int, Any]:
        index = np.searchsorted(job.user_ids, job.baskets["user"])
        inside = np.minimum(index, len(job.user_ids) - 1)
        cases = np.flatnonzero(job.user_ids[inside] == job.baskets["user"].to_numpy())
        past = job.past_matrix()[cases]
        ids, scores = model.recommend(inside[cases], past, N=LENGTH, filter_already_liked_items=not job.repeats)
        found = _without_filtered(ids, scores)
        return {int(cases[row]): items for row, items in found.items()}

    return recommend


def _without_filtered(ids: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> dict[int, list[int]]:
    """Drops the items that implicit filtered: it gives them the lowest float as score."""
    lowest = np.finfo(np.float32).min
    return {row: ids[row][scores[row] > lowest].tolist() for row in range(ids.shape[0])}


def sequential_loss(items: int) -> dict[str, Any]:
    """Loss settings of the sequential models for a number of known items."""
    if items <= FULL_SOFTMAX_ITEMS:
        return {"loss": "softmax"}
    return {"loss": "sampled_softmax", "n_negatives": _NEGATIVES}


def sasrec(job: Job, **settings: Any) -> Callable[[], dict[int, Any]]:  # noqa: ANN401 - settings of the library
    """SASRec (Kang and McAuley, ICDM 2018), RecTools."""
    from rectools.models import SASRecModel

    return _sequential(job, SASRecModel, settings)


def bert4rec(job: Job, **settings: Any) -> Callable[[], dict[int, Any]]:  # noqa: ANN401 - settings of the library
    """BERT4Rec (Sun et al., CIKM 2019), RecTools."""
    from rectools.models import BERT4RecModel

    return _sequential(job, BERT4RecModel, settings)


def hstu(job: Job, **settings: Any) -> Callable[[], dict[int, Any]]:  # noqa: ANN401 - settings of the library
    """HSTU (Zhai et al., ICML 2024) with relative positions and times, RecTools."""
    from rectools.models import HSTUModel

    return _sequential(job, HSTUModel, settings)


def _sequential(job: Job, kind: Any, settings: dict[str, Any]) -> Callable[[], dict[int, Any]]:  # noqa: ANN401
    from pytorch_lightning import seed_everything
    from rectools import Columns
    from rectools.dataset import Dataset

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    seed_everything(SEED, verbose=False)

    def dataset(frame: pd.DataFrame) -> Any:  # noqa: ANN401
        return Dataset.construct(frame.assign(**{Columns.Weight: 1.0}))

    columns = {"user": Columns.User, "item": Columns.Item, "time": Columns.Datetime}
    training = job.training[["user", "item", "time"]].rename(columns=columns)
    training[Columns.Datetime] = pd.to_datetime(training[Columns.Datetime], unit="ms")
    known = np.zeros(len(job.item_ids), dtype=np.bool_)
    known[job.popular[:SEQUENTIAL_ITEMS]] = True
    training = training[known[np.searchsorted(job.item_ids, training[Columns.Item])]]
    loss = sequential_loss(int(known.sum()))
    settings = dict(settings)
    steps_per_epoch = math.ceil(training[Columns.User].nunique() / settings["batch_size"])
    epochs = math.ceil(settings.pop("steps") / steps_per_epoch)
    model = kind(session_max_len=SESSION, epochs=epochs, deterministic=True, verbose=0, **loss, **settings)
    model.fit(dataset(training))

    def recommend() -> dict[int, Any]:
        # RecTools ranks once per user, so each basket becomes a user whose events are those before the basket.
        kept = [known[columns] for columns in job.past]
        newest = slice(-SESSION, None) if job.repeats else slice(None)
        past = [columns[keep][newest] for columns, keep in zip(job.past, kept, strict=True)]
        past_ms = [times[keep][newest] for times, keep in zip(job.past_ms, kept, strict=True)]
        counts = [len(columns) for columns in past]
        case = np.repeat(np.arange(len(past)), counts)
        # Nanoseconds keep the order of events of the same time.
        order = np.concatenate([np.arange(count) for count in counts])
        frame = pd.DataFrame(
            {
                Columns.User: case,
                Columns.Item: job.item_ids[np.concatenate(past)],
                Columns.Datetime: pd.to_datetime(np.concatenate(past_ms) * _NS_PER_MS + order, unit="ns"),
            }
        )
        users = np.unique(case)
        context = None
        if model.require_recommend_context:
            now = pd.to_datetime(job.baskets["time"].to_numpy()[users], unit="ms")
            context = pd.DataFrame({Columns.User: users, Columns.Weight: 1.0, Columns.Datetime: now})
        found = model.recommend(
            users=users,
            dataset=dataset(frame),
            k=LENGTH,
            filter_viewed=not job.repeats,
            on_unsupported_targets="ignore",
            context=context,
        )
        found = found.assign(column=np.searchsorted(job.item_ids, found[Columns.Item]))
        lists: dict[int, Any] = found.groupby(Columns.User, sort=False)["column"].agg(list).to_dict()
        return lists

    return recommend


MODELS: dict[str, Callable[..., Callable[[], dict[int, Any]]]] = {
    "ials": ials,
    "bpr": bpr,
    "sasrec": sasrec,
    "bert4rec": bert4rec,
    "hstu": hstu,
}


def main(folder: Path) -> None:
    """Fits the job's model and writes its lists."""
    job = Job(folder)
    wall, cpu = time.monotonic(), time.process_time()
    recommend = MODELS[job.model](job, **job.settings)
    took = {"train_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
    lists = job.filled(recommend())
    counts = [len(items) for items in lists]
    pd.DataFrame(
        {
            "user": np.repeat(job.baskets["user"].to_numpy(), counts),
            "time": np.repeat(job.baskets["time"].to_numpy(), counts),
            "rank": np.concatenate([np.arange(1, count + 1) for count in counts]),
            "item": job.item_ids[np.concatenate(lists)],
        }
    ).to_parquet(folder / "lists.parquet", index=False)
    (folder / "took.json").write_text(json.dumps(took))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
