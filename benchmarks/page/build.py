"""Builds the texts of the pages from a folder of results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.page.sections import SECTIONS, Section
from benchmarks.page.text import number, table
from benchmarks.serving.report import Lines
from ebbtide.capacity import (
    CapacityError,
    Demand,
    Measured,
    Memory,
    Replica,
    notes_of,
    plan,
    read_measured,
    read_memory,
)

PLOTS = "plots"
"""Folder of the documentation that plots are copied to."""
USERS = (1_000, 100_000, 10_000_000)
BEGIN, END = "<!-- built by `make bench-docs` -->", "<!-- end of what is built -->"
_MEASURED = ("tune.json", "loadtest.json", "serving.json")
"""Where a replica's rate is taken from: the first of them that has one."""
_INTRODUCTION = """# Benchmarks

`make bench-docs` builds this page from `benchmarks/results/*.json`; do not edit it by hand. Each section names the
machine of the measurement and the command that repeats it. Different sections come from different runs, so compare
figures within one table only."""


def benchmarks_page(results: Path) -> str:
    """The whole page.

    Args:
        results: Folder with the JSON of each benchmark.
    """
    return "\n\n".join([_INTRODUCTION, *(part for section in SECTIONS for part in _section(section, results))]) + "\n"


def plots(results: Path) -> Iterator[Path]:
    """Yields the plots that the page shows."""
    for section in SECTIONS:
        if (results / section.result).is_file():
            yield from (path for name in section.plots if (path := results / name).is_file())


def capacity_page(page: str, results: Path) -> str:
    """Returns the page with new worked numbers.

    Args:
        page: The page as it is; the text between the marks is replaced.
        results: Folder with the JSON of each benchmark.

    Raises:
        ValueError: A mark is missing.
    """
    return _between_marks("docs/capacity.md", page, _worked(results))


def responsible_page(page: str, results: Path) -> str:
    """Returns the page with what `make bench-responsible` measured.

    Args:
        page: The page as it is; the text between the marks is replaced.
        results: Folder with the JSON of each benchmark.

    Raises:
        ValueError: A mark is missing.
    """
    return _between_marks("docs/responsible.md", page, _responsible(results))


def _between_marks(name: str, page: str, parts: Iterable[str]) -> str:
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{name}: got no {BEGIN} and {END}; expected both, one after the other")
    return before + "\n\n".join([BEGIN, *parts, END]) + after


def _responsible(results: Path) -> Iterator[str]:
    path = results / "responsible.json"
    if not path.is_file():
        yield "Not measured yet: `make bench-responsible` writes `benchmarks/results/responsible.json`."
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    yield (
        f"`make bench-responsible` on {content['date']}: {content['users']:,} users, {content['baskets']:,} held-out "
        f"baskets, {content['items']:,} items. Lists of ten are composed from the best {content['candidates']} by the "
        "maths that the server composes slates with. Differences are to the lists by score alone, with their 95 % "
        "interval. Tail ratio: exposure per relevant item of the tail, divided by that of all other items."
    )
    headings = ("lists", "NDCG@10", "difference", "Gini", "coverage", "exposure of the tail", "tail ratio", "new items")
    yield "\n".join(f"| {' | '.join(row)} |" for row in [headings, ("---",) * len(headings), *_lists(content)])


