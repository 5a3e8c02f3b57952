"""The checker and a real server on the repositories of the corpus; what the server does is the expected result.

The checker reads every repository. By default the server loads the first one of every fifth rule, and all that are
sound; the slow tests give it every one.
"""

from __future__ import annotations

from ebbtide.check import RULES, Severity, check_repository

FAILING = ("refused", "fails", "died", "hangs")


def expected_rules(case):
    return {rule for key in ("rule", "also") for value in case.headers.get(key, []) for rule in value.split(", ")}


def test_check_finds_only_the_expected_rules_when_repository_is_broken(wrong, tmp_path):
    report = check_repository(wrong.write(tmp_path / "repository"))
    assert {finding.rule for finding in report.findings} == expected_rules(wrong), report.findings
    severity = Severity.ERROR if wrong.verdict in FAILING else Severity.WARNING
    assert RULES[wrong.one("rule")].severity is severity
    for finding in report.findings:
        assert "; expected " in finding.message
        assert finding.message.startswith("got ")
        assert finding.hint
        assert (report.repository / finding.file).exists()


def test_finding_points_to_the_line_when_repository_is_broken(placed, tmp_path):
    report = check_repository(placed.write(tmp_path / "repository"))
    file, _, text = (part.strip() for part in placed.one("at").partition("|"))
    found = [finding for finding in report.findings if finding.rule == placed.one("rule") and finding.file == file]
    assert found
    if text:
        lines = (report.repository / file).read_text().splitlines()
        assert any(text in lines[finding.line - 1] for finding in found), found


def test_server_fails_as_the_checker_says_when_repository_is_broken(broken, verdicts):
    words, verdict = broken.one(broken.verdict), verdicts[broken.key]
    if broken.verdict.startswith("refused"):
        assert verdict.refusal
        assert words in verdict.refusal
        return
    assert verdict.refusal == ""
    if broken.verdict.startswith("fails"):
        assert verdict.answer
        assert words in verdict.answer
    else:
        assert verdict.answer == ""


def test_server_stops_hangs_or_refuses_as_expected_when_it_has_only_this_case(alone, new_judge):
    judge = new_judge(alone)
    words = alone.one(alone.verdict)
    said = judge.load(alone)
    if alone.verdict == "refused":
        assert words in said
        return
    said = said or judge.call(alone)
    lost = "Deadline" if alone.verdict == "hangs" else "closed"
    assert lost in said or (words and words in said)


def test_check_is_silent_when_repository_is_sound(sound, tmp_path):
    report = check_repository(sound.write(tmp_path / "repository"))
    assert report.findings == ()
    assert set(sound.folders) <= set(report.models)


def test_server_loads_and_answers_when_repository_is_sound(sound, verdicts):
    assert verdicts[sound.key].refusal == ""
    assert verdicts[sound.key].answer == ""


def test_every_rule_has_a_case(every_wrong_case):
    cased = set().union(*(expected_rules(case) for case in every_wrong_case))
    # A corpus file cannot hold an empty repository.
    assert set(RULES) - cased == {"repository-empty"}
