"""The three output formats of a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ebbtide.check import RULES, Finding, Report, check_repository, to_github, to_json, to_text
from ebbtide.check.findings import in_order

ERROR = Finding("model-name", "m/config.pbtxt", 3, "name", "got 'a'; expected 'm'", "rename it")
WARNING = Finding("version-ignored", "m/old", 1, "", "got old; expected a version", "rename it")


@pytest.fixture
def report() -> Report:
    return Report(Path("models"), ("m", "n"), in_order([WARNING, ERROR, ERROR]))


def test_text_groups_by_file_and_can_be_clicked(report):
    assert to_text(report) == (
        "models/m/config.pbtxt:3: error[model-name] name: got 'a'; expected 'm'\n"
        "    rename it\n"
        "\n"
        "models/m/old:1: warning[version-ignored] got old; expected a version\n"
        "    rename it\n"
        "\n"
        "1 error, 1 warning in 2 models"
    )


def test_json_has_the_documented_fields_and_counts(report):
    shown = json.loads(to_json(report))
    assert shown == {
        "version": 1,
        "repository": "models",
        "models": ["m", "n"],
        "counts": {"error": 1, "warning": 1, "rules": {"model-name": 1, "version-ignored": 1}},
        "findings": [
            {
                "rule": "model-name",
                "severity": "error",
                "file": "m/config.pbtxt",
                "line": 3,
                "field": "name",
                "message": "got 'a'; expected 'm'",
                "hint": "rename it",
            },
            {
                "rule": "version-ignored",
                "severity": "warning",
                "file": "m/old",
                "line": 1,
                "field": "",
                "message": "got old; expected a version",
                "hint": "rename it",
            },
        ],
    }


def test_github_escapes_what_would_end_a_command():
    finding = Finding("model-name", "a,b:c/config.pbtxt", 3, "name", "got 50%\n::error::x", "rename, or not: both")
    line = to_github(Report(Path("models"), ("m",), (finding,))).splitlines()[0]
    assert line == (
        "::error file=models/a%2Cb%3Ac/config.pbtxt,line=3,title=model-name::"
        "name: got 50%25%0A::error::x. rename, or not: both"
    )


def test_findings_of_a_whole_corpus_are_sorted_and_never_repeated(every_wrong_case, tmp_path):
    for case in every_wrong_case[::5]:
        findings = check_repository(case.write(tmp_path / case.key)).findings
        locations = [(finding.file, finding.line, finding.rule) for finding in findings]
        assert locations == sorted(locations)
        assert len(set(findings)) == len(findings)


def test_rules_have_ids_and_summaries_of_the_same_form():
    for identity, rule in RULES.items():
        assert rule.id == identity
        assert identity == identity.lower()
        assert identity.replace("-", "").isalpha()
        assert not rule.summary.endswith(".")
    assert list(RULES) == sorted(RULES)
