"""Collects the rows of one data set and compares Ebbtide with the other models."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality import ours
from benchmarks.quality.cache import Fitted
from benchmarks.quality.split import Split
from benchmarks.quality.worlds import INFERRED, ORACLE
from ebbtide.train.evaluation.breakdowns import interest_age_days
from ebbtide.train.evaluation.evaluate import Evaluation, cold_values, evaluate_lists
from ebbtide.train.evaluation.intervals import paired

_SEED = 0


class Results:
    """The measurements on one test split."""

    def __init__(self, split: Split, vectors: npt.NDArray[np.float32]) -> None:
        self.split, self.vectors = split, vectors
        self.rows: list[dict[str, Any]] = []
        self._measured: dict[str, tuple[Evaluation, npt.NDArray[np.float64]]] = {}
        test = split.test
        # The ages are the same for every model and slow to compute, so they are computed once.
        self._ages = interest_age_days(test.log, test.baskets, test.relevance, vectors, _SEED)

    def add(self, name: str, fitted: Fitted, **more: object) -> dict[str, Any]:
        """Evaluates the lists of one model and returns its row."""
        evaluation = evaluate_lists(self.split.test, fitted.lists, self.vectors, _SEED, self._ages)
        self._measured[name] = (evaluation, cold_values(self.split.test, fitted.lists)[0])
        ndcg = evaluation.metrics["ndcg_at_10"]
        row = {
            "name": name,
            "ndcg_at_10": ndcg.mean,
            "ci95": [ndcg.low, ndcg.high],
            **{metric: evaluation.metrics[metric].mean for metric in ("recall_at_10", "hit_rate_at_10", "mrr_at_10")},
            "cold_ndcg_at_10": evaluation.cold.ndcg_at_10.mean if evaluation.cold.baskets else None,
            **asdict(evaluation.beyond),
            "train_s": round(fitted.train_s, 1),
            "train_cpu_s": round(fitted.cpu_s, 1),
            **more,
        }
        self.rows.append(row)
        return row

    def compare_ours(self) -> None:
        """Adds the ratios of Ebbtide to the oracle, to the best baseline and to its ablations.

        The frozen Ebbtide is compared with frozen baselines only.
        """
        baselines = [row for row in self.rows if row["kind"] == "baseline"]
        for suffix, compared in (
            ("", baselines),
            (ours.FROZEN, [row for row in baselines if row["popularity"] == "frozen"]),
        ):
            name = ours.OURS + suffix
            row = next((row for row in self.rows if row["name"] == name), None)
            if row is None:
                continue
            for oracle, ratio in ((ORACLE, "ratio_to_oracle"), (INFERRED, "ratio_to_inferred_oracle")):
                if oracle in self._measured:
                    row |= self._compared(name, oracle, ratio)
            if not compared:
                continue
            best = _best(compared)
            row |= self._compared(name, best, "ratio_to_best_baseline")
            row |= self._compared(name, ours.NO_DECAY + suffix, "ratio_to_no_decay")
            row |= self._compared(name, ours.NO_INTEREST_DECAY + suffix, "ratio_to_no_interest_decay")
            row |= self._compared(name, ours.NO_TEXT + suffix, "cold_item_ratio_to_no_text", cold=True)
        self._break_down(baselines)

    def _break_down(self, baselines: list[dict[str, Any]]) -> None:
        """Adds breakdowns to the rows of Ebbtide, its two ablations without decay, and the best baseline."""
        names = {ours.OURS, ours.NO_DECAY, ours.NO_INTEREST_DECAY}
        names |= {_best(baselines)} if baselines else set()
        for row in self.rows:
            if row["name"] in names:
                breakdowns = self._measured[row["name"]][0].breakdowns
                row["breakdowns"] = {breakdown.name: asdict(breakdown) for breakdown in breakdowns}

    def _compared(self, name: str, other: str, ratio: str, *, cold: bool = False) -> dict[str, Any]:
        """The ratio of two models' NDCG@10, and the confidence interval of the paired difference."""
        if other not in self._measured:
            return {ratio: None}
        values, other_values = (
            measured[1] if cold else measured[0].user_values["ndcg_at_10"]
            for measured in (self._measured[name], self._measured[other])
        )
        if not values.size:
            return {ratio: None}
        other_mean = float(other_values.mean())
        return {
            ratio: float(values.mean()) / other_mean if other_mean else None,
            f"{ratio}_against": other,
            f"{ratio}_difference": asdict(paired(values, other_values, _SEED)),
        }


def _best(rows: list[dict[str, Any]]) -> str:
    """Name of the row with the highest NDCG@10."""
    return str(max(rows, key=lambda row: float(row["ndcg_at_10"]))["name"])
