"""Small charts as inline SVG: lines, points, bars. Colours are CSS variables, so a page can show them light or dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDE, NARROW = 720, 470
"""Widths of a chart in its own units: text is as large in a narrow chart as in a wide one."""

_HEIGHT = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 12, 42
_BAR_HEIGHT, _BAR_GAP, _NAME_WIDTH = 18, 10, 190
_LETTER = 8
"""Width of a letter of a label, at most."""

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Series:
    """Values of one colour."""

    name: str
    points: Sequence[Point]
    """x and y; a y of None breaks the line."""
    colour: int = 1
    """1 to 4."""
    line: bool = True
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels along one axis."""

    low: float
    high: float
    pixels_from: float
    pixels_to: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside the scale lie on its edge."""
        low, high, at = self._warp(self.low), self._warp(self.high), self._warp(value)
        share = (at - low) / (high - low) if high > low else 0.5
        return self.pixels_from + min(1.0, max(0.0, share)) * (self.pixels_to - self.pixels_from)

    def _warp(self, value: float) -> float:
        return math.log10(max(value, 1e-9)) if self.logarithmic else value

    def ticks(self) -> list[float]:
        """Round values to label."""
        if not self.logarithmic:
            step = _round_step((self.high - self.low) / 5)
            first = math.ceil(self.low / step - 1e-9)
            return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            found = [digit * 10**decade for decade in decades for digit in digits]
            found = [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]
            if len(found) >= 4:
                break
        return found


@dataclass(frozen=True)
class Axes:
    """What a chart is labelled with."""

    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    width: int = WIDE
    limit_y: float | None = None
    """A dashed line across: an objective."""
    summary: str = field(default="", kw_only=True)
    """What the chart shows, for those who do not see it."""


def line_chart(series: Sequence[Series], axes: Axes) -> str:
    """Lines or points over two axes; an empty string where there is nothing to draw."""
    shown = [one for one in series if any(y is not None for _, y in one.points)]
    if not shown:
        return ""
    xs = [x for one in shown for x, y in one.points if y is not None]
    ys = [y for one in shown for _, y in one.points if y is not None]
    if axes.limit_y is not None and axes.limit_y < 4 * max(ys):
        ys.append(axes.limit_y)
    x = _scale(xs, axes.log_x, _LEFT, axes.width - _RIGHT, from_zero=False)
    y = _scale(ys, axes.log_y, _HEIGHT - _BOTTOM, _TOP, from_zero=True)
    parts = [*_grid(x, y, axes)]
    if axes.limit_y is not None and axes.limit_y in ys:
        at = y(axes.limit_y)
        parts.append(f'<line class="limit" x1="{_LEFT}" x2="{axes.width - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{axes.width - _RIGHT}" y="{at - 5:.1f}" text-anchor="end">objective</text>'
        )
    for one in shown:
        if one.line:
            look = f"line c{one.colour} dashed" if one.dashed else f"line c{one.colour}"
            parts += [f'<polyline class="{look}" points="{window}"/>' for window in _windows(one, x, y)]
        if one.dots:
            parts += [
                f'<circle class="dot c{one.colour}" cx="{x(px):.1f}" cy="{y(py):.1f}" r="3.2">'
                f"<title>{escape(one.name)}: {number(px)}, {number(py)}</title></circle>"
                for px, py in one.points
                if py is not None
            ]
    return _legend([(one.name, one.colour) for one in shown]) + _svg(parts, axes.width, _HEIGHT, axes.summary or axes.y)


def histogram_chart(edges: Sequence[float], counts: Sequence[int], marks: dict[str, float], axes: Axes) -> str:
    """Bars between edges on a logarithmic scale, with some values marked by name; empty where there are none."""
    if not counts or not max(counts):
        return ""
    x = Scale(edges[0], edges[-1], _LEFT, axes.width - _RIGHT, logarithmic=True)
    y = Scale(0, max(counts) * 1.15, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(x, y, axes)]
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        if count:
            left, right, top = x(low), x(high), y(count)
            parts.append(
                f'<rect class="fill c1" x="{left:.1f}" y="{top:.1f}" width="{max(1.0, right - left - 1):.1f}" '
                f'height="{_HEIGHT - _BOTTOM - top:.1f}">'
                f"<title>{number(low)} to {number(high)}: {count:,}</title></rect>"
            )
    taken, row = 0.0, 0
    for name, value in marks.items():
        at, wide = x(value), _LETTER * len(name)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        anchor, shift = ("end", -4) if at + 4 + wide > axes.width else ("start", 4)
        left = at + shift - (wide if anchor == "end" else 0)
        row = row + 1 if left < taken else 0
        taken = left + wide
        parts.append(
            f'<text class="tick" x="{at + shift:.1f}" y="{_TOP + 10 + 13 * row}" text-anchor="{anchor}">{name}</text>'
        )
    return _svg(parts, axes.width, _HEIGHT, axes.summary or axes.x)


def stacked_bars(rows: Sequence[tuple[str, Sequence[float], str]], names: Sequence[str], summary: str) -> str:
    """One bar for each row, made of parts.

    Args:
        rows: Name, parts, and a label at the bar's end.
        names: Of the parts.
        summary: What the chart shows.
    """
    if not rows:
        return ""
    longest = max(sum(parts) for _, parts, _ in rows) or 1.0
    scale = Scale(0, longest, 0, WIDE - _NAME_WIDTH - 150)
    drawn = []
    for index, (name, values, label) in enumerate(rows):
        top = 4 + index * (_BAR_HEIGHT + _BAR_GAP)
        text = top + _BAR_HEIGHT - 5
        drawn.append(f'<text class="name" x="{_NAME_WIDTH - 10}" y="{text}" text-anchor="end">{escape(name)}</text>')
        left = float(_NAME_WIDTH)
        for colour, (part, value) in enumerate(zip(names, values, strict=True), 1):
            width = scale(value)
            drawn.append(
                f'<rect class="fill c{colour}" x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_BAR_HEIGHT}">'
                f"<title>{escape(part)}: {number(value)} ms</title></rect>"
            )
            left += width
        drawn.append(f'<text class="tick" x="{left + 8:.1f}" y="{text}">{escape(label)}</text>')
    height = 8 + len(rows) * (_BAR_HEIGHT + _BAR_GAP)
    return _legend([(name, colour) for colour, name in enumerate(names, 1)]) + _svg(drawn, WIDE, height, summary)


def number(value: float) -> str:
    """A number with three digits that matter, and thousands parted."""
    if value and abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}"


def _grid(x: Scale, y: Scale, axes: Axes) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    parts = []
    for value in y.ticks():
        at = y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{axes.width - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in x.ticks():
        at = x(value)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{number(value)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{axes.width - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + axes.width - _RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(axes.x)}</text>')
    up = (_TOP + bottom) / 2
    turned = f'text-anchor="middle" transform="rotate(-90 14 {up})"'
    parts.append(f'<text class="label" x="14" y="{up}" {turned}>{escape(axes.y)}</text>')
    return parts


def _windows(series: Series, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    windows: list[list[str]] = [[]]
    for px, py in series.points:
        if py is None:
            windows.append([])
        else:
            windows[-1].append(f"{x(px):.1f},{y(py):.1f}")
    return [" ".join(window) for window in windows if window]


def _scale(values: Sequence[float], logarithmic: bool, start: float, stop: float, *, from_zero: bool) -> Scale:
    low, high = min(values), max(values)
    if logarithmic:
        positive = [value for value in values if value > 0] or [1.0]
        return Scale(min(positive) / 1.15, max(positive) * 1.15, start, stop, logarithmic=True)
    if from_zero:
        return Scale(0.0, (high or 1.0) * 1.08, start, stop)
    margin = 0.02 * (high - low) or 0.5
    return Scale(max(0.0, low - margin) if low >= 0 else low - margin, high + margin, start, stop)


def _round_step(rough: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(digit * magnitude for digit in (1, 2, 5, 10) if digit * magnitude >= rough * 0.999)


def _legend(entries: Sequence[tuple[str, int]]) -> str:
    keys = "".join(f'<span><i class="key c{colour}"></i>{escape(name)}</span>' for name, colour in entries)
    return f'<div class="legend">{keys}</div>'


def _svg(parts: Sequence[str], width: int, height: float, summary: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height:g}" role="img" aria-label="{escape(summary)}">' + "".join(parts) + "</svg>"
    )
