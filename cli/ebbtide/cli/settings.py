"""Options from a config file and from the environment; the command line wins, then the environment, then the file."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ebbtide.cli.errors import CommandError

PREFIX = "EBBTIDE"
"""Of environment variables: ``EBBTIDE_TRAIN_EPOCHS`` is the option --epochs of ``ebbtide train``."""
CONFIG_VARIABLE = f"{PREFIX}_CONFIG"
"""Names the config file where --config does not."""

_OTHERS = ("EBBTIDE_LOADTEST_KEY", "EBBTIDE_LOADTEST_ACCESS")
"""Variables of remote workers of a load test, which are no options."""

Settings = Mapping[str, Mapping[str, Any]]
"""The parser's parameters by command and by option name, as in ``user-col``."""


def option_name(parameter: Any) -> str:  # noqa: ANN401 - typer brings the parser's types in its own namespace
    """The name of a parameter as users write it: ``json`` for --json; empty for --help."""
    long = [flag for flag in parameter.opts if flag.startswith("--")]
    name = str(long[0] if long else parameter.name).removeprefix("--").replace("_", "-")
    return "" if name == "help" else name


def variable_of(command: str, option: str) -> str:
    """The environment variable of an option: ``EBBTIDE_TRAIN_USER_COL``."""
    return "_".join((PREFIX, command, option)).replace("-", "_").upper()


def read_config_file(path: Path, known: Settings) -> dict[str, dict[str, Any]]:
    """Reads a TOML file with one table for each command, whose keys are the options' names.

    Args:
        path: The file.
        known: What may be in it.

    Returns:
        The values of each command by the parameter's Python name, as the parser's defaults.

    Raises:
        CommandError: The file cannot be read, or names a command or an option that does not exist.
    """
    found: dict[str, dict[str, Any]] = {}
    for command, table in _read_toml(path).items():
        if not isinstance(table, dict):
            raise CommandError(f"{path}: got {command!r} outside of a table; expected [COMMAND], such as [train]")
        if command not in known:
            raise CommandError(f"{path}: got table [{command}]; expected the name of a command{_near(command, known)}")
        found[command] = {}
        for key, value in table.items():
            name = key.replace("_", "-").lower()
            if name not in known[command]:
                raise CommandError(
                    f"{path}: [{command}]: got {key!r}; expected an option of ebbtide {command}"
                    f"{_near(name, known[command])}"
                )
            parameter = known[command][name]
            found[command][parameter.name] = _value(f"{path}: [{command}]: {key}", value, parameter)
    return found


def unknown_variables(environment: Iterable[str], known: Settings) -> list[str]:
    """A sentence for each variable that looks like an option of a command and is none."""
    sentences = []
    for variable in sorted(environment):
        for command, parameters in known.items():
            names = [parameter.envvar for parameter in parameters.values()]
            if variable.startswith(variable_of(command, "")) and variable not in (*names, *_OTHERS):
                sentences.append(
                    f"{variable} is no option of ebbtide {command} and is not used{_near(variable, names)}"
                )
    return sentences


def _value(where: str, value: Any, parameter: Any) -> Any:  # noqa: ANN401 - any TOML value
    """A value as the parser takes it."""
    is_list, takes_list = isinstance(value, list), parameter.nargs != 1 or getattr(parameter, "multiple", False)
    is_switch = bool(getattr(parameter, "is_flag", False))
    if isinstance(value, dict) or (is_list and not takes_list) or (isinstance(value, bool) and not is_switch):
        expected = "a list" if takes_list else "a text or a number"
        raise CommandError(f"{where}: got {value!r}; expected {'true or false' if is_switch else expected}")
    if is_switch and not isinstance(value, bool):
        raise CommandError(f"{where}: got {value!r}; expected true or false")
    if takes_list:
        return [str(one) for one in value] if is_list else [str(value)]
    return value if isinstance(value, bool) else str(value)


def toml_tables(text: str, where: str) -> dict[str, Any]:
    """The content of a TOML file.

    Args:
        text: The file's.
        where: What the message of an error begins with.

    Raises:
        CommandError: It is not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CommandError(f"{where}: got text that is not TOML: {error}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return toml_tables(path.read_text(encoding="utf-8-sig"), f"--config: {path}")
    except OSError as error:
        raise CommandError(f"--config: {path}: {error.strerror or error}; expected a TOML file") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"--config: {path}: got bytes that are not UTF-8; expected a TOML file in UTF-8") from error


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
