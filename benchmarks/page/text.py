"""Formats tables and numbers as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.serving.report import Lines

_LEFT_OUT = frozenset({"machine", "versions", "command", "notes", "runs_raw", "turns", "began_unix_s", "date"})
_LONGEST_ROW = 9
_MOST_ROWS = 40


def number(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """Formats a value for a cell: whole numbers in full, others with three significant digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if value == int(value) or abs(value) >= 1_000:
            return f"{value:,.0f}"
        return f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.1e}"
    if isinstance(value, list | tuple):
        return ", ".join(number(one) for one in value) or "none"
    return str(value).replace("|", "\\|")


def interval(ends: Sequence[float] | None) -> str:
    """Formats a confidence interval for a cell."""
    return "-" if ends is None else f"{number(ends[0])} to {number(ends[1])}"


def table(lines: Lines) -> str:
    """Formats a table with its title."""
    rows = [lines.headings, ("---",) * len(lines.headings), *lines.rows]
    body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"### {lines.title}\n\n{body}"


def tables_of(content: Mapping[str, Any], title: str = "Figures") -> Iterator[Lines]:
    """Yields the tables of any result: one of its single figures, by key, and one for each list of records."""
    rows = [(key, number(value)) for key, value in _figures(content)]
    if rows:
        yield Lines(title, ("figure", "measured"), rows)
    for key, listed in _lists(content):
        columns = [name for name in listed[0] if all(_is_cell(one.get(name)) for one in listed)][:_LONGEST_ROW]
        if columns:
            cells = [tuple(number(one.get(name)) for name in columns) for one in listed[:_MOST_ROWS]]
            yield Lines(key.replace("_", " "), tuple(name.replace("_", " ") for name in columns), cells)


def _figures(content: Mapping[str, Any], index: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if key in _LEFT_OUT:
            continue
        if isinstance(value, dict):
            yield from _figures(value, f"{index}{key}.")
        elif _is_cell(value):
            yield f"{index}{key}", value


def _lists(content: Mapping[str, Any], index: str = "") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for key, value in content.items():
        if key in _LEFT_OUT:
            continue
        if isinstance(value, dict):
            yield from _lists(value, f"{index}{key}.")
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            yield f"{index}{key}", value


def _is_cell(value: Any) -> bool:  # noqa: ANN401 - whatever JSON holds
    return value is None or isinstance(value, int | float | str)
