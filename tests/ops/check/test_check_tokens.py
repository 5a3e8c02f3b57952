"""Configs are read as Triton's C++ parser reads them; protoc, which is built from the same parser, is the judge."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from google.protobuf import descriptor_pb2, text_format, wrappers_pb2
from grpc_tools import protoc
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from ebbtide.check.configs import Config, read_config
from ebbtide.check.tokens import normalised, split

Reader = Callable[[bytes], bytes | None]
"""From a text to the serialized message; None where the text is refused."""
ESCAPES = [
    (rb"\a", b"\a"),
    (rb"\b", b"\b"),
    (rb"\f", b"\f"),
    (rb"\n", b"\n"),
    (rb"\r", b"\r"),
    (rb"\t", b"\t"),
    (rb"\v", b"\v"),
    (rb"\?", b"?"),
    (rb"\\", b"\\"),
    (rb"\'", b"'"),
    (rb"\"", b'"'),
    (rb"\\n", rb"\n"),
    (rb"\0", b"\0"),
    (rb"\7", b"\7"),
    (rb"\101", b"A"),
    (rb"\1018", b"A8"),
    (rb"\18", b"\0018"),
    (rb"\303\251", "é".encode()),
    (rb"\501", b"A"),
    (rb"\x4", b"\x04"),
    (rb"\x41", b"A"),
    (rb"\x411", b"A1"),
    (rb"\xAf", b"\xaf"),
    (rb"\xg", None),
    (rb"\u00e9", "é".encode()),
    (rb"\u00E91", "é1".encode()),
    (rb"\ud83d\ude00", "😀".encode()),
    (rb"\ud83d", b"\xed\xa0\xbd"),
    (rb"\ude00\ud83d", b"\xed\xb8\x80\xed\xa0\xbd"),
    (rb"\ud83d\u0041", b"\xed\xa0\xbdA"),
    (rb"\u12", None),
    (rb"\u", None),
    (rb"\U0001f600", "😀".encode()),
    (rb"\U0001F600a", "😀a".encode()),
    (rb"\U0010ffff", "\U0010ffff".encode()),
    (rb"\U00110000", rb"\U00110000"),
    (rb"\U00200000", None),
    (rb"\U1f600", None),
    (rb"\q", None),
    (rb"\:", None),
    (rb"\8", None),
    (rb"\ ", None),
    (rb"\N{DIGIT ONE}", None),
    (b"\\\n", None),
    ("\\é".encode(), None),
    (b"\\", None),
    (b"\xe9", b"\xe9"),
    ("é".encode(), "é".encode()),
    (b"a\tb\x01", b"a\tb\x01"),
    (b"a\nb", None),
    (b"a\0b", None),
    (b"# no comment", b"# no comment"),
    (b'" "', b""),
    (b"a\" 'b' \"c", b"abc"),
    (b'a" # between\n "b', b"ab"),
]
NUMBERS = [
    *("max_batch_size: 8", "max_batch_size: 0x1F", "max_batch_size: 0X1f", "max_batch_size: 010", "max_batch_size: 0"),
    *("max_batch_size: -1", "max_batch_size: - 1", "max_batch_size: -#c\n\n1", "max_batch_size: -010"),
    *("max_batch_size: 08", "max_batch_size: 0x", "max_batch_size: 8.0", "max_batch_size: 8f", "max_batch_size: +8"),
    *("max_batch_size: --1", "max_batch_size: 2147483648", "max_batch_size: -2147483648", "max_batch_size: 1_0"),
    *("max_batch_size: 8input {}", "max_batch_size: 0x8g", "max_batch_size: 1.2.3", "max_batch_size 8"),
    *("max_batch_size: [8]", "max_batch_size: '8'", "max_batch_size: \u00a08", "max_batch_size: \u0668"),
    *("input { dims: [-1, - 1,-9223372036854775808] }", "input { dims: 9223372036854775808 }"),
    *("input { dims: [] }", "input { dims: [1,] }", "input { dims: [1 2] }", "input { dims: 1 dims: [2] dims: 3 }"),
    *(
        "input { data_type: 11 }",
        "input { data_type: - 1 }",
        "input { data_type: TYPE_FP32 }",
        "input { data_type: x }",
    ),
    *("input { optional: true }", "input { optional: True }", "input { optional: t }", "input { optional: 1 }"),
    *("input { optional: TRUE }", "input { optional: 2 }", "input { optional: -1 }", "input { optional: 0 }"),
]
FLOATS = [
    *("1", "1.", "1.5", ".5", ".5f", "1F", "1e3", "1E-3f", "1e+3", "1e400", "-1.5", "- .5", "0", "0.0", "-0", "0f"),
    *("inf", "-inf", "Infinity", "- INF", "nan", "NaN", "-nan", "1e", "01", "0x1", "1.5.", "1ff", "+1", "--1", "01.5"),
    *("e5", "'1'", "infinit"),
]
STRUCTURES = [
    "input {} input {}, input {}; output <>",
    "input {};;",
    ", input {}",
    "input [ {}, <> ]",
    "input: [ {} ], output: {}",
    "input [ {}, ]",
    "input [ {} {} ]",
    "input [ , {} ]",
    "input {",
    "input { >",
    "input }",
    "input: { name: 'a' } # }",
    "dynamic_batching [ {} ]",
    "dynamic_batching {} dynamic_batching {}",
    "dynamic_batching {} sequence_batching {}",
    "name 'a'",
    "name = 'a'",
    "name: a",
    "name: ['a']",
    "name: 'a' name: 'b'",
    "1: 'a'",
    "a.b: 1",
    "[a.b]: 1",
    "[type.googleapis.com/inference.ModelConfig] { }",
    "parameters { key: 'a' value { string_value: 'b' } } parameters: [ { key: 'c' } ]",
    "max_batch_size: {{ size }}",
    "name: ${name}",
    "name: \u201ca\u201d",
    "\ufeffname: 'a'",
    "name: 'a' \u200b",
    "name: 'a'\v\f\r\n",
    "name: 'a' \x1c",
    "# a comment\x00 with a NUL\nname: 'a'",
    "# caf\udce9\nname: 'a'",
    "name: 'a",
    "name: 'a\"",
]
SCALARS = st.sampled_from(
    [
        *("1", "-1", "- 1", "0x1F", "010", "08", "1.5", ".5f", "inf", "true", "t", "TYPE_FP32", "x", "+1", "1x", "-x"),
        *('"a"', "'b' \"c\"", r'"\n"', r'"\q"', '"#"', "'\"'", '"', "[1, 2]", "[1 2]", "[]", "{}", "<>", "[{}, {}]"),
    ]
)
FIELDS = st.sampled_from(
    ["name", "max_batch_size", "input", "output", "dims", "data_type", "optional", "dynamic_batching", "parameters"]
)
MARKS = st.sampled_from([":", ":", ",", ";", "{", "}", "<", ">", "[", "]", "-", " ", "\n", "# c\n", "\u00a0", "."])
TOKENS = st.lists(FIELDS | SCALARS | MARKS, max_size=12)
PIECES = st.sampled_from(
    [*"ab01278xuUé\\\"' \n#", "\udce9", r"\n", r"\x4", r"\101", r"\u00e9", r"\ud83d", r"\ude00", r"\U0001f600", r"\q"]
)


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Reads with protobuf's C++ parser, in this process."""
    files = descriptor_pb2.FileDescriptorSet()
    model_config_pb2.DESCRIPTOR.CopyToProto(files.file.add())
    schema = tmp_path_factory.mktemp("protoc") / "schema"
    schema.write_bytes(files.SerializeToString())
    arguments = ["protoc", f"--descriptor_set_in={schema}", "--encode=inference.ModelConfig"]

    def read(text: bytes) -> bytes | None:
        with ExitStack() as stack:
            streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            streams[0].write(text)
            streams[0].seek(0)
            for number, stream in enumerate(streams):
                saved = os.dup(number)
                stack.callback(os.close, saved)
                stack.callback(os.dup2, saved, number)
                os.dup2(stream.fileno(), number)
            status = protoc.main([*arguments, model_config_pb2.DESCRIPTOR.name])
            streams[1].seek(0)
            return None if status else streams[1].read()

    return read


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], Config]:
    path = tmp_path_factory.mktemp("config") / "config.pbtxt"

    def read(text: bytes) -> Config:
        path.write_bytes(text)
        return read_config(path, "m/config.pbtxt")

    return read


