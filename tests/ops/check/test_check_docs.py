"""The examples of the documentation are run, and its table of rules is compared with the registry and the corpus."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ebbtide.check import RULES, Finding, check_repository

DOCUMENT = Path(__file__).parents[3] / "docs" / "check.md"
FENCE = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(command, folder):
    program, *arguments = command.split()
    assert program == "ebbtide"
    return subprocess.run(
        [sys.executable, "-c", "from ebbtide.cli.main import main; main()", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_documented_commands_print_what_the_document_says(tmp_path):
    (tmp_path / "models" / "twice" / "1").mkdir(parents=True)
    commands = 0
    for kind, name, text in FENCE.findall(DOCUMENT.read_text()):
        if name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        elif kind == "console":
            status = None
            for command_and_output in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, expected = command_and_output.partition("\n")
                if command == "echo $?":
                    assert int(expected) == status
                    continue
                done = run(command, tmp_path)
                status = done.returncode
                assert done.stdout == expected
                commands += 1
    assert commands == 4


def table(examples: dict[str, Finding]) -> str:
    """The documentation's table of rules; each example is the first finding of its rule in the corpus."""
    lines = ["| rule | severity | finds | example |", "| --- | --- | --- | --- |"]
    for rule in RULES.values():
        finding = examples[rule.id]
        field = f"{finding.field}: " if finding.field else ""
        example = f"{field}{finding.message}".replace("|", "\\|").replace("`", "'")
        lines.append(f"| `{rule.id}` | {rule.severity.value} | {rule.summary} | `{example}` |")
    return "\n".join(lines)


@pytest.fixture
def examples(every_wrong_case, tmp_path):
    (tmp_path / "empty").mkdir()
    found = {}
    for path in [tmp_path / "empty", *(case.write(tmp_path / case.key) for case in every_wrong_case)]:
        for finding in check_repository(path).findings:
            found.setdefault(finding.rule, finding)
    return found


def test_documented_rules_are_those_of_the_registry(examples):
    text = DOCUMENT.read_text()
    shown = text[text.index("| rule | severity") :].partition("\n\n")[0]
    assert shown == table(examples)
