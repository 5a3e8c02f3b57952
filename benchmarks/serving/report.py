"""Tables of the serving benchmark's results, for the terminal and as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.serving.recommend import FLOOR, IN_FLIGHT, OURS

PLOT = "serving-catalog.png"
"""File name of the plot, drawn beside the Markdown page when the catalog part has run."""

Content = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """A bound that a figure should meet."""

    key: str
    """The figure's path in the JSON, joined by dots."""
    bound: float
    at_most: bool = False
    """Whether the bound is an upper one."""

    def judged(self, content: Content) -> tuple[str, str, str, str]:
        """The cells of a table row: key, figure, goal, and whether it is met."""
        value = _at(content, self.key)
        goal = f"{'at most' if self.at_most else 'at least'} {self.bound:g}"
        if not isinstance(value, int | float):
            return self.key, "not measured", goal, ""
        met = value <= self.bound if self.at_most else value >= self.bound
        return self.key, f"{value:.3g}", goal, "yes" if met else "no"


GOALS = (
    Goal("recommend.p50_over_floor", 1.3, at_most=True),
    Goal("recommend.throughput_over_floor", 0.7),
    Goal("peers.p1.throughput_ratio", 3.0),
    Goal("peers.p2.throughput_ratio", 1.5),
    Goal("peers.p3.throughput_ratio", 1.5),
    *(Goal(f"peers.{peer}.p99_ratio", 1.0, at_most=True) for peer in ("p1", "p2", "p3")),
    Goal("encoder.fp32.throughput_over_bare_ort", 0.9),
    Goal("encoder.int8.throughput_over_bare_ort", 0.9),
    Goal("encoder.int8.throughput_over_sentence_transformers", 2.5),
    *(Goal(f"encoder.{precision}.throughput_over_infinity", 1.0) for precision in ("fp32", "int8")),
    Goal("catalog.1000000.fraction_of_bandwidth", 0.6),
    Goal("catalog.1000000.ann_speedup", 10.0),
    Goal("catalog.1000000.ann_recall_at_100", 0.98),
    Goal("memory.instances_ratio", 1.3, at_most=True),
)


