"""Reads protobuf's text form, as ``config.pbtxt`` is written in, without protobuf: served models may need NumPy alone.

It knows the syntax and no schema: every field has a list of values, since any may be repeated. Escapes in strings stay
as they are written. https://protobuf.dev/reference/protobuf/textformat-spec
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Message = dict[str, list[Any]]
"""The values of each field by name: messages, or scalars as text, strings without their quotes."""

_WORD = re.compile(
    r"""(?:\s|\#[^\n]*)*("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[^\s\#"'{}<>\[\]:,;]+|[{}<>\[\]:,;]|$)"""
)
_OPENING = {"{": "}", "<": ">"}


def parse_text(text: str) -> Message:
    """The fields of a message.

    Raises:
        ValueError: The text is cut short, or is not in protobuf's text form.
    """
    return _message(_tokens(text), "")


def _tokens(text: str) -> Iterator[str]:
    start = 0
    while True:
        match = _WORD.match(text, start)
        if match is None:
            line = text.count("\n", 0, start) + 1
            raise ValueError(f"line {line}: got {text[start : start + 20]!r}; expected a field in protobuf's text form")
        yield match[1]
        if not match[1]:
            return
        start = match.end()


def _message(tokens: Iterator[str], end: str) -> Message:
    found: Message = {}
    for name in tokens:
        if name == end:
            return found
        if name in (",", ";"):
            continue
        if not name or name in "{}<>[]:":
            break
        value = next(tokens)
        if value == ":":
            value = next(tokens)
        values = found.setdefault(name, [])
        if value == "[":
            values.extend(_list(tokens))
        else:
            values.append(_value(value, tokens))
    raise ValueError(f"got {name or 'the end of the text'!r}; expected a field, or {end or 'the end'!r}")


def _list(tokens: Iterator[str]) -> Iterator[Any]:
    for word in tokens:
        if word == "]":
            return
        if word != ",":
            yield _value(word, tokens)


def _value(word: str, tokens: Iterator[str]) -> Any:  # noqa: ANN401 - a message or a text
    if word in _OPENING:
        return _message(tokens, _OPENING[word])
    if not word or word in "}>]:,;":
        raise ValueError(f"got {word or 'the end of the text'!r}; expected a value")
    return word[1:-1] if word[0] in "\"'" else word
