"""The charts of a report, drawn by matplotlib as SVG; colours are CSS variables, so a page shows them light or dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

_WIDTH, _HEIGHT = 470, 270
"""In CSS pixels: narrow, so that text stays readable where a phone scales the chart down."""
_PIXELS_PER_INCH = 72
_DECADE = 10
_LABEL_GAP = 0.09
"""Share of the width that a percentile's label takes."""

# Matplotlib knows no variables: each stands for one, and is replaced in the SVG.
_VARIABLES = {f"#{index:02x}fe{index:02x}": name for index, name in enumerate(("c1", "c2", "c3", "c4", "soft", "rule"))}
_COLOUR = {name: code for code, name in _VARIABLES.items()}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ebbtide",
    "font.size": 12,
    "text.color": _COLOUR["soft"],
    "axes.labelcolor": _COLOUR["soft"],
    "axes.edgecolor": _COLOUR["soft"],
    "xtick.color": _COLOUR["soft"],
    "ytick.color": _COLOUR["soft"],
    "grid.color": _COLOUR["rule"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "ytick.left": False,
    "lines.linewidth": 1.8,
}

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Series:
    """Values of one colour."""

    name: str
    points: Sequence[Point]
    """x and y; a y of None breaks the line."""
    colour: str = "c1"
    """``c1`` to ``c4``."""
    look: str = "-"
    """Matplotlib's line style and marker: ``-``, ``o-``, ``o`` or ``--``."""


@dataclass(frozen=True)
class Chart:
    """A chart for a page."""

    svg: str = ""
    """Empty where there was nothing to draw."""
    legend: list[tuple[str, str]] = field(default_factory=list)
    """Names and colours."""


def line_chart(series: Sequence[Series], x: str, y: str, *, log_y: bool = False, limit: float | None = None) -> Chart:
    """Lines or points over two axes.

    Args:
        series: What to draw; series without values are left out.
        x: Label of the axis.
        y: Label of the axis.
        log_y: Whether the y axis is logarithmic.
        limit: Where a dashed line marks an objective; left out where it is far above all values.
    """
    shown = [one for one in series if any(value is not None for _, value in one.points)]
    if not shown:
        return Chart()
    highest = max(value for one in shown for _, value in one.points if value is not None)
    with _figure(f"{y} against {x}: {', '.join(one.name for one in shown)}") as (axes, drawn):
        for one in shown:
            values = [float("nan") if value is None else value for _, value in one.points]
            axes.plot([at for at, _ in one.points], values, one.look, color=_COLOUR[one.colour], markersize=5)
        if log_y:
            _logarithmic(axes, "y")
        else:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_locator(MaxNLocator(5))
        if limit is not None and limit < 4 * highest:
            axes.axhline(limit, color=_COLOUR["c3"], linestyle="--", linewidth=1)
            axes.text(1, limit, "objective", transform=axes.get_yaxis_transform(), ha="right", va="bottom")
        axes.set(xlabel=x, ylabel=y)
        _plain_numbers(axes)
    return Chart(drawn[0], [(one.name, one.colour) for one in shown])


def histogram_chart(edges: Sequence[float], counts: Sequence[int], marks: dict[str, float], x: str, y: str) -> Chart:
    """Bars between edges on a logarithmic axis, with some values marked by name."""
    if not counts or not max(counts):
        return Chart()
    with _figure(f"Histogram: {y} by {x}") as (axes, drawn):
        axes.stairs(counts, edges, fill=True, color=_COLOUR["c1"])
        _logarithmic(axes, "x")
        axes.set_ylim(0, max(counts) * 1.3)
        axes.set(xlabel=x, ylabel=y)
        _plain_numbers(axes)
        row, last = 0, -1.0
        for name, value in marks.items():
            axes.axvline(value, color=_COLOUR["soft"], linestyle=":", linewidth=1)
            at = axes.transAxes.inverted().transform(axes.transData.transform((value, 0)))[0]
            row = row + 1 if at - last < _LABEL_GAP else 0
            last = at
            # Near the right edge a label would not fit on the right of its line.
            align, shift = ("right", -0.01) if at > 1 - _LABEL_GAP else ("left", 0.01)
            axes.text(at + shift, 1 - 0.08 * row, name, transform=axes.transAxes, ha=align, va="top")
    return Chart(drawn[0])


def stacked_bars(rows: Sequence[tuple[str, Sequence[float], str]], names: Sequence[str]) -> Chart:
    """One bar for each row, made of segments.

    Args:
        rows: Name, segments, and a label at the bar's end.
        names: Of the segments.
    """
    if not rows:
        return Chart()
    longest = max(sum(values) for _, values, _ in rows) or 1.0
    colours = [f"c{index}" for index in range(1, len(names) + 1)]
    with _figure("Time of a request in each model", height=60 + 30 * len(rows)) as (axes, drawn):
        axes.grid(False)
        axes.set_xlim(0, 1.35 * longest)
        axes.invert_yaxis()
        axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
        for index, (_, values, label) in enumerate(rows):
            left = 0.0
            for value, colour in zip(values, colours, strict=True):
                axes.barh(index, value, left=left, height=0.6, color=_COLOUR[colour])
                left += value
            axes.text(left + 0.02 * longest, index, label, va="center")
        axes.set_xlabel("ms")
        axes.xaxis.set_major_locator(MaxNLocator(4))
    return Chart(drawn[0], list(zip(names, colours, strict=True)))


def _plain_numbers(axes: Axes) -> None:
    """Labels ticks with three significant digits, and thousands separated, on logarithmic axes too."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}")
        )


def _logarithmic(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    digits = (1, 1.5, 2, 3, 5, 7) if high < _DECADE * low else (1, 2, 5)
    axis.set_major_locator(LogLocator(subs=digits, numticks=9) if high > 2 * low else MaxNLocator(5))
    axis.set_minor_locator(NullLocator())


@contextmanager
def _figure(summary: str, height: int = _HEIGHT) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on, and the list that holds the SVG afterwards."""
    drawn: list[str] = []
    with matplotlib.rc_context(_STYLE):
        size = (_WIDTH / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH)
        figure = Figure(figsize=size, dpi=_PIXELS_PER_INCH, layout="constrained")
        axes = figure.subplots()
        yield axes, drawn
        file = StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = file.getvalue()
    for code, name in _VARIABLES.items():
        svg = svg.replace(code, f"var(--{name})")
    # A size and a description for the page replace matplotlib's own root element.
    inside = svg[svg.index(">", svg.index("<svg")) + 1 :]
    drawn.append(f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(summary)}">{inside}')
