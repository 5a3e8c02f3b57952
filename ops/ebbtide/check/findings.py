"""What a check finds, and how findings are counted and ordered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ebbtide.check.rules import RULES, Severity


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and where."""

    rule: str
    """Id of the rule in `RULES`."""
    file: str
    """Path within the repository, with slashes."""
    line: int
    """Counted from 1; 1 where the file as a whole, or a folder, is meant."""
    field: str
    """``input[0].dims``, as a path through the config; empty where no field is meant."""
    message: str
    """What was seen and what was expected."""
    hint: str
    """What to do."""

    @property
    def severity(self) -> Severity:
        """How bad it is: a property of the rule."""
        return RULES[self.rule].severity


@dataclass(frozen=True)
class Report:
    """All findings of one repository."""

    repository: Path
    """As it was given."""
    models: tuple[str, ...]
    """The models that were looked at, sorted."""
    findings: tuple[Finding, ...]
    """Sorted by file, line and rule."""

    @property
    def errors(self) -> int:
        """Findings for which Triton refuses a model, or a request fails."""
        return sum(finding.severity is Severity.ERROR for finding in self.findings)

    @property
    def warnings(self) -> int:
        """Findings that load, and surprise."""
        return len(self.findings) - self.errors


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings without repetition, by file, line and rule."""
    return tuple(
        sorted(set(findings), key=lambda found: (found.file, found.line, found.rule, found.field, found.message))
    )