@dataclass(frozen=True)
class Lines:
    """The content of a table."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def tables(content: Content) -> Iterator[Lines]:
    """Yields the tables of every measured part."""
    yield Lines("Goals", ("figure", "measured", "goal", "met"), [goal.judged(content) for goal in GOALS])
    recommend, peers, memory = (content.get(part) for part in ("recommend", "peers", "memory"))
    if recommend:
        yield _compared(
            f"recommend, one request in flight ({_described(recommend)})", recommend["concurrency_1"], FLOOR
        )
        yield _compared(f"recommend, {IN_FLIGHT} requests in flight", recommend[f"concurrency_{IN_FLIGHT}"], FLOOR)
    if peers:
        yield _peers(peers)
        tried = [
            (peers[peer]["title"], _settings(one), f"{one['requests_per_s']:,.0f}", f"{one['p99_ms']:.1f}")
            for peer in ("p1", "p2", "p3")
            for one in peers[peer]["tried"]
        ]
        if tried:
            yield Lines("Peers: settings tried", ("peer", "settings", "requests/s", "p99, ms"), tried)
    if memory:
        yield Lines(
            f"Memory of the server, {memory['items']:,} items (table: {memory['table_mib']:.0f} MiB)",
            ("models", "instances of adaptive_weights", "proportional set size, MiB", "resident set size, MiB"),
            [
                (title, count, f"{used['pss_mib']:,.0f}", f"{used['rss_mib']:,.0f}")
                for key, title in (("recommend", "recommend"), ("adaptive_weights_alone", "adaptive_weights only"))
                for count, used in memory[key].items()
            ],
        )
    if catalog := content.get("catalog"):
        yield _catalog(catalog)
    if encoder := content.get("encoder"):
        yield Lines("Encoder", ("figure", "measured"), [(key, _text(value)) for key, value in _flat(encoder)])


def show(console: Console, content: Content) -> None:
    """Prints the tables."""
    for lines in tables(content):
        table = Table(title=escape(lines.title), title_justify="left")
        for index, heading in enumerate(lines.headings):
            table.add_column(heading, justify="left" if index == 0 else "right")
        for row in lines.rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)


def markdown(content: Content) -> str:
    """The Markdown page: the machine, then the tables."""
    machine = content["machine"]
    runs = content["runs"]
    parts = [
        "# Serving benchmark: results",
        "`make bench-serving` writes this page; docs/benchmarks-serving.md explains what is measured and how.",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB; {machine['system']}; Python "
        f"{machine['python']}; "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + ".",
    ]
    if any(run["quick"] for run in runs.values()):
        parts.append("This was a quick run: fewer and shorter measurements.")
    run_rows = [
        (part, "quick" if run["quick"] else "full", f"{run['load_average_before']:.2f}", f"{run['seconds']:,.0f}")
        for part, run in runs.items()
    ]
    run_table = Lines("Runs of the parts", ("part", "run", "load average before", "seconds"), run_rows)
    for lines in (*tables(content), run_table):
        rows = [lines.headings, ("---",) * len(lines.headings), *lines.rows]
        parts += [f"## {lines.title}", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    if "catalog" in content:
        parts.append(f"![Time of a request by catalog size]({PLOT})")
    return "\n\n".join(parts) + "\n"


def _compared(title: str, systems: Content, baseline: str) -> Lines:
    rows = [
        (name.replace("_", "-"), f"{one['requests_per_s']:,.0f}", f"{one['p50_ms']:.3f}", f"{one['p99_ms']:.3f}")
        for name, one in ((OURS, systems[OURS]), (baseline, systems[baseline]))
    ]
    return Lines(title, ("system", "requests/s", "p50, ms", "p99, ms"), rows)


def _peers(peers: Content) -> Lines:
    systems = peers[f"concurrency_{IN_FLIGHT}"]
    rows: list[tuple[str, ...]] = []
    for name, one in systems.items():
        figures = (f"{one['requests_per_s']:,.0f}", f"{one['p50_ms']:.3f}", f"{one['p99_ms']:.3f}")
        if name == OURS:
            rows.append((OURS, "as exported", *figures, "", ""))
        else:
            peer = peers[name]
            ratios = (f"{peer['throughput_ratio']:.2f}", f"{peer['p99_ratio']:.2f}")
            rows.append((f"{name}: {peer['title']}", _settings(peer["settings"]), *figures, *ratios))
    return Lines(
        f"Peers, {IN_FLIGHT} requests in flight",
        (
            *("system", "settings", "requests/s", "p50, ms", "p99, ms"),
            *("Ebbtide's throughput / peer's", "Ebbtide's p99 / peer's"),
        ),
        rows,
    )


def _catalog(catalog: Content) -> Lines:
    keys = ("floor_ms", "exact_ms", "fraction_of_bandwidth", "ann_ms", "ann_speedup", "ann_recall_at_100")
    return Lines(
        "Time of a request by catalog size, one thread",
        ("items", *(key.replace("_", " ") for key in keys)),
        [(f"{int(items):,}", *(_text(one.get(key)) for key in keys)) for items, one in catalog.items()],
    )


def _text(value: Any) -> str:  # noqa: ANN401
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _described(recommend: Content) -> str:
    return (
        f"{recommend['history_events']} history and {recommend['current_events']} current events, "
        f"{recommend['items']:,} items, {recommend['users']} users"
    )


def _settings(content: Content) -> str:
    return ", ".join(f"{key} {value}" for key, value in content.items() if not isinstance(value, float))


def _at(content: Content, key: str) -> Any:  # noqa: ANN401
    value: Any = content
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _flat(content: Content, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every figure that is not in a list, with its path joined by dots."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, int | float | str):
            yield f"{prefix}{key}", value
