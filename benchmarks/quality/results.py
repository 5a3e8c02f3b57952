"""The results on one data set, of this run and of earlier ones, and the comparison of Ebbtide with the other models."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality import ours
from benchmarks.quality.cache import Fitted
from benchmarks.quality.records import Record, Records, Values, circumstances
from benchmarks.quality.split import Split
from benchmarks.quality.worlds import INFERRED, ORACLE
from ebbtide.train.evaluation.breakdowns import interest_age_days
from ebbtide.train.evaluation.evaluate import cold_values, evaluate_lists
from ebbtide.train.evaluation.intervals import paired

_SEED = 0
_RATIO = "ratio_to_"
_COLD_RATIO = "cold_item_ratio_to_no_text"


class Results:
    """The measurements on one test split."""

    def __init__(
        self, split: Split, vectors: npt.NDArray[np.float32], facts: dict[str, Any], order: list[str], records: Records
    ) -> None:
        """Starts without a result.

        Args:
            split: The test split.
            vectors: ``[N, width]``, text vectors of the catalog.
            facts: The data set's entry of the report, without its rows; ``data`` is the fingerprint of the split.
            order: Names of all rows that there may be, in the order of the report.
            records: Results of earlier runs; each new one is saved there at once.
        """
        self.split, self.vectors = split, vectors
        self._facts, self._order, self._records = facts, order, records
        self._found: dict[str, Record] = {}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows so far, in the order of the report."""
        return [self._found[name].row for name in self._order if name in self._found]

    def kept(self, name: str, fingerprint: str) -> dict[str, Any] | None:
        """The row of an earlier run with this fingerprint, which becomes a row of this one; None if there is none."""
        record = self._records.of(self._facts["name"], name, fingerprint)
        if record is None:
            return None
        self._found[name] = record
        return record.row

    def add(self, name: str, fingerprint: str, fitted: Fitted, **more: object) -> dict[str, Any]:
        """Evaluates the lists of one model, saves everything so far, and returns the model's row."""
        evaluation = evaluate_lists(self.split.test, fitted.lists, self.vectors, _SEED, self._ages)
        ndcg = evaluation.metrics["ndcg_at_10"]
        row = {
            "name": name,
            "fingerprint": fingerprint,
            "ndcg_at_10": ndcg.mean,
            "ci95": [ndcg.low, ndcg.high],
            **{metric: evaluation.metrics[metric].mean for metric in ("recall_at_10", "hit_rate_at_10", "mrr_at_10")},
            "cold_ndcg_at_10": evaluation.cold.ndcg_at_10.mean if evaluation.cold.baskets else None,
            **asdict(evaluation.beyond),
            "train_s": round(fitted.train_s, 1),
            "train_cpu_s": round(fitted.cpu_s, 1),
            **circumstances(),
            **more,
        }
        breakdowns = {one.name: asdict(one) for one in evaluation.breakdowns}
        values = evaluation.user_values["ndcg_at_10"].astype(np.float32)
        cold = cold_values(self.split.test, fitted.lists)[0].astype(np.float32)
        self._found[name] = Record({**row, "breakdowns": breakdowns}, values, cold)
        self.save()
        return row

    def save(self) -> dict[str, Any]:
        """Compares the models and writes the data set's entry, which is returned.

        Rows of earlier runs that this one leaves out stay, as long as they are of the same split; those of other
        settings or code are marked.
        """
        over_seeds = self._compare()
        before = {
            row["name"]: {**_without_ratios(row), "outdated": True}
            for row in self._records.rows(self._facts["name"])
            if row.get("data") == self._facts["data"]
        }
        for record in self._found.values():
            record.row["data"] = self._facts["data"]
        rows = {**before, **{name: record.row for name, record in self._found.items()}}
        names = [*self._order, *(name for name in rows if name not in self._order)]
        entry = {
            **self._facts,
            "left_out": [name for name in self._order if name not in rows],
            "over_seeds": over_seeds,
            "models": [rows[name] for name in names if name in rows],
        }
        self._records.save(entry, [*self._found.values()])
        return entry

    @cached_property
    def _ages(self) -> npt.NDArray[np.float64]:
        # The ages are the same for every model and slow to compute, so they are computed once.
        test = self.split.test
        return interest_age_days(test.log, test.baskets, test.relevance, self.vectors, _SEED)

    def _compare(self) -> dict[str, Any]:
        """Adds the ratios of Ebbtide to the oracle, to the best baseline and to its ablations.

        The frozen Ebbtide is compared with frozen baselines only.

        Returns:
            The ratio of the mean over seeds to the best baseline, for the frozen and the updated Ebbtide.
        """
        for record in self._found.values():
            for key in _ratios(record.row):
                del record.row[key]
        baselines = [row for row in self.rows if row["kind"] == "baseline"]
        over_seeds: dict[str, Any] = {}
        for suffix, compared in (
            ("", baselines),
            (ours.FROZEN, [row for row in baselines if row["popularity"] == "frozen"]),
        ):
            of_seeds = [row for row in self.rows if row.get("model") == ours.OURS + suffix]
            if not of_seeds:
                continue
            best = _best(compared) if compared else None
            for row in of_seeds:
                self._add_ratios(row, suffix, best)
            values = np.stack([self._found[row["name"]].ndcg for row in of_seeds]).mean(0)
            found = {"seeds": [row["seed"] for row in of_seeds], "ndcg_at_10": float(values.mean())}
            if best is not None:
                found |= _compared(values, self._found[best].ndcg, f"{_RATIO}best_baseline", best)
            over_seeds[ours.OURS + suffix] = found
        self._break_down(baselines)
        return over_seeds

    def _add_ratios(self, row: dict[str, Any], suffix: str, best: str | None) -> None:
        """Adds the ratios of one row of Ebbtide."""
        against = {
            f"{_RATIO}oracle": ORACLE,
            f"{_RATIO}inferred_oracle": INFERRED,
            f"{_RATIO}best_baseline": best,
            f"{_RATIO}no_decay": ours.NO_DECAY + suffix,
            f"{_RATIO}no_interest_decay": ours.NO_INTEREST_DECAY + suffix,
            _COLD_RATIO: ours.NO_TEXT + suffix,
        }
        record = self._found[row["name"]]
        for ratio, name in against.items():
            other = None if name is None else self._found.get(name)
            if name is not None and other is not None:
                is_cold = ratio == _COLD_RATIO
                pair = (record.cold_ndcg, other.cold_ndcg) if is_cold else (record.ndcg, other.ndcg)
                row |= _compared(*pair, ratio, name)

    def _break_down(self, baselines: list[dict[str, Any]]) -> None:
        """Leaves breakdowns in the rows of Ebbtide, its two ablations without decay, and the best baseline only."""
        names = {ours.OURS, ours.NO_DECAY, ours.NO_INTEREST_DECAY}
        names |= {_best(baselines)} if baselines else set()
        for row in self.rows:
            if row["name"] not in names:
                row.pop("breakdowns", None)


def _compared(values: Values, others: Values, ratio: str, name: str) -> dict[str, Any]:
    """The ratio of two models' NDCG@10, its lower bound, and the confidence interval of the paired difference."""
    if not values.size:
        return {}
    mean, other = float(values.mean()), float(others.mean())
    difference = paired(values.astype(np.float64), others.astype(np.float64), _SEED)
    return {
        ratio: mean / other if other else None,
        f"{ratio}_against": name,
        f"{ratio}_low": 1 + difference.low / other if other else None,
        f"{ratio}_difference": asdict(difference),
    }


def _ratios(row: dict[str, Any]) -> list[str]:
    return [key for key in row if key.startswith((_RATIO, _COLD_RATIO))]


def _without_ratios(row: dict[str, Any]) -> dict[str, Any]:
    ratios = _ratios(row)
    return {key: value for key, value in row.items() if key not in ratios}


def _best(rows: list[dict[str, Any]]) -> str:
    """Name of the row with the highest NDCG@10."""
    return str(max(rows, key=lambda row: float(row["ndcg_at_10"]))["name"])
