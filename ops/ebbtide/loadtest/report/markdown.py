"""A result as Markdown, for pull requests and wikis; the plots are in the HTML report."""

from __future__ import annotations

from ebbtide.loadtest.report import tables
from ebbtide.loadtest.report.tables import Result, Table


def markdown_report(result: Result) -> str:
    """The whole report."""
    agreement = tables.perf_analyzer(result)
    parts = [
        "# Load test",
        "\n".join(f"- {sentence}" for sentence in tables.verdict(result)),
        "## Latency by endpoint",
        _table(tables.totals(result)),
        "## Throughput and latency",
        _table(tables.runs(result)),
        "## Where the server spent its time",
        _table(tables.models(result)) if result["models"] else "The server's own statistics are missing.",
    ]
    if result["errors"]:
        parts += ["## Errors", _table(tables.errors(result))]
    if agreement is not None:
        parts += ["## Comparison with perf_analyzer", _table(agreement)]
    parts += ["## Setup", _table(tables.facts(result)), f"Command:\n\n    {result['command']}"]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    aligned = ["---" if index == 0 or table.words else "---:" for index in range(len(table.headings))]
    lines = [table.headings, aligned, *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
