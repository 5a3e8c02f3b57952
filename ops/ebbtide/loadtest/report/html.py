"""A result as one HTML file that needs nothing else: styles and plots are inside, and there is no script."""

from __future__ import annotations

from html import escape

from ebbtide.loadtest.report import tables
from ebbtide.loadtest.report.svg import NARROW, Axes, Series, histogram_chart, line_chart, stacked_bars
from ebbtide.loadtest.report.tables import Result, Table
from ebbtide.loadtest.server_time import PARTS

_STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #fff; --ink: #1d2125; --soft: #5c6670; --rule: #e3e5e8;
  --c1: #2563b0; --c2: #d9822b; --c3: #b3336b; --c4: #3f8f5b; --bad: #b42318; --good: #1f7a45; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1c2024; --ink: #e7e9eb; --soft: #9aa5b0;
  --rule: #31373d; --c1: #6ea8f0; --c2: #f0a65c; --c3: #e879a8; --c4: #6fc28c; --bad: #ff8a7a; --good: #6fd398; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 26px; margin: 0 0 2px; } h2 { font-size: 17px; margin: 0 0 10px; }
.soft { color: var(--soft); } .bad { color: var(--bad); } .good { color: var(--good); }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 18px 20px;
  margin-top: 18px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px; margin-top: 18px; }
