"""The index of lines and values, on configs that are written in every form that the text format allows."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from ebbtide.check.textproto import Key, PositionIndex, render
from ebbtide.check.tokens import normalised, split

MAPS = ("parameters", "input_map", "output_map")
# Characters that have a meaning outside of strings.
TEXTS = st.text(st.sampled_from("ab{}<>[]:,;#\"'\\ \n\tä"), max_size=12)
SEPARATORS = st.sampled_from(["", ",", ";", " "])
GAPS = st.sampled_from([" ", "\n", "\n\n", '  # a comment with } and " and [\n', "\t"])
DIMS = st.lists(st.integers(-1, 512), max_size=4)
TYPES = st.sampled_from(["TYPE_FP32", "TYPE_INT64", "TYPE_STRING"])
RESHAPES = st.fixed_dictionaries({}, optional={"shape": DIMS})
INPUTS = st.fixed_dictionaries(
    {"name": TEXTS},
    optional={"data_type": TYPES, "dims": DIMS, "reshape": RESHAPES, "optional": st.just("true")},
)
PARAMETERS = st.dictionaries(TEXTS, st.fixed_dictionaries({"string_value": TEXTS}), max_size=3)
STEPS = st.fixed_dictionaries(
    {"model_name": TEXTS, "input_map": st.dictionaries(TEXTS, TEXTS, max_size=3)},
    optional={"model_version": st.integers(-1, 9), "output_map": st.dictionaries(TEXTS, TEXTS, max_size=3)},
)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "name": TEXTS,
        "max_batch_size": st.integers(0, 99),
        "input": st.lists(INPUTS, max_size=3),
        "parameters": PARAMETERS,
        "ensemble_scheduling": st.fixed_dictionaries({}, optional={"step": st.lists(STEPS, max_size=3)}),
    },
)


class Writer:
    """Writes a config as text in a randomly drawn form, and records the line of every field."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[tuple[Any, ...], int] = {}

    def message(self, fields: dict[str, Any], path: tuple[Any, ...]) -> None:
        for name, value in self.draw(st.permutations(list(fields.items()))):
            if name in MAPS:
                entries = [((Key(key),), {"key": key, "value": entry}) for key, entry in value.items()]
                self.repeated(name, entries, path)
            elif isinstance(value, list):
                self.repeated(name, [((index,), entry) for index, entry in enumerate(value)], path)
            else:
                self.lines[(*path, name)] = self.line
                self.add(name)
                self.value(value, (*path, name))
                self.add(self.draw(SEPARATORS))
            self.add(self.draw(GAPS))

    def repeated(self, name: str, entries: list[tuple[tuple[Any, ...], Any]], path: tuple[Any, ...]) -> None:
        if entries and self.draw(st.booleans()):
            self.add(name, self.draw(st.sampled_from([": ", ":", " "])) if self.are_messages(entries) else ":")
            self.add(self.draw(GAPS), "[", self.draw(GAPS))
            for position, (step, entry) in enumerate(entries):
                if position:
                    self.add(self.draw(st.sampled_from([",", " ,", ",\n"])), self.draw(GAPS))
                self.lines[(*path, name, *step)] = self.line
                self.value(entry, (*path, name, *step), in_list=True)
            self.add(self.draw(GAPS), "]", self.draw(SEPARATORS))
            return
        for step, entry in entries:
            self.lines[(*path, name, *step)] = self.line
            self.add(name)
            self.value(entry, (*path, name, *step))
            self.add(self.draw(SEPARATORS), self.draw(GAPS))

    @staticmethod
    def are_messages(entries: list[tuple[tuple[Any, ...], Any]]) -> bool:
        return all(isinstance(entry, dict) for _, entry in entries)

    def value(self, value: Any, path: tuple[Any, ...], in_list: bool = False) -> None:
        if isinstance(value, dict):
            opening, closing = self.draw(st.sampled_from(["{}", "<>"]))
            if not in_list:
                self.add(self.draw(st.sampled_from([" ", ": ", "\n"])))
            self.add(opening, self.draw(GAPS))
            self.message(value, path)
            self.add(closing)
        else:
            self.add("" if in_list else self.draw(st.sampled_from([": ", ":\n", " : "])), self.scalar(value, path))

    def scalar(self, value: Any, path: tuple[Any, ...]) -> str:
        if isinstance(value, int):
            sign, size = ("-" if value < 0 else ""), abs(value)
            gap = self.draw(GAPS) if sign and self.draw(st.booleans()) else ""
            return sign + gap + self.draw(st.sampled_from([f"{size}", f"0x{size:X}", f"0{size:o}"]))
        if path[-1] in ("data_type", "optional"):
            return str(value)
        quote = self.draw(st.sampled_from("\"'"))
        parts = [value]
        if value and self.draw(st.booleans()):
            # Adjacent strings are read as one.
            parts = [value[: len(value) // 2], value[len(value) // 2 :]]
        escapes = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", quote: f"\\{quote}"}
        return "\n".join(quote + "".join(escapes.get(letter, letter) for letter in part) + quote for part in parts)

    @property
    def line(self) -> int:
        return self.text.count("\n") + 1

    def add(self, *parts: str) -> None:
        self.text += "".join(parts)


def index_of(text: str) -> PositionIndex:
    return PositionIndex(split(text)[0])


@settings(max_examples=300, deadline=None)
@given(CONFIGS, st.data())
def test_index_knows_the_line_of_every_field_when_a_config_is_written_in_any_way(config, data):
    writer = Writer(data.draw)
    writer.message(config, ())
    # The text must be a valid config.
    text_format.Parse(normalised(split(writer.text)[0]), model_config_pb2.ModelConfig())
    index = index_of(writer.text)
    for path, line in writer.lines.items():
        assert index.has(path), (writer.text, path)
        assert index.line(path) == line, (writer.text, path)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXTS, TEXTS.filter(bool), min_size=1, max_size=4), st.booleans())
def test_index_finds_values_by_key_when_the_library_writes_them(entries, short):
    config = model_config_pb2.ModelConfig()
    for key, value in entries.items():
        config.parameters[key].string_value = value
    index = index_of(text_format.MessageToString(config, as_utf8=short))
    for key, value in entries.items():
        assert index.value(("parameters", Key(key), "value", "string_value")) == value


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab {}<>[]:,;#\"'\\\n1-"), max_size=60))
@example("1'\\:'")
def test_index_is_made_when_the_text_is_no_config(text):
    index = index_of(text)
    assert 1 <= index.line(("input", 0, "dims")) <= text.count("\n") + 1


def test_index_stops_when_messages_nest_without_end():
    assert index_of("a { " * 5000).line(("b",)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("input", 0), 2),
        (("input", 1, "dims"), 4),
        (("input", 1, "dims", 1), 5),
        (("input", 2, "name"), 8),
        (("input", 1, "reshape", "shape"), 3),
        (("output",), 1),
    ],
)
def test_index_returns_the_line_of_the_outer_message_when_a_field_is_not_written(path, line):
    text = 'input [\n  { name: "a" },\n  { name: "b"\n    dims: [ 1,\n 2 ] }\n]\n# input {\ninput { name: "c" }\n'
    assert index_of(text).line(path) == line


def test_path_is_rendered_with_indices_and_keys():
    assert render(("input", 1, "dims", 0)) == "input[1].dims[0]"
    assert render(("parameters", Key("a b"), "value")) == 'parameters["a b"].value'
