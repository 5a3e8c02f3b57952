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
    """Rows under headings; all columns but the first hold numbers, unless `words` says so."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


def ms(value: float | None) -> str:
    """Milliseconds with the digits that matter."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def verdict(result: Result) -> list[str]:
    """What came out, in sentences; the most important first."""
    latency = result["latency_ms"]
    told = []
    if result["search"] is not None:
        told.append(_found(result))
    elif result["slo"] is not None:
        slo = result["slo"]
        told.append(f"The objective {slo['text']} is {'held' if slo['held'] else 'not held'} at {result['headline']}.")
    told.append(
        f"{result['throughput']:,.1f} answers per second; half of them within {ms(latency['p50'])} ms, 99 % within "
        f"{ms(latency['p99'])} ms ({result['headline']})."
    )
    told += [f"{step}." for step in result["slowest_steps"]]
    accounted = (
        f"Sent {result['sent']:,} = answered {result['answered']:,} + failed {result['failed']:,} + cancelled "
        f"{result['cancelled']:,}."
    )
    if result["unaccounted"]:
        accounted = f"{result['unaccounted']:,} requests are unaccounted for: do not trust this report. " + accounted
    if result["unsent"]:
        accounted += f" {result['unsent']:,} more were due and never left."
    told.append(accounted)
    generator = result["generator"]
    if generator["limit"]:
        told.append(f"Not the server's limit: {generator['limit']}.")
    else:
        times = generator["times_the_highest_throughput"] or 0
        told.append(
            f"The generator is no bottleneck: against a server that does nothing it sends "
            f"{generator['do_nothing_throughput']:,.0f} per second, {times:.1f} times the most measured here."
        )
    return [*told, *(f"{note[0].upper()}{note[1:]}." for note in result["notes"])]


def _found(result: Result) -> str:
    search, slo = result["search"], result["slo"]
    if search["highest_rate_held"] is None:
        return f"No rate that was tried holds {slo['text']}."
    best = search["highest_rate_held"]
    if search["generator_limit"]:
        return (
            f"{best:,.0f} requests per second hold {slo['text']}. No limit of the server is reported, since the "
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
        ["load", "answers/s", "p50 ms", "p90", "p99", "p99.9", "sent", "not answered", "left late by, mean ms"], rows
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
        ["model", "requests", "failed", "batch", "queue ms", "input", "infer", "output", "in all", "cache hits"], rows
    )


def errors(result: Result) -> Table:
    """Requests without an answer, by gRPC status."""
    return Table(["status", "requests"], [[code, f"{count:,}"] for code, count in result["errors"].items()])


def facts(result: Result) -> Table:
    """The machine, the versions, what was sent."""
    machine, requests, generator = result["machine"], result["requests"], result["generator"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    began = datetime.fromtimestamp(result["began_unix_s"], timezone.utc)
    sizes = ", ".join(
        f"{requests['distinct'][name]:,} of {name} ({size:,} bytes on average)"
        for name, size in requests["mean_bytes"].items()
    )
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
        ["requests", f"real sessions of {requests['users']:,} held-out users; different ones: {sizes}"],
        ["warm-up", f"{warm['sent']:,} sent, {warm['answered']:,} answered; in no other figure"],
    ]
    return Table(["", ""], rows, words=True)


def perf_analyzer(result: Result) -> Table | None:
    """NVIDIA's own generator beside this one, at equal concurrency; None where it was not run."""
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
    return Table(["at a time", "perf_analyzer/s", "ebbtide/s", "ratio", "its p50 ms", "our p50 ms", "ratio"], rows)