.figures div { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 12px 14px; }
.figures b { display: block; font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.figures span { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 0 18px; }
.scroll { overflow-x: auto; }
ul { margin: 0; padding-left: 20px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; width: 100%; }
th { color: var(--soft); font-weight: 500; }
th, td { padding: 5px 10px; text-align: right; border-top: 1px solid var(--rule); white-space: nowrap; }
thead th { border-top: 0; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
table.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.words td:first-child { color: var(--soft); white-space: nowrap; }
pre { overflow-x: auto; margin: 12px 0 0; padding: 10px 12px; background: var(--page); border: 1px solid var(--rule);
  border-radius: 8px; font-size: 13px; white-space: pre-wrap; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
svg .name { fill: var(--ink); } .grid { stroke: var(--rule); } .axis { stroke: var(--soft); }
.limit { stroke: var(--bad); stroke-dasharray: 5 4; } .mark { stroke: var(--soft); stroke-dasharray: 2 3; }
.dashed { stroke-dasharray: 6 4; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); } .c4 { --c: var(--c4); }
.line { stroke: var(--c); } .dot, .fill { fill: var(--c); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; color: var(--soft); margin-bottom: 4px; }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; background: var(--c);
  vertical-align: -1px; }
@media print { section, .figures div { break-inside: avoid; } }
"""

_SECOND = "seconds from the start"


def html_report(result: Result) -> str:
    """The whole report."""
    headline = [run for run in result["runs"] if run["headline"]][-1]
    agreement = tables.perf_analyzer(result)
    sections = [
        _section("What came out", "<ul>" + "".join(map(_sentence, tables.verdict(result))) + "</ul>"),
        _section("Throughput against latency", _curve(result, headline) + _table(tables.runs(result))),
        _pair(
            _section("Latency over time", _over_time(result, headline)),
            _section("Requests over time", _load_over_time(headline)),
        ),
        _pair(
            _section("How long answers took", _histogram(result)),
            _section("Processor and memory", _usage(headline)),
        ),
        _section("Latency by endpoint", _table(tables.totals(result))),
        _section("Where the server spent its time", _server(result)),
        _section("Errors", _table(tables.errors(result))) if result["errors"] else "",
        "" if agreement is None else _section("Beside perf_analyzer", _table(agreement)),
        _section("How it was measured", _table(tables.facts(result)) + f"<pre>{escape(result['command'])}</pre>"),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Load test of {escape(result['server']['address'])}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>Load test</h1><div class="soft">{escape(_of_what(result))}</div>'
        + _figures(result)
        + "".join(sections)
        + "</main></body></html>\n"
    )


def _of_what(result: Result) -> str:
    return f"{result['server']['address']} · {result['headline']}"


def _figures(result: Result) -> str:
    latency, slo = result["latency_ms"], result["slo"]
    not_answered = result["failed"] + result["cancelled"]
    shown = [
        (f"{result['throughput']:,.0f}", "answers per second", ""),
        (f"{tables.ms(latency['p50'])} ms", "p50", ""),
        (f"{tables.ms(latency['p99'])} ms", "p99", ""),
        (f"{tables.ms(latency['p999'])} ms", "p99.9", ""),
        (f"{not_answered:,}", f"of {result['sent']:,} not answered", "bad" if not_answered else ""),
    ]
    if slo is not None:
        shown.append(
            ("held" if slo["held"] else "broken", slo["text"].replace(",", ", "), "good" if slo["held"] else "bad")
        )
    cells = "".join(
        f'<div><b class="{kind}">{value}</b><span>{escape(name)}</span></div>' for value, name, kind in shown
    )
    return f'<div class="figures">{cells}</div>'


def _curve(result: Result, headline: Result) -> str:
    """Levels where there are several, else the windows of the one run."""
    levels = result["search"]["levels"] if result["search"] is not None else result["runs"]
    limit = _p99_limit(result)
    if len(levels) > 1:
        # By load: an overloaded server answers less than before, and the line turns back.
        ordered = sorted(levels, key=lambda level: level["rate"] or level["concurrency"])
        series = [
            Series(name, [(level["throughput"], level["latency_ms"][key]) for level in ordered], colour, dots=True)
            for name, key, colour in (("p50", "p50", 1), ("p90", "p90", 2), ("p99", "p99", 3))
        ]
        what = "each point a level of load"
    else:
        windows = headline["windows"]
        series = [
            Series(name, list(zip(windows["throughput"], windows[key], strict=True)), colour, line=False, dots=True)
            for name, key, colour in (("p50", "p50_ms", 1), ("p99", "p99_ms", 3))
        ]
        what = f"each point {windows['width_s']:g} s of the run"
    axes = Axes("answers per second", "latency, ms", log_y=True, limit_y=limit, summary="Throughput against latency")
    return f'<p class="soft" style="margin:0 0 8px">{what}</p>' + line_chart(series, axes)


def _over_time(result: Result, run: Result) -> str:
    windows = run["windows"]
    series = [
        Series(name, list(zip(windows["begin_s"], windows[key], strict=True)), colour)
        for name, key, colour in (("p50", "p50_ms", 1), ("p90", "p90_ms", 2), ("p99", "p99_ms", 3))
    ]
    limit = _p99_limit(result)
    return line_chart(
        series, Axes(_SECOND, "latency, ms", log_y=True, width=NARROW, limit_y=limit, summary="Latency over time")
    )


def _load_over_time(run: Result) -> str:
    windows = run["windows"]
    width = windows["width_s"]
    failed = [(at, count / width) for at, count in zip(windows["begin_s"], windows["failed"], strict=True)]
    series = [
        Series("sent", list(zip(windows["begin_s"], windows["rate"], strict=True)), 1),
        Series("answered", list(zip(windows["begin_s"], windows["throughput"], strict=True)), 4, dashed=True),
    ]
    if any(count for _, count in failed):
        series.append(Series("not answered", failed, 3))
    return line_chart(series, Axes(_SECOND, "per second", width=NARROW, summary="Requests over time"))


def _histogram(result: Result) -> str:
    found, latency = result["histogram"], result["latency_ms"]
    marks = {name: latency[key] for name, key in (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99.9", "p999"))}
    marks = {name: value for name, value in marks.items() if value is not None}
    axes = Axes("latency, ms", "answers", log_x=True, width=NARROW, summary="Histogram of latencies")
    return histogram_chart(found["edges_ms"], found["counts"], marks, axes)


def _usage(run: Result) -> str:
    usage = run["usage"]
    cores = [
        Series(name, list(zip(usage["at_s"], usage[key], strict=False)), colour)
        for name, key, colour in (
            ("server", "server_cores", 3),
            ("generator", "generator_cores", 1),
            ("machine", "machine_cores", 2),
        )
    ]
    shown = line_chart(cores, Axes(_SECOND, "cores busy", width=NARROW, summary="Processor over time"))
    memory = usage["server_memory_mib"]
    if memory:
        shown += f'<p class="soft">Server memory: {memory[0]:,.0f} MiB at first, {max(memory):,.0f} MiB at most.</p>'
    if usage["note"]:
        shown += f'<p class="soft">{escape(usage["note"][0].upper() + usage["note"][1:])}.</p>'
    return shown or '<p class="soft">The run was too short to sample.</p>'


def _server(result: Result) -> str:
    if not result["models"]:
        return '<p class="soft">The server\'s own statistics are missing.</p>'
    steps = [model for model in result["models"] if not model["steps"]]
    rows = [
        (
            model["name"],
            [model["parts_ms"][part] for part in PARTS],
            f"{model['total_ms']:.2f} ms, batch {model['mean_batch']:.1f}",
        )
        for model in sorted(steps, key=lambda model: -model["total_ms"])
    ]
    return stacked_bars(rows, PARTS, "Time of a request in each model") + _table(tables.models(result))


def _p99_limit(result: Result) -> float | None:
    if result["slo"] is None:
        return None
    return float(result["slo"]["percentiles"][-1]["limit_ms"])


def _sentence(text: str) -> str:
    return f"<li>{escape(text)}</li>"


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{heading}</h2>{content}</section>"


def _pair(*sections: str) -> str:
    return f'<div class="pair">{"".join(sections)}</div>'


def _table(table: Table) -> str:
    head = ""
    if any(table.headings):
        head = "<thead><tr>" + "".join(f"<th>{escape(one)}</th>" for one in table.headings) + "</tr></thead>"
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    kind = ' class="words"' if table.words else ""
    return f'<div class="scroll"><table{kind}>{head}<tbody>{body}</tbody></table></div>'
