"""Pages that promise something name the tests that show it."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TESTS = {
    name
    for path in (REPOSITORY / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}
PAGE = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| when", "| ---"))]


@pytest.mark.parametrize("row", ROWS)
def test_promise_names_tests_that_are_there(row):
    named = re.findall(r"`(test_\w+)`", row)
    assert named
    assert set(named) <= TESTS
