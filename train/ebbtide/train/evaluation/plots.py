"""Draws an evaluation: learned half-lives, alpha against gap and history, and NDCG@10 by what decay is about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from ebbtide.interest.time_units import duration
from ebbtide.train.evaluation.breakdowns import Breakdown
from ebbtide.train.evaluation.learned import Curve, Learned

HALF_LIVES = "half_lives.png"
ALPHA = "alpha.png"
BREAKDOWNS = "breakdowns.png"

_INK = "#1f4e79"
_SHADE = "#c9dcee"
_GREY = "#5f6368"
_DOTS_PER_INCH = 150
_COLUMN_INCHES = 5.2
_BARS = 16
_DURATIONS = (
    (1 / 86400, "1 s"),
    (1 / 8640, "10 s"),
    (1 / 1440, "1 min"),
    (1 / 144, "10 min"),
    (1 / 24, "1 h"),
    (1.0, "1 d"),
    (7.0, "1 wk"),
    (30.0, "1 mo"),
    (365.0, "1 yr"),
    (3650.0, "10 yr"),
)


def draw(folder: Path, learned: Learned, breakdowns: list[Breakdown], reference: str | None = None) -> list[str]:
    """Writes the plots that there is something to show in.

    Args:
        folder: Exists.
        learned: What the model learned.
        breakdowns: With intervals.
        reference: Name of the data, for the titles.

    Returns:
        The names of the files written.
    """
    written = []
    if learned.half_life_days:
        save_figure(_half_lives(learned), folder / HALF_LIVES)
        written.append(HALF_LIVES)
    if learned.alpha_by_gap_days is not None and learned.alpha_by_history_events is not None:
        save_figure(_alpha(learned.alpha_by_gap_days, learned.alpha_by_history_events), folder / ALPHA)
        written.append(ALPHA)
    save_figure(_breakdowns(breakdowns, reference), folder / BREAKDOWNS)
    written.append(BREAKDOWNS)
    return written


def new_figure(columns: int, width_inches: float, height_inches: float) -> tuple[Figure, list[Axes]]:
    """A figure of several panels in a row, on white, so that it is readable on a dark page too."""
    # The object interface alone: no global state, no display, no backend to choose.
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=_GREY, labelsize=9)
        axis.set_axisbelow(True)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> None:
    """Writes it as PNG."""
    figure.savefig(path, dpi=_DOTS_PER_INCH)


def _durations(axis: Axes, low: float, high: float) -> None:
    """Names the ticks of a logarithmic axis of days."""
    ticks = [(days, name) for days, name in _DURATIONS if low <= days <= high]
    axis.set_xscale("log")
    axis.set_xticks([days for days, _ in ticks], [name for _, name in ticks])
    axis.set_xticks([], minor=True)


def _half_lives(learned: Learned) -> Figure:
    figure, (by_age, by_rank) = new_figure(2, _COLUMN_INCHES * 2, 3.4)
    for axis, values, title, label in (
        (by_age, learned.half_life_days, "Half-life by age", "half-life (log scale)"),
        (by_rank, learned.half_life_later_events, "Half-life by later events", "later events (log scale)"),
    ):
        numbers = np.asarray(values)
        low, high = numbers.min() / 1.5, numbers.max() * 1.5
        axis.hist(numbers, bins=np.geomspace(low, high, _BARS + 1).tolist(), color=_INK, edgecolor="white")
        middle = float(np.median(numbers))
        axis.axvline(middle, color=_GREY, linestyle="--", linewidth=1)
        name = duration(middle) if axis is by_age else f"{middle:,.3g} events"
        axis.set_title(f"{title}: median {name}", fontsize=11, loc="left")
        axis.set_xlabel(label, fontsize=10)
        axis.set_ylabel("interest dimensions", fontsize=10)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        if axis is by_age:
            _durations(axis, low, high)
        else:
            _counts(axis)
        axis.set_xlim(low, high)
    return figure


def _counts(axis: Axes) -> None:
    """Plain numbers on a logarithmic axis."""
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _alpha(by_gap: Curve, by_history: Curve) -> Figure:
    figure, (left, right) = new_figure(2, _COLUMN_INCHES * 2, 3.4)
    for axis, curve, label in (
        (left, by_gap, "time since the last event (log scale)"),
        (right, by_history, "earlier events (log scale)"),
    ):
        value = np.asarray(curve.value)
        axis.fill_between(value, curve.low, curve.high, color=_SHADE, label="middle half of the baskets")
        axis.plot(value, curve.alpha, color=_INK, marker="o", markersize=4, label="median")
        if axis is left:
            _durations(axis, value.min() / 1.2, value.max() * 1.2)
        else:
            _counts(axis)
        axis.set_ylim(-0.03, 1.03)
        axis.set_xlabel(label, fontsize=10)
        axis.set_ylabel("alpha (share of history)", fontsize=10)
        axis.grid(axis="y", color="#e8eaed")
    left.set_title("Alpha by gap", fontsize=11, loc="left")
    right.set_title("Alpha by length of history", fontsize=11, loc="left")
    right.legend(frameon=False, fontsize=9)
    return figure


def _breakdowns(breakdowns: list[Breakdown], reference: str | None) -> Figure:
    figure, axes = new_figure(len(breakdowns), _COLUMN_INCHES * len(breakdowns), 3.9)
    top = 0.0
    for axis, breakdown in zip(axes, breakdowns, strict=True):
        means = np.asarray([row.ndcg_at_10.mean for row in breakdown.bins])
        low = _or_mean([row.ndcg_at_10.low for row in breakdown.bins], means)
        high = _or_mean([row.ndcg_at_10.high for row in breakdown.bins], means)
        index = np.arange(len(breakdown.bins))
        axis.bar(index, means, color=_INK, width=0.66)
        axis.errorbar(index, means, yerr=np.stack([means - low, high - means]), fmt="none", ecolor="#e07b00", capsize=3)
        axis.set_xticks(index, [f"{row.label}\nn = {row.baskets:,}" for row in breakdown.bins])
        for label in axis.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor", fontsize=8.5)
        axis.set_title(breakdown.title, fontsize=11, loc="left")
        axis.set_xlabel(breakdown.quantity, fontsize=10)
        axis.grid(axis="y", color="#e8eaed")
        top = max(top, float(high.max(initial=0)))
    for axis in axes:
        axis.set_ylim(0, 1.08 * top or 1)
    axes[0].set_ylabel("NDCG@10, 95 % interval", fontsize=10)
    if reference:
        figure.suptitle(reference, fontsize=10, color=_GREY, x=0.01, ha="left")
    return figure


def _or_mean(bounds: list[float], means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The bounds, or the mean itself where a single user gives no interval."""
    values = np.asarray(bounds)
    return np.where(np.isnan(values), means, values)
