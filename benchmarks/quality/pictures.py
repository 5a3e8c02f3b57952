"""Draws the plots of the quality benchmark, on white, so that they are legible on light and dark pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import ours
from ebbtide.train.evaluation.plots import new_figure, save_figure

_OURS, _ABLATION, _BASELINE, _ORACLE, _GREY = "#c2410c", "#f0a877", "#1f4e79", "#9aa0a6", "#5f6368"
_TITLES = {
    "gap": "By time since the last event",
    "history": "By earlier events",
    "interest_age": "By age of the matching interest",
}


def draw_models(data_set: dict[str, Any], path: Path) -> None:
    """Draws the NDCG@10 of every model with its confidence interval, the best model on top."""
    rows = sorted(data_set["models"], key=lambda row: float(row["ndcg_at_10"]))
    figure, (axis,) = new_figure(1, 8.6, 0.9 + 0.27 * len(rows))
    y = np.arange(len(rows))
    means = np.asarray([row["ndcg_at_10"] for row in rows])
    low, high = (np.asarray([_bound(row, side) for row in rows]) for side in (0, 1))
    axis.barh(y, means, color=[_colour(row) for row in rows], height=0.7)
    axis.errorbar(
        means, y, xerr=np.stack([means - low, high - means]), fmt="none", ecolor="#202124", capsize=2, linewidth=1
    )
    for at, row in zip(y, rows, strict=True):
        axis.text(high[at] + 0.008 * high.max(), at, f"{row['ndcg_at_10']:.4f}", va="center", fontsize=8, color=_GREY)
    axis.set_yticks(y, [row["name"] for row in rows], fontsize=8.5, color="#202124")
    axis.set_xlim(0, 1.1 * high.max() or 1)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlabel("NDCG@10, 95 % interval", fontsize=9.5)
    axis.set_title(f"{data_set['name']}: {data_set['test_users']:,} test users", fontsize=11, loc="left")
    legend = [(_OURS, "Ebbtide"), (_ABLATION, "its ablations"), (_BASELINE, "baselines")]
    legend += [(_ORACLE, "oracle")] if any(row["kind"] == "oracle" for row in rows) else []
    for colour, label in legend:
        axis.barh([0], [0], color=colour, label=label)
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    axis.grid(axis="x", color="#e8eaed")
    save_figure(figure, path)


def draw_breakdowns(data_set: dict[str, Any], path: Path) -> None:
    """Draws the NDCG@10 of the rows that have breakdowns, by gap, history length and age of the matching interest."""
    rows = [row for row in data_set["models"] if "breakdowns" in row]
    figure, axes = new_figure(len(_TITLES), 15, 4.3)
    width = 0.8 / len(rows)
    colours = dict(zip([row["name"] for row in rows], _shades(rows), strict=True))
    for axis, (name, title) in zip(axes, _TITLES.items(), strict=True):
        for number, row in enumerate(rows):
            bins = row["breakdowns"][name]["bins"]
            means = np.asarray([one["ndcg_at_10"]["mean"] for one in bins])
            # A bin with a single user has no interval.
            bounds = np.asarray([[one["ndcg_at_10"][side] for side in ("low", "high")] for one in bins], dtype=float)
            bounds = np.where(np.isnan(bounds), means[:, None], bounds)
            x = np.arange(len(bins)) + (number - (len(rows) - 1) / 2) * width
            axis.bar(x, means, width=width, color=colours[row["name"]], label=row["name"])
            spread = np.stack([means - bounds[:, 0], bounds[:, 1] - means])
            axis.errorbar(x, means, yerr=spread, fmt="none", ecolor="#202124", capsize=1.5, linewidth=0.8)
        bins = rows[0]["breakdowns"][name]["bins"]
        axis.set_xticks(np.arange(len(bins)), [f"{one['label']}\nn = {one['baskets']:,}" for one in bins])
        for label in axis.get_xticklabels():
            label.set(rotation=35, ha="right", rotation_mode="anchor", fontsize=8.5)
        axis.set_title(title, fontsize=11, loc="left")
        axis.grid(axis="y", color="#e8eaed")
    top = max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        axis.set_ylim(0, top)
    axes[0].set_ylabel("NDCG@10, 95 % interval", fontsize=9.5)
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside upper left", ncols=4)
    save_figure(figure, path)


def _bound(row: dict[str, Any], side: int) -> float:
    return float(row["ndcg_at_10"] if row["ci95"][side] is None else row["ci95"][side])


def _colour(row: dict[str, Any]) -> str:
    if row["kind"] == "baseline":
        return _BASELINE
    if row["kind"] == "oracle":
        return _ORACLE
    return _OURS if row.get("model", row["name"]) in (ours.OURS, ours.OURS + ours.FROZEN) else _ABLATION


def _shades(rows: list[dict[str, Any]]) -> list[str]:
    ablations = iter(("#f0a877", "#9aa0a6", "#c9dcee"))
    return [
        _BASELINE if row["kind"] == "baseline" else _OURS if row["name"] == ours.OURS else next(ablations)
        for row in rows
    ]