def name_of(message: bytes | None) -> bytes | None:
    """`name`, which is field 1, with no check that it is UTF-8."""
    return None if message is None else wrappers_pb2.BytesValue.FromString(message).value


def as_message(text: bytes | None) -> model_config_pb2.ModelConfig | None:
    return None if text is None else model_config_pb2.ModelConfig.FromString(text)


def written(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


@pytest.mark.parametrize(("escape", "value"), ESCAPES, ids=[repr(escape) for escape, _ in ESCAPES])
def test_string_is_read_as_triton_reads_it_when_it_has_an_escape(escape, value, check, triton):
    text = b'name: "' + escape + b'"'
    assert name_of(triton(text)) == value
    config = check(text)
    assert (config.problem is None) == (value is not None)
    assert config.message.name == (value or b"").decode(errors="replace")


def test_upper_case_hexadecimal_escape_is_refused_as_tritons_own_protobuf_refuses_it(check):
    # The newer protobuf of protoc accepts it; the corpus asks the server.
    assert check(rb'name: "\X41"').problem is not None


@settings(max_examples=500, deadline=None)
@given(pieces=st.lists(PIECES, max_size=10), quote=st.sampled_from("\"'"))
def test_string_is_read_as_triton_reads_it_when_its_pieces_are_random(pieces, quote, check, triton):
    text = written(f"name: {quote}{''.join(pieces)}{quote}")
    expected = name_of(triton(text))
    config = check(text)
    assert (config.problem is None) == (expected is not None), config.problem
    assert config.message.name == (expected or b"").decode(errors="replace")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=20))
