"""Options from a config file and the environment, and the options before a command."""

import json
import subprocess
import sys

import pytest

from ebbtide.cli.boundary import _EXTRAS, COLUMN_OPTIONS, line_of

MODEL = 'backend: "onnx"\nmax_batch_size: 4\n'


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.pbtxt").write_text(MODEL)
    return tmp_path / "models"


@pytest.fixture
def config(tmp_path):
    def write(text, encoding="utf-8"):
        (tmp_path / "ebbtide.toml").write_text(text, encoding=encoding)
        return tmp_path / "ebbtide.toml"

    return write


def test_options_come_from_a_file(repository, config, ebbtide):
    done = ebbtide("--config", config(f'[check]\nformat = "json"\nrepository = "{repository}"\n'), "check")
    assert json.loads(done.stdout)["repository"] == str(repository)


def test_lists_and_switches_come_from_a_file(repository, config, ebbtide):
    file = config('[check]\nignore = ["backend-unknown", "model-file-missing"]\nstrict = true\n', "utf-8-sig")
    done = ebbtide("check", repository, EBBTIDE_CONFIG=str(file))
    assert b"0 errors" in done.stdout
    assert done.returncode == (b" 0 warnings" not in done.stdout)


def test_the_environment_wins_over_the_file_and_the_command_line_over_both(repository, config, ebbtide):
    file = config('[check]\nformat = "json"\n')
    done = ebbtide("--config", file, "check", repository, EBBTIDE_CHECK_FORMAT="github")
    assert done.stdout.startswith(b"::error")
    done = ebbtide("--config", file, "check", repository, "--format", "text", EBBTIDE_CHECK_FORMAT="github")
    assert b"1 error, " in done.stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[chek]\n", "got table [chek]; expected the name of a command; did you mean check?"),
        ("[check]\nformatt = 'json'\n", "did you mean format?"),
        ("[check]\nformat_ = 'json'\n", "expected an option"),
        ("[train]\nuser_colum = 'u'\n", "did you mean user-col?"),
        ("format = 'json'\n", "outside of a table"),
        ("[check]\nstrict = 'yes'\n", "expected true or false"),
        ("[check]\nformat = ['json']\n", "expected a text or a number"),
        ("[check]\nformat = true\n", "expected a text or a number"),
        ("[check]\nignore = {a = 1}\n", "expected a list"),
        ("[check\n", "got text that is not TOML"),
    ],
)
def test_a_file_with_a_mistake_is_refused(text, expected, repository, config, ebbtide):
    done = ebbtide("--config", config(text), "check", repository)
    assert (done.returncode, done.stdout) == (1, b"")
    assert expected in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_a_file_that_is_not_there_or_not_utf8_is_refused(repository, config, ebbtide, tmp_path):
    done = ebbtide("--config", tmp_path / "none.toml", "check", repository)
    assert b"No such file or directory" in done.stderr
    done = ebbtide("--config", config("[check]\n# é", "utf-16"), "check", repository)
    assert b"not UTF-8" in done.stderr


def test_a_variable_of_no_option_is_told(repository, ebbtide):
    done = ebbtide("check", repository, EBBTIDE_CHECK_FORMT="json", EBBTIDE_IMAGE="x", EBBTIDE_VERSION="3")
    assert done.stderr.decode().splitlines() == [
        "warning: EBBTIDE_CHECK_FORMT is no option of ebbtide check and is not used; did you mean EBBTIDE_CHECK_FORMAT?"
    ]


def test_a_wrong_value_names_the_variable(ebbtide):
    done = ebbtide("check", EBBTIDE_CHECK_FORMAT="xml")
    assert done.returncode == 2
    assert b"--format" in done.stderr


def test_version_and_short_help(ebbtide):
    done = ebbtide("--version")
    assert done.stdout.decode().splitlines()[0].startswith("ebbtide ")
    assert b"torch " in done.stdout
    for command in ([], *([name] for name in _EXTRAS)):
        assert ebbtide(*command, "-h").stdout == ebbtide(*command, "--help").stdout


def test_help_fits_80_columns(ebbtide):
    for command in _EXTRAS:
        shown = ebbtide(command, "--help", COLUMNS="80").stdout.decode().splitlines()
        assert max(map(len, shown)) <= 80


def test_quiet_prints_nothing_and_verbose_a_traceback(log, ebbtide_process, tmp_path):
    done = ebbtide_process("-q", "train", "--events", log, "--out", tmp_path / "b", "--epochs", 1)
    assert (done.returncode, done.stdout) == (0, b"")
    done = ebbtide_process("-v", "train", "--events", tmp_path / "none.csv", "--out", tmp_path / "b")
    assert b"Traceback" in done.stderr


def test_completion_is_offered(ebbtide_process):
    # Without a terminal there is no shell to detect, so it is named.
    done = ebbtide_process("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert b"_EBBTIDE_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "/x/y"), "/x/y: no space left on device; free space"),
        (PermissionError(13, "Permission denied", "/x"), "/x: permission denied; expected a path"),
        (FloatingPointError("diverged"), "diverged"),
        (MemoryError(), "out of memory: MemoryError"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory: [enforce"),
    ],
)
def test_errors_of_the_system_are_one_line(error, line):
    assert line_of(error).startswith(line)
    assert "\n" not in line_of(error)


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), OSError("no number")])
def test_a_defect_keeps_its_traceback(error):
    assert line_of(error) is None


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    ("command", "option"),
    [("train", "--dropout"), ("train", "--max-bad-rows"), ("evaluate", "--online-learning-rate")],
)
def test_a_number_that_is_not_finite_is_refused(ebbtide, config, command, option, number):
    needed = {"train": ("--events", "log.csv", "--out", "bundle"), "evaluate": ("bundle", "--online")}[command]
    file = config(f"[{command}]\n{option.removeprefix('--')} = {number}\n")
    for done in (ebbtide(command, *needed, f"{option}={number}"), ebbtide("--config", file, command, *needed)):
        assert (done.returncode, done.stdout) == (2, b"")
        assert f"'{option}': " in done.stderr.decode()


def test_a_share_of_bad_rows_above_1_is_refused(ebbtide):
    done = ebbtide("batch-recommend", "bundle", "--events", "log.csv", "--out", "out", "--max-bad-rows", "5")
    assert done.returncode == 2
    assert b"Invalid value for '--max-bad-rows'" in done.stderr


def test_command_line_starts_without_the_libraries_of_single_commands():
    heavy = {"numpy", "polars", "pydantic", "torch", "tritonclient"}
    code = f"import sys, ebbtide.cli.app; print(*({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_options_for_columns_are_those_of_the_commands(ebbtide):
    for command, options in COLUMN_OPTIONS.items():
        shown = ebbtide(command, *(["add"] if command == "items" else []), "--help").stdout.decode()
        assert all(option in shown for option in options), command


def test_missing_column_names_its_option_unless_it_was_given(ebbtide, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("visitor,sku,at\nu,i,1700000000\n")
    train = ("train", "--events", log, "--out", tmp_path / "bundle")
    assert b"no column 'user'; the file has visitor, sku, at: name it with --user-col" in ebbtide(*train).stderr
    given = ebbtide(*train, "--user-col", "visitor").stderr
    assert b"no column 'item'; the file has visitor, sku, at: name it with --item-col" in given
    assert ebbtide(*train, "--user-col=visitr").stderr.endswith(b"no column 'visitr'; the file has visitor, sku, at\n")
    stock = ebbtide("items", "stock", log).stderr
    assert b"no column 'item_id'; the file has visitor, sku, at: name it with --item-col" in stock
