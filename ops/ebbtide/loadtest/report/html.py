"""A result as one HTML file that needs nothing else: styles and charts are inside, and there is no script."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from ebbtide.loadtest.report import tables
from ebbtide.loadtest.report.charts import Chart, Series, histogram_chart, line_chart, stacked_bars
from ebbtide.loadtest.report.tables import Result
from ebbtide.loadtest.server_time import PARTS

_TEMPLATE = "report.html.j2"
_SECONDS, _LATENCY = "seconds from the start", "latency, ms"
_PERCENTILES = (("p50", "c1"), ("p90", "c2"), ("p99", "c3"))


def html_report(result: Result) -> str:
    """The whole report."""
    headline = [run for run in result["runs"] if run["headline"]][-1]
    windows = headline["windows"]
    limit = None if result["slo"] is None else float(result["slo"]["percentiles"][-1]["limit_ms"])
    curve, curve_note = _curve(result, windows, limit)
    latency_over_time = [Series(name, _over_time(windows, f"{name}_ms"), colour) for name, colour in _PERCENTILES]
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        result=result,
        figures=_figures(result),
        verdict=tables.verdict(result),
        curve=curve,
        curve_note=curve_note,
        histogram=_histogram(result),
        latency_over_time=line_chart(latency_over_time, _SECONDS, _LATENCY, log_y=True, limit=limit),
        requests_over_time=_requests_over_time(windows),
        server_time=_server_time(result),
        usage=_usage(headline["usage"]),
        usage_notes=_usage_notes(headline["usage"]),
        tables={
            "runs": tables.runs(result),
            "totals": tables.totals(result),
            "models": tables.models(result),
            "errors": tables.errors(result),
            "perf_analyzer": tables.perf_analyzer(result),
            "facts": tables.facts(result),
        },
    )


def _figures(result: Result) -> list[tuple[str, str, str]]:
    """The large numbers at the top: value, name and class."""
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
        objective = slo["text"].replace(",", ", ")
        shown.append(("held", objective, "good") if slo["held"] else ("broken", objective, "bad"))
    return shown


def _curve(result: Result, windows: Result, limit: float | None) -> tuple[Chart, str]:
    """Latency by throughput: of levels of load where there are several, or else of the windows of the one run."""
    levels = result["search"]["levels"] if result["search"] is not None else result["runs"]
    if len(levels) > 1:
        # By load: an overloaded server answers less than before, and the line turns back.
        ordered = sorted(levels, key=lambda level: level["rate"] or level["concurrency"])
        series = [
            Series(name, [(level["throughput"], level["latency_ms"][name]) for level in ordered], colour, "o-")
            for name, colour in _PERCENTILES
        ]
        note = "Each point is a level of load."
    else:
        series = [
            Series(name, list(zip(windows["throughput"], windows[f"{name}_ms"], strict=True)), colour, "o")
            for name, colour in _PERCENTILES
        ]
        note = f"Each point is {windows['width_s']:g} s of the run."
    return line_chart(series, "answers per second", _LATENCY, log_y=True, limit=limit), note


def _requests_over_time(windows: Result) -> Chart:
    series = [
        Series("sent", _over_time(windows, "rate"), "c1"),
        Series("answered", _over_time(windows, "throughput"), "c4", "--"),
    ]
    if any(windows["failed"]):
        failed = [(at, count / windows["width_s"]) for at, count in _over_time(windows, "failed")]
        series.append(Series("not answered", failed, "c3"))
    return line_chart(series, _SECONDS, "requests per second")


def _histogram(result: Result) -> Chart:
    found, latency = result["histogram"], result["latency_ms"]
    named = (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99.9", "p999"))
    marks = {name: latency[key] for name, key in named if latency[key] is not None}
    return histogram_chart(found["edges_ms"], found["counts"], marks, _LATENCY, "answers")


def _usage(usage: Result) -> Chart:
    series = [
        Series(name, list(zip(usage["at_s"], usage[f"{name}_cores"], strict=False)), colour)
        for name, colour in (("server", "c3"), ("generator", "c1"), ("machine", "c2"))
    ]
    return line_chart(series, _SECONDS, "cores busy")


def _usage_notes(usage: Result) -> list[str]:
    memory, notes = usage["server_memory_mib"], []
    if memory:
        notes.append(f"Server memory: {memory[0]:,.0f} MiB at first, {max(memory):,.0f} MiB at most")
    if usage["note"]:
        notes.append(usage["note"][0].upper() + usage["note"][1:])
    return notes


def _server_time(result: Result) -> Chart:
    steps = sorted((model for model in result["models"] if not model["steps"]), key=lambda model: -model["total_ms"])
    rows = [(one["name"], [one["parts_ms"][part] for part in PARTS], f"{one['total_ms']:.2f} ms") for one in steps]
    return stacked_bars(rows, PARTS)


def _over_time(windows: Result, column: str) -> list[tuple[float, float]]:
    return list(zip(windows["begin_s"], windows[column], strict=True))
