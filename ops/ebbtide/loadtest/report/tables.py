"""The tables of a report, as rows of text that HTML and Markdown both show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ebbtide.loadtest.server_time import PARTS

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows under headings; all columns but the first hold numbers, unless `words` is set."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


def ms(value: float | None) -> str:
    """Milliseconds, with two decimals below 100."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def verdict(result: Result) -> list[str]:
    """The result in sentences, the most important first."""
    latency = result["latency_ms"]
    sentences = []
    if result["search"] is not None:
        sentences.append(_found(result))
    elif result["slo"] is not None:
        slo = result["slo"]
        sentences.append(
            f"The objective {slo['text']} is {'held' if slo['held'] else 'not held'} at {result['headline']}."
        )
    sentences.append(
        f"{result['throughput']:,.1f} answers per second, 50 % within {ms(latency['p50'])} ms, 99 % within "
        f"{ms(latency['p99'])} ms ({result['headline']})."
    )
    sentences += [f"{step}." for step in result["slowest_steps"]]
    accounted = (
        f"Sent {result['sent']:,} = answered {result['answered']:,} + failed {result['failed']:,} + cancelled "
        f"{result['cancelled']:,}."
    )
    if result["unaccounted"]:
        accounted = f"{result['unaccounted']:,} requests are not accounted for: do not trust this report. " + accounted
    if result["unsent"]:
        accounted += f" {result['unsent']:,} more were due and were never sent."
    sentences.append(accounted)
    generator = result["generator"]
    if generator["limit"]:
        sentences.append(f"The load generator may be the limit, not the server: {generator['limit']}.")
    else:
        times = generator["times_the_highest_throughput"] or 0
        sentences.append(
            f"The load generator is not the bottleneck: it sends {generator['do_nothing_throughput']:,.0f} requests "
            f"per second to a server that does nothing, {times:.1f} times the highest throughput measured."
        )
    return [*sentences, *(f"{note[0].upper()}{note[1:]}." for note in result["notes"])]


def _found(result: Result) -> str:
    search, slo = result["search"], result["slo"]
    if search["highest_rate_held"] is None:
        return f"No rate that was tried held {slo['text']}."
    best = search["highest_rate_held"]
    if search["generator_limit"]:
        return (
            f"{best:,.0f} requests per second hold {slo['text']}. The server's limit is not known, because the load "
            f"generator could not send more: {search['generator_limit']}."
        )
    level = next(level for level in search["levels"] if level["rate"] == best)
    bounds = ", ".join(
        f"{name} {ms(bound['mean'])} ms, at most {ms(bound['upper'])} ms with 95 % confidence"
        for name, bound in level["bounds_ms"].items()
    )
    above = search["lowest_rate_broken"]
    refused = f"; {above:,.0f} per second do not" if above is not None else ""
    return f"{best:,.0f} requests per second hold {slo['text']} ({bounds}; {level['trials']} trials){refused}."


def totals(result: Result) -> Table:
    """The headline's latency, endpoint by endpoint."""
    rows = []
    for name, found in result["endpoints"].items():
        latency = found["latency_ms"]
        share = result["requests"]["mix"][name]
        rows.append(
            [
                name,
                f"{100 * share:.0f} %",
                *(f"{found[key]:,}" for key in ("sent", "answered", "failed", "cancelled")),
                *(ms(latency[key]) for key in ("p50", "p90", "p99", "p999", "max")),
            ]
        )
    return Table(
        ["endpoint", "share", "sent", "answered", "failed", "cancelled", "p50 ms", "p90", "p99", "p99.9", "max"], rows
    )


def runs(result: Result) -> Table:
    """Every run; of a search, every level."""
    if result["search"] is not None:
        rows = [
            [
                f"{level['rate']:,.1f}/s",
                f"{level['throughput']:,.1f}",
                ms(level["latency_ms"]["p50"]),
                ms(level["latency_ms"]["p99"]),
                str(level["trials"]),
                level["why"],
            ]
            for level in sorted(result["search"]["levels"], key=lambda level: level["rate"])
        ]
        return Table(["rate", "answers/s", "p50 ms", "p99 ms", "trials", "objective"], rows)
    rows = [
        [
            run["load"],
            f"{run['throughput']:,.1f}",
            *(ms(run["latency_ms"][key]) for key in ("p50", "p90", "p99", "p999")),
            f"{run['sent']:,}",
            f"{run['failed'] + run['cancelled']:,}",
            ms(run["late_ms"]["mean"]),
        ]
        for run in result["runs"]
    ]
    return Table(
        ["load", "answers/s", "p50 ms", "p90", "p99", "p99.9", "sent", "not answered", "mean delay of sending, ms"],
        rows,
    )


def models(result: Result) -> Table:
    """Triton's own times of each model."""
    rows = [
        [
            model["name"] + (" (ensemble)" if model["steps"] else ""),
            f"{model['requests']:,}",
            f"{model['failed']:,}",
            "-" if model["steps"] else f"{model['mean_batch']:.2f}",
            *("-" if model["steps"] else ms(model["parts_ms"][part]) for part in PARTS),
            ms(model["total_ms"]),
            f"{model['cache_hits']:,}",
        ]
        for model in result["models"]
    ]
    return Table(
        ["model", "requests", "failed", "batch", "queue ms", "input", "infer", "output", "total", "cache hits"], rows
    )


def errors(result: Result) -> Table:
    """Requests without an answer, by gRPC status."""
    return Table(["status", "requests"], [[code, f"{count:,}"] for code, count in result["errors"].items()])


def facts(result: Result) -> Table:
    """The machine, the versions and the requests."""
    machine, requests, generator = result["machine"], result["requests"], result["generator"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    began = datetime.fromtimestamp(result["began_unix_s"], timezone.utc)
    sizes = ", ".join(
        f"{requests['distinct'][name]:,} of {name} ({size:,} bytes on average)"
        for name, size in requests["mean_bytes"].items()
    )
    by_user = ", named in place of their histories" if requests.get("by_user") else ""
    warm = result["warm_up"]
    rows = [
        ["when", f"{began:%Y-%m-%d %H:%M} UTC"],
        ["server", f"{result['server']['name']} {result['server']['version']} at {result['server']['address']}"],
        ["generator's machine", f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB"],
        ["system", f"{machine['system']}, Python {machine['python']}"],
        ["versions", versions],
        [
            "generator",
            f"{generator['engine']}, {generator['cpu_us_per_request']:.0f} µs of processor time per request",
        ],
        ["requests", f"from real sessions of {requests['users']:,} held-out users{by_user}; distinct: {sizes}"],
        ["warm-up", f"{warm['sent']:,} sent, {warm['answered']:,} answered; not counted elsewhere"],
    ]
    return Table(["", ""], rows, words=True)


def perf_analyzer(result: Result) -> Table | None:
    """perf_analyzer and this generator at equal concurrency; None where perf_analyzer was not run."""
    found = result["perf_analyzer"]
    if found is None:
        return None
    rows = [
        [
            str(level["concurrency"]),
            f"{level['theirs']['throughput']:,.1f}",
            f"{level['ours']['throughput']:,.1f}",
            f"{level['throughput_ratio']:.3f}",
            ms(level["theirs"]["p50_ms"]),
            ms(level["ours"]["p50_ms"]),
            f"{level['p50_ratio']:.3f}",
        ]
        for level in found["levels"]
    ]
    return Table(
        ["concurrency", "perf_analyzer/s", "ebbtide/s", "ratio", "perf_analyzer p50 ms", "ebbtide p50 ms", "ratio"],
        rows,
    )
