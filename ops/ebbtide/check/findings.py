"""Findings of a check, and how they are counted and sorted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ebbtide.check.rules import RULES, Severity


@dataclass(frozen=True)
class Finding:
    """One problem, and where it is."""

    rule: str
    """Id of the rule in `RULES`."""
    file: str
    """Path within the repository, separated by slashes."""
    line: int
    """Counted from 1; 1 if the finding is about a whole file or a folder."""
    field: str
    """Path of the field in the config, such as ``input[0].dims``; empty if the finding is not about a field."""
    message: str
    """The value that was found and what was expected."""
    hint: str
    """What to do."""

    @property
    def severity(self) -> Severity:
        """The severity of the rule."""
        return RULES[self.rule].severity


@dataclass(frozen=True)
class Report:
    """All findings of one repository."""

    repository: Path
    """The path as given."""
    models: tuple[str, ...]
    """Names of the checked models, sorted."""
    findings: tuple[Finding, ...]
    """Sorted by file, line and rule."""

    @property
    def errors(self) -> int:
        """Number of findings that make Triton refuse a model or make a request fail."""
        return sum(finding.severity is Severity.ERROR for finding in self.findings)

    @property
    def warnings(self) -> int:
        """Number of findings with which the model loads, but may not do what its author expects."""
        return len(self.findings) - self.errors


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The distinct findings, sorted by file, line and rule."""
    return tuple(
        sorted(set(findings), key=lambda found: (found.file, found.line, found.rule, found.field, found.message))
    )
