"""An empty path, as an empty variable of the shell gives, is refused: it would name the current folder."""

import pytest

COMMANDS = [
    ("prepare", "movielens", ""),
    ("prepare", "movielens", ".", "--out", ""),
    ("train", "--out", "", "--events", "log.csv"),
    ("train", "--out", "bundle", "--events", "log.csv", "--checkpoint", ""),
    ("export", "bundle", "--out", "repository", "--attributes", "", "--attribute-col", "kind"),
    ("evaluate", "bundle", "--json="),
    ("inspect", ""),
    ("check", ""),
    ("serve", ""),
    ("backfill", "repository", "--bundle", ""),
    ("deploy", "", "--server", "localhost:1"),
    ("recommend", "u1", "--bundle", ""),
    ("recommend", "u1", "--token-file", ""),
    ("items", "list", "--token-file", ""),
    ("loadtest", "localhost:1", "--compare", "one.json", ""),
    ("--config", "", "check", "."),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_an_empty_path_is_refused(arguments, ebbtide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = ebbtide(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"got an empty path; expected a path, or . for the current folder" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_empty_path_in_a_config_file_is_refused(ebbtide, tmp_path):
    (tmp_path / "ebbtide.toml").write_text('[check]\nrepository = ""\n')
    done = ebbtide("--config", tmp_path / "ebbtide.toml", "check")
    assert done.returncode == 2
    assert b"got an empty path" in done.stderr


def test_an_empty_variable_is_an_option_that_was_not_given(ebbtide, tmp_path):
    done = ebbtide("evaluate", tmp_path, EBBTIDE_EVALUATE_JSON="")
    assert b"empty path" not in done.stderr


def test_the_current_folder_may_be_named(ebbtide, tmp_path, monkeypatch):
    (tmp_path / "model" / "1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert b"in 1 model" in ebbtide("check", ".").stdout
