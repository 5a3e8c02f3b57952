"""The rows of one data set as they come, and how ours compares with the rest."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality import ours
from benchmarks.quality.cache import Fitted
from benchmarks.quality.split import Split
from ebbtide.train.evaluation.breakdowns import interest_age_days
from ebbtide.train.evaluation.evaluate import Evaluation, cold_values, evaluate_lists
from ebbtide.train.evaluation.intervals import paired

_SEED = 0


class Results:
    """What was measured on one test split."""

    def __init__(self, split: Split, vectors: npt.NDArray[np.float32]) -> None:
        self.split, self.vectors = split, vectors
        self.rows: list[dict[str, Any]] = []
        self._measured: dict[str, tuple[Evaluation, npt.NDArray[np.float64]]] = {}
        test = split.test
        # The same for every model, and slow to find.
        self._ages = interest_age_days(test.log, test.baskets, test.relevance, vectors, _SEED)

    def add(self, name: str, fitted: Fitted, **more: object) -> dict[str, Any]:
        """Measures one model's lists; its row."""
        found = evaluate_lists(self.split.test, fitted.lists, self.vectors, _SEED, self._ages)
        self._measured[name] = (found, cold_values(self.split.test, fitted.lists)[0])
        ndcg = found.metrics["ndcg_at_10"]
        row = {
            "name": name,
            "ndcg_at_10": ndcg.mean,
            "ci95": [ndcg.low, ndcg.high],
            **{metric: found.metrics[metric].mean for metric in ("recall_at_10", "hit_rate_at_10", "mrr_at_10")},
            "cold_ndcg_at_10": found.cold.ndcg_at_10.mean if found.cold.baskets else None,
            **asdict(found.beyond),
            "train_s": round(fitted.train_s, 1),
            "train_cpu_s": round(fitted.cpu_s, 1),
            **more,
        }
        self.rows.append(row)
        return row

    def compare_ours(self) -> None:
        """Puts ours into proportion, kept up to date and frozen; a frozen model meets frozen baselines only."""
        baselines = [row for row in self.rows if row["kind"] == "baseline"]
        for suffix, rivals in (
            ("", baselines),
            (ours.FROZEN, [row for row in baselines if row["popularity"] == "frozen"]),
        ):
            name = ours.OURS + suffix
            row = next((row for row in self.rows if row["name"] == name), None)
            if row is None or not rivals:
                continue
            best = max(rivals, key=lambda rival: float(rival["ndcg_at_10"]))["name"]
            row |= self._compared(name, best, "ratio_to_best_baseline")
            row |= self._compared(name, ours.NO_DECAY + suffix, "ratio_to_no_decay")
            row |= self._compared(name, ours.NO_INTEREST_DECAY + suffix, "ratio_to_no_interest_decay")
            row |= self._compared(name, ours.NO_TEXT + suffix, "cold_item_ratio_to_no_text", cold=True)
        self._break_down(baselines)

    def _break_down(self, baselines: list[dict[str, Any]]) -> None:
        """NDCG@10 by what decay is about, for the rows that tell: ours, the two without decay, and the best other."""
        told = {ours.OURS, ours.NO_DECAY, ours.NO_INTEREST_DECAY}
        told |= {max(baselines, key=lambda rival: float(rival["ndcg_at_10"]))["name"]} if baselines else set()
        for row in self.rows:
            if row["name"] in told:
                found = self._measured[row["name"]][0].breakdowns
                row["breakdowns"] = {breakdown.name: asdict(breakdown) for breakdown in found}

    def _compared(self, name: str, other: str, ratio: str, *, cold: bool = False) -> dict[str, Any]:
        """The ratio of two models' NDCG@10, and the interval of the paired difference."""
        if other not in self._measured:
            return {ratio: None}
        mine, theirs = (
            measured[1] if cold else measured[0].user_values["ndcg_at_10"]
            for measured in (self._measured[name], self._measured[other])
        )
        if not mine.size:
            return {ratio: None}
        base = float(theirs.mean())
        return {
            ratio: float(mine.mean()) / base if base else None,
            f"{ratio}_against": other,
            f"{ratio}_difference": asdict(paired(mine, theirs, _SEED)),
        }
