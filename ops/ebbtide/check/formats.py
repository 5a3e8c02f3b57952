"""Formats a report as text, as JSON, and as annotations for GitHub."""

from __future__ import annotations

import json
from itertools import groupby

from ebbtide.check.findings import Finding, Report
from ebbtide.check.rules import Severity

JSON_VERSION = 1
"""Increased when a field of the JSON is removed or changes its meaning."""


def to_text(report: Report) -> str:
    """Findings grouped by file, as ``file:line: severity[rule] field: message``; editors can jump to such a line."""
    blocks = []
    for _, found in groupby(report.findings, key=lambda finding: finding.file):
        lines = []
        for finding in found:
            field = f"{finding.field}: " if finding.field else ""
            location = f"{_path(report, finding)}:{finding.line}"
            lines.append(f"{location}: {finding.severity.value}[{finding.rule}] {field}{finding.message}")
            lines.append(f"    {finding.hint}")
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, summary(report)])


def summary(report: Report) -> str:
    """``2 errors, 1 warning in 3 models``."""
    counts = [_count(report.errors, "error"), _count(report.warnings, "warning")]
    return f"{', '.join(counts)} in {_count(len(report.models), 'model')}"


def to_json(report: Report) -> str:
    """One JSON object: version, repository, models, counts and sorted findings; docs/check.md describes the fields."""
    rules: dict[str, int] = {}
    for finding in report.findings:
        rules[finding.rule] = rules.get(finding.rule, 0) + 1
    return json.dumps(
        {
            "version": JSON_VERSION,
            "repository": report.repository.as_posix(),
            "models": list(report.models),
            "counts": {"error": report.errors, "warning": report.warnings, "rules": dict(sorted(rules.items()))},
            "findings": [
                {
                    "rule": finding.rule,
                    "severity": finding.severity.value,
                    "file": finding.file,
                    "line": finding.line,
                    "field": finding.field,
                    "message": finding.message,
                    "hint": finding.hint,
                }
                for finding in report.findings
            ],
        },
        indent=2,
    )


def to_github(report: Report) -> str:
    """One workflow command for each finding; GitHub shows it at the line in the pull request."""
    lines = []
    for finding in report.findings:
        command = "error" if finding.severity is Severity.ERROR else "warning"
        field = f"{finding.field}: " if finding.field else ""
        properties = {"file": _path(report, finding), "line": str(finding.line), "title": finding.rule}
        shown = ",".join(f"{name}={_escaped(value, in_property=True)}" for name, value in properties.items())
        lines.append(f"::{command} {shown}::{_escaped(f'{field}{finding.message}. {finding.hint}')}")
    return "\n".join([*lines, summary(report)])


def _path(report: Report, finding: Finding) -> str:
    return (report.repository / finding.file).as_posix()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _escaped(text: str, *, in_property: bool = False) -> str:
    for character in "%\r\n" + (":," if in_property else ""):
        text = text.replace(character, f"%{ord(character):02X}")
    return text