def _lists(content: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yields the row of the lists by score, then those with a constraint."""
    for index, one in enumerate([content["constraints"][0], *content["constraints"]]):
        side = "after" if index else "before"
        difference, ratio = one["ndcg_at_10"]["difference"], one["tail_ratio"][side]
        yield (
            one["name"] if index else "by score alone",
            f"{one['ndcg_at_10'][side]['mean']:.4f}",
            f"{difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]" if index else "",
            f"{one['gini'][side]['mean']:.3f}",
            f"{one['coverage_at_10'][min(index, 1)]:.1%}",
            f"{one['exposure_share']['tail'][side]['mean']:.1%}",
            f"{ratio['mean']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]",
            f"{one['exposure_share']['new'][side]['mean']:.1%}",
        )


def _section(section: Section, results: Path) -> Iterator[str]:
    yield f"## {section.title}"
    yield section.about
    path = results / section.result
    if not path.is_file():
        yield f"Not measured yet: `{section.command}` writes `benchmarks/results/{section.result}`."
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    yield _facts(section, content)
    if section.goals:
        yield table(
            Lines("Goals", ("figure", "measured", "goal", "met"), [one.judged(content) for one in section.goals])
        )
    for lines in section.tables(content):
        yield table(lines)
    for note in content.get("notes") or ():
        yield f"- {note}"
    for name in section.plots:
        if (results / name).is_file():
            yield f"![{section.title}]({PLOTS}/{name})"


def _facts(section: Section, content: dict[str, Any]) -> str:
    """Returns one line with the day, the command and the machine."""
    machine = dict(content.get("machine") or {})
    versions = machine.pop("versions", None) or {}
    parts: list[str] = []
    for key, value in machine.items():
        if key in ("cpu", "processor", "system"):
            parts.insert(0, str(value))
        elif key == "memory_gib":
            parts.append(f"{value:g} GiB")
        elif key == "vector_units":
            # Some results list a count among the names.
            parts.append(" ".join(str(unit) for unit in value if isinstance(unit, str)))
        elif key not in ("date", "machine"):
            parts.append(f"{key.replace('_', ' ')} {number(value)}")
    parts += [f"{name} {version}" for name, version in versions.items() if version]
    day = _day(content, machine)
    measured = "" if day is None else f"Measured on {day}. "
    quick = (
        " This was a quick run: fewer and shorter measurements."
        if content.get("quick") or _has_quick_part(content)
        else ""
    )
    return f"{measured}`{section.command}` measures it again.{quick} Machine: {', '.join(parts)}."


def _day(content: dict[str, Any], machine: dict[str, Any]) -> str | None:
    """Returns the day of the measurement (UTC), or None if the result has none."""
    if (stated := content.get("date") or machine.get("date")) is not None:
        return str(stated)[:10]
    if (began := content.get("began_unix_s")) is not None:
        return datetime.fromtimestamp(began, timezone.utc).date().isoformat()
    return None


def _has_quick_part(content: dict[str, Any]) -> bool:
    runs = content.get("runs")
    return isinstance(runs, dict) and any(run.get("quick") for run in runs.values())


def _worked(results: Path) -> Iterator[str]:
    """Yields the tables of arithmetic with the measured numbers."""
    path, measured = _rate(results)
    assert measured.machine is not None
    memory: Memory | None = None
    of_memory = None
    if (served := results / "serving.json").is_file():
        with contextlib.suppress(CapacityError):
            of_memory = read_memory(served)
            content = json.loads(served.read_text(encoding="utf-8"))
            memory = replace(of_memory.memory, items=content["recommend"]["items"])
    replica = Replica(measured.rate_per_s, measured.machine.cores, memory)
    yield (
        f"One replica: {number(measured.rate_per_s)} requests/s of `{measured.endpoints}` on {measured.machine}: "
        f"{measured.what} (`benchmarks/results/{path.name}`)."
    )
    if memory is not None and of_memory is not None:
        large = of_memory.memory
        yield (
            f"Memory of a server with `{', '.join(of_memory.endpoints)}`, from two numbers of instances with "
            f"{large.items:,} items (`benchmarks/results/serving.json`): {number(large.base_mib)} MiB without the "
            f"catalog, {number(large.instance_mib)} MiB for each instance of `adaptive_weights`, and the factors "
            f"twice, {number(large.table_mib)} MiB each: in the table that instances share and in the scoring head, "
            f"{number(large.total_mib)} MiB together. The plans below are for a catalog of {memory.items:,} items."
        )
    if notes := notes_of(measured, of_memory):
        yield "\n".join(f"- {note[0].upper()}{note[1:]}." for note in notes)
    for users in USERS:
        lines = plan(Demand(users), replica).lines
        yield table(
            Lines(
                f"{users:,} users per day",
                ("step", "arithmetic", "result"),
                [(line.name, line.arithmetic, line.shown) for line in lines],
            )
        )


def _rate(results: Path) -> tuple[Path, Measured]:
    """Returns the file with a replica's rate of `recommend` (the endpoint whose memory is measured), and the rate."""
    for name in _MEASURED:
        path = results / name
        if path.is_file():
            with contextlib.suppress(CapacityError):
                found = read_measured(path)
                if list(found.mix) == ["recommend"]:
                    return path, found
    raise FileNotFoundError(f"{results}: got no rate of `recommend`; expected one in {', '.join(_MEASURED)}")
