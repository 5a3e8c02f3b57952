"""Any terminal: output is never refused for its encoding, and a file gets plain lines."""

import io
import sys

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from ebbtide.cli import console as shared
from ebbtide.cli.app import app
from ebbtide.cli.terminal import HANDLER, accept_every_character

LOCALES = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp437"},
    {"PYTHONIOENCODING": "koi8-r"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "TERM": "dumb"},
]
COMMANDS = typer.main.get_group(app).commands


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        *((command, environment) for command in [("check", "--rules"), ("train", "--help")] for environment in LOCALES),
        # These load torch.
        (("evaluate", "BUNDLE"), LOCALES[0]),
        (("evaluate", "BUNDLE"), LOCALES[-1]),
    ],
)
def test_commands_print_when_the_terminal_is_not_utf8(arguments, environment, bundle, ebbtide_process):
    done = ebbtide_process(*(bundle if one == "BUNDLE" else one for one in arguments), **environment)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"\\u2713" not in done.stdout
    assert done.stdout


def test_errors_show_a_path_that_the_terminal_cannot(ebbtide_process, tmp_path):
    done = ebbtide_process("evaluate", tmp_path / "Zoë ✓", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert b"Zo\\xeb ok: got no bundle.json" in done.stderr


def test_a_path_that_is_not_unicode_is_shown_escaped(ebbtide_process, tmp_path):
    done = ebbtide_process("evaluate", str(tmp_path) + "/\udcff")
    assert done.returncode == 1
    assert b"\\udcff" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("✓ done", "ok done"),
        ("0.1 ± 0.2", "0.1 +- 0.2"),
        ("Amélie", "Am\\xe9lie"),
        ("東京", "\\u6771\\u4eac"),
        ("⠋", "*"),
    ],
)
def test_characters_are_replaced(text, shown, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    accept_every_character()
    stream.write(text)
    stream.flush()
    assert stream.buffer.getvalue().decode() == shown


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("a\x1b]0;owned\x07b", "a\ufffd]0;owned\ufffdb"),
        ("a\x1b[31mred", "a\ufffd[31mred"),
        ("a\x9b2Jb", "a\ufffd2Jb"),
        ("gpj.\u202eexe", "gpj.\ufffdexe"),
        ("[bold]no markup[/bold] [link=https://example.com]x[/link]", None),
        ("two\nlines", None),
        ("Amélie 東京 \u200f", None),
    ],
)
def test_titles_steer_no_terminal(title, shown, capsys):
    Console(file=sys.stdout, width=200, force_terminal=False).print(shared.escape(title), soft_wrap=True)
    assert capsys.readouterr().out == f"{shown or title}\n"


def test_a_handler_that_the_user_chose_stays(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="ignore")
    monkeypatch.setattr("sys.stdout", stream)
    accept_every_character()
    assert stream.errors == "ignore"
    assert HANDLER == "ebbtide"


def test_progress_is_lines_when_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(shared, "_LINE_EVERY_S", 0.01)
    printed = []
    monkeypatch.setattr(shared.console, "print", lambda text, **_: printed.append(text))
    with shared.counting_progress() as progress:
        task = progress.add_task("Ranking", total=2_000)
        progress.advance(task, 1_000)
        while not printed:
            pass
    assert printed[0].startswith("  Ranking: 1,000 of 2,000")
    printed.clear()
    with shared.working("Loading") as state:
        state.update("Exporting: encoder")
        while not printed:
            pass
    assert "Exporting: encoder" in printed[-1]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_cuts_nothing_off_when_the_terminal_has_80_columns(monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    output = CliRunner().invoke(app, [command, "--help"]).output
    assert "--help" in output
    assert max(map(len, output.splitlines())) == 80
    assert "…" not in output
