"""Reads one `config.pbtxt`: the message, the line of each field, and the parser's error if there is one."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ebbtide.check import textproto
from ebbtide.check.findings import Finding
from ebbtide.check.messages import ModelConfig
from ebbtide.check.textproto import PositionIndex
from ebbtide.check.tokens import normalised, split

_UNKNOWN_FIELD = re.compile(r'Message type "([\w.]+)" has no field named "([^"]+)"')
_UNKNOWN_VALUE = re.compile(r'Enum type "([\w.]+)" has no value named (\w+)')
_BOTH_CHOICES = re.compile(r'Field "(\w+)" is specified along with field "(\w+)".* oneof "scheduling_choice"')


@dataclass(frozen=True)
class Config:
    """One config file of a model, or an empty config if the model has no file."""

    file: str
    """Path within the repository; the model's folder if there is no config file."""
    index: PositionIndex
    message: ModelConfig
    """Empty if the text cannot be parsed."""
    problem: Finding | None
    """Why the text cannot be parsed; None if it can."""

    def finding(self, rule: str, path: textproto.Path, message: str, hint: str) -> Finding:
        """A finding about a field of this config."""
        return Finding(rule, self.file, self.index.line(path), textproto.render(path), message, hint)


def read_config(path: Path, file: str) -> Config:
    """Reads a config file.

    Args:
        path: an existing file.
        file: its path within the repository.
    """
    # Triton accepts any bytes in comments and strings.
    tokens, problem = split(path.read_bytes().decode(errors="surrogateescape"))
    index, message, finding = PositionIndex(tokens), model_config_pb2.ModelConfig(), None
    if problem is not None:
        finding = Finding("config-syntax", file, problem.line, "", problem.message, problem.hint)
    else:
        text = normalised(tokens)
        try:
            text_format.Parse(text, message)
        except (text_format.ParseError, ValueError) as error:
            # A number that does not fit an enum raises a ValueError without a position.
            finding = _problem(error, file, text)
            message = model_config_pb2.ModelConfig()
    return Config(file, index, cast(ModelConfig, message), finding)


def no_config(folder: str) -> Config:
    """The empty config of a model without a config file: Triton fills it in."""
    return Config(folder, PositionIndex(()), cast(ModelConfig, model_config_pb2.ModelConfig()), None)


def data_type_name(number: int) -> str:
    """``TYPE_FP32``, or the number itself if it has no name."""
    values = model_config_pb2.DataType.DESCRIPTOR.values_by_number
    return str(values[number].name) if number in values else str(number)


def has_data_type(number: int) -> bool:
    """Whether a field holds a data type: 0 is no type, and any other number may be written as well."""
    return number != 0 and number in model_config_pb2.DataType.DESCRIPTOR.values_by_number


def _problem(error: text_format.ParseError | ValueError, file: str, text: str) -> Finding:
    """Turns the parser's error into a finding."""
    line = error.GetLine() if isinstance(error, text_format.ParseError) else None
    if line is None:
        # The error has no position, but its text ends with the value.
        line = text[: max(text.find(str(error).split()[-1]), 0)].count("\n") + 1
    # The error text starts with the position and the whole line.
    words = re.sub(r"^\d+:\d+ ?: ", "", str(error)).removeprefix(f"'{text.splitlines()[line - 1]}': ").strip()
    if match := _UNKNOWN_FIELD.search(words):
        message_type, name = match.groups()
        known = _fields_of(message_type)
        near = difflib.get_close_matches(name, known, n=1)
        return Finding(
            "config-unknown-field",
            file,
            line,
            name,
            f"got {name}; expected a field of {message_type.removeprefix('inference.')}",
            f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}",
        )
    if match := _UNKNOWN_VALUE.search(words):
        enum, value = match.groups()
        known = _values_of(enum)
        near = difflib.get_close_matches(value, known, n=1)
        return Finding(
            "config-unknown-value",
            file,
            line,
            "",
            f"got {value}; expected a value of {enum.removeprefix('inference.')}",
            f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}",
        )
    if match := _BOTH_CHOICES.search(words):
        second, first = match.groups()
        return Finding(
            "scheduling-choice",
            file,
            line,
            second,
            f"got both {first} and {second}; expected only one of them",
            "remove one of them; for an ensemble, configure batching on the models of its steps",
        )
    return Finding(
        "config-syntax",
        file,
        line,
        "",
        f"got a text that cannot be parsed ({words.rstrip('.')}); expected a ModelConfig in protobuf's text format",
        "look at this line and the line before it for a missing brace, bracket, quote, colon or comma",
    )


def _fields_of(message_type: str) -> list[str]:
    descriptor = model_config_pb2.DESCRIPTOR.pool.FindMessageTypeByName(message_type)
    return sorted(field.name for field in descriptor.fields)


def _values_of(enum: str) -> list[str]:
    descriptor = model_config_pb2.DESCRIPTOR.pool.FindEnumTypeByName(enum)
    return [value.name for value in descriptor.values if value.name != "TYPE_INVALID"]
