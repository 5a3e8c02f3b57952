"""Draws an audit: how concentrated exposure is, and each group's shares and NDCG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from ebbtide.train.audit.audit import Audit, Compared, ItemAudit, UserAudit
from ebbtide.train.evaluation.intervals import Estimate
from ebbtide.train.evaluation.plots import new_figure, save_figure

CONCENTRATION = "concentration.png"
_COLORS = ("#1f4e79", "#e07b00")
"""Before and after."""
_GREY = "#5f6368"
_LIGHT = "#e8eaed"
_ROW_INCHES = 0.34
_FRAME_INCHES = 1.5
_WIDTH_INCHES = 10.4
_LABEL_CHARACTERS = 32
_OFFSET = 0.16
"""Of the two sets of lists from the middle of a row."""


def draw(folder: Path, found: Audit, names: Sequence[str]) -> dict[str, str]:
    """Writes the plots.

    Args:
        folder: Exists.
        found: Measured.
        names: Of the lists, one or two.

    Returns:
        What each file shows, by its name.
    """
    figures = {CONCENTRATION: ("Share of exposure of the most exposed items", _concentration(found, names))}
    for index, items in enumerate(found.item_audits):
        figures[f"items-{index + 1}-{_slug(items.name)}.png"] = (items.title, _items(items, names))
    for index, users in enumerate(found.user_audits):
        figures[f"users-{index + 1}-{_slug(users.name)}.png"] = (users.title, _users(users, names))
    for name, (_, figure) in figures.items():
        save_figure(figure, folder / name)
    return {name: title for name, (title, _) in figures.items()}


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-") or "attribute"


def _concentration(found: Audit, names: Sequence[str]) -> Figure:
    figure, (axis,) = new_figure(1, 6.4, 3.6)
    for values, name, color in zip((found.concentration.before, found.concentration.after), names, _COLORS):  # noqa: B905
        if values is not None:
            axis.plot(found.concentration.items, values, color=color, linewidth=1.8, label=name)
    equal = np.asarray(found.concentration.items) / found.items
    axis.plot(found.concentration.items, equal, color=_GREY, linestyle=":", linewidth=1.2, label="all items alike")
    axis.set_xscale("log")
    axis.set_xlim(1, found.items)
    axis.set_ylim(0, 1.02)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(_percent)
    axis.grid(color=_LIGHT)
    axis.set_title("Exposure of the most exposed items", fontsize=11, loc="left")
    axis.set_xlabel("most exposed items (log scale)", fontsize=10)
    axis.set_ylabel("share of the exposure", fontsize=10)
    _legend(figure, axis)
    return figure


def _items(audited: ItemAudit, names: Sequence[str]) -> Figure:
    rows = audited.groups
    figure, (shares, ndcg) = _panels([row.label for row in rows])
    index = np.arange(len(rows))
    shares.plot([row.catalog_share for row in rows], index, "|", color=_GREY, markersize=13, label="of the catalog")
    relevant = [row.relevant_share.mean for row in rows]
    shares.plot(relevant, index, "D", color=_GREY, markerfacecolor="white", markersize=6, label="of the relevant items")
    _dots(shares, [row.exposure_share for row in rows], _labels("of the exposure", names))
    _dots(ndcg, [row.ndcg_at_10 for row in rows], names)
    shares.xaxis.set_major_formatter(_percent)
    shares.set_title(f"{audited.title}: shares, 95 % interval", fontsize=11, loc="left")
    ndcg.set_title("NDCG@10 of their relevant items", fontsize=11, loc="left")
    _legend(figure, shares)
    return figure


def _users(audited: UserAudit, names: Sequence[str]) -> Figure:
    rows = audited.groups
    figure, (head, ndcg) = _panels([f"{_cut(row.label)} (n = {row.users:,})" for row in rows])
    relevant = [row.head_relevant.mean for row in rows]
    head.plot(
        relevant, np.arange(len(rows)), "D", color=_GREY, markerfacecolor="white", label="in their relevant items"
    )
    _dots(head, [row.head_exposure for row in rows], _labels("in their lists", names))
    _dots(ndcg, [row.ndcg_at_10 for row in rows], names)
    head.xaxis.set_major_formatter(_percent)
    head.set_title(f"{audited.title}: share of the head", fontsize=11, loc="left")
    ndcg.set_title("NDCG@10, 95 % interval", fontsize=11, loc="left")
    _legend(figure, head)
    return figure


def _panels(labels: Sequence[str]) -> tuple[Figure, tuple[Axes, Axes]]:
    """Two panels with one row for each group, the first on top, and one set of labels."""
    figure, (left, right) = new_figure(2, _WIDTH_INCHES, _FRAME_INCHES + _ROW_INCHES * len(labels))
    for axis in (left, right):
        axis.set_yticks(
            np.arange(len(labels)), [_cut(label) for label in labels] if axis is left else [""] * len(labels)
        )
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.grid(color=_LIGHT)
        axis.tick_params(axis="y", length=0)
        axis.xaxis.set_major_locator(MaxNLocator(6))
    return figure, (left, right)


def _dots(axis: Axes, rows: Sequence[Compared], names: Sequence[str]) -> None:
    """A dot with its interval for each group and each set of lists."""
    for side, (name, color) in enumerate(zip(names, _COLORS)):  # noqa: B905
        found = [row.before if side == 0 else row.after for row in rows]
        known = [(index, one) for index, one in enumerate(found) if one is not None and np.isfinite(one.mean)]
        shift = 0.0 if len(names) == 1 else (2 * side - 1) * _OFFSET
        axis.errorbar(
            [one.mean for _, one in known],
            [index + shift for index, _ in known],
            xerr=np.asarray([_reach(one) for _, one in known]).reshape(-1, 2).T,
            fmt="o",
            color=color,
            markersize=5,
            linewidth=1.4,
            label=name,
        )
    axis.set_xlim(left=0)


def _reach(found: Estimate) -> tuple[float, float]:
    """From the mean to either end of its interval; none without an interval."""
    if not (np.isfinite(found.low) and np.isfinite(found.high)):
        return 0.0, 0.0
    return max(found.mean - found.low, 0.0), max(found.high - found.mean, 0.0)


def _labels(what: str, names: Sequence[str]) -> list[str]:
    return [what] if len(names) == 1 else [f"{what}, {name}" for name in names]


def _cut(label: str) -> str:
    return label if len(label) <= _LABEL_CHARACTERS else f"{label[: _LABEL_CHARACTERS - 1]}…"


def _legend(figure: Figure, axis: Axes) -> None:
    """Below the panels, so that it covers nothing."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)


_percent = FuncFormatter(lambda value, _: f"{value:.0%}")