def test_string_is_read_back_when_the_library_wrote_it(value):
    text = text_format.MessageToString(model_config_pb2.ModelConfig(name=value))
    tokens, problem = split(text)
    assert problem is None
    assert "".join(token.text for token in tokens if token.kind == "string") == value


@pytest.mark.parametrize(
    "text",
    [
        *NUMBERS,
        *(f"sequence_batching {{ direct {{ minimum_slot_utilization: {number} }} }}" for number in FLOATS),
        *STRUCTURES,
    ],
)
def test_config_is_read_as_triton_reads_it(text, check, triton):
    expected = as_message(triton(written(text)))
    config = check(written(text))
    assert (config.problem is None) == (expected is not None), config.problem
    # As text, where not-a-number equals itself.
    assert str(config.message) == str(expected or "")


@settings(max_examples=1000, deadline=None)
@given(
    fragments=st.lists(
        TOKENS.map("".join) | st.tuples(FIELDS, st.just(": "), SCALARS).map("".join) | st.sampled_from(NUMBERS),
        max_size=4,
    ),
    position=st.integers(0, 40),
    token=SCALARS | MARKS | st.just(""),
)
def test_config_is_read_as_triton_reads_it_when_its_tokens_are_random(fragments, position, token, check, triton):
    whole = " ".join(fragments)
    text = whole[:position] + token + whole[position:]
    expected = as_message(triton(written(text)))
    config = check(written(text))
    assert (config.problem is None) == (expected is not None), config.problem
    assert str(config.message) == str(expected or "")


@settings(max_examples=300, deadline=None)
@given(TOKENS.map(" ".join))
def test_normalised_text_has_every_token_on_its_line(text):
    tokens, _ = split(text)
    again, problem = split(normalised(tokens))
    assert problem is None
    assert [(token.kind, token.text) for token in again] == [(token.kind, token.text) for token in tokens]
    after_minus = [False, *(token.text == "-" for token in tokens)]
    for token, before, is_joined in zip(again, tokens, after_minus, strict=False):
        assert token.line == before.line or is_joined


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ('name: "a"\nbackend: "\\q"', 2, "escape sequence \\q", "write a backslash as \\\\"),
        ("max_batch_size: +8", 1, "U+002B (PLUS SIGN)", "without a sign"),
        ("max_batch_size: \u00a08", 1, "U+00A0 (NO-BREAK SPACE)", "invisible"),
        ("\ufeffname: 'a'", 1, "U+FEFF", "without a byte order mark"),
        ("\n\nname: {{ name }}", 3, "got {{", "fill in the template"),
        ("name: ${name}", 1, "U+0024 (DOLLAR SIGN)", "fill in the template"),
        ("name = 'a'", 1, "U+003D (EQUALS SIGN)", "write `:`"),
        ("name: \udce9", 1, "byte 0xE9", "remove"),
        ("name: 'a' \x01", 1, "U+0001 (control character)", "remove"),
        ("max_batch_size: 08", 1, "the number 08", "correct the number"),
        ("name: 'a\n'", 1, "does not end on its line", "close the string"),
    ],
)
def test_problem_names_what_is_wrong_and_what_to_do(text, line, message, hint):
    _, problem = split(text)
    assert problem is not None
    assert problem.line == line
    assert message in problem.message
    assert hint in problem.hint
