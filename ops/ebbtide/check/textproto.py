"""Finds the line of every field in a text-format protobuf, which Python's own parser does not tell.

It reads structure alone and never judges it: `google.protobuf.text_format` does that. On text that is malformed it
stops where the structure is lost, and knows the lines before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf.text_encoding import CUnescape

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|\#[^\n]*)
    | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    | (?P<word>[^\s\#"'{}<>\[\]:,;]+)
    | (?P<mark>.)
    """,
    re.VERBOSE,
)
_CLOSING = {"{": "}", "<": ">"}
_MAX_DEPTH = 100


@dataclass(frozen=True)
class Key:
    """The entry of a map with this key, as a step of a path."""

    value: str


Step = str | int | Key
Path = tuple[Step, ...]
"""A way to a field: a name, then an index where the field repeats or a `Key` where it is a map, then the next name.

``("input", 1, "dims")``, ``("parameters", Key("FORCE"), "value", "string_value")``. A name without an index means the
field's first occurrence.
"""


@dataclass
class Node:
    """One occurrence of a field."""

    line: int
    """Counted from 1: of the field's name, or of the element in a list."""
    value: str | None = None
    """A scalar as written, strings without quotes and escapes; None for a message."""
    children: dict[str, list[Node]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int


class PositionIndex:
    """The lines of one text."""

    def __init__(self, text: str) -> None:
        self.root = Node(1)
        _Reader(text).read_message(self.root, "", 0)

    def line(self, path: Path) -> int:
        """The line of the field, or of the nearest message around it that is written."""
        return _locate(self.root, path).line

    def has(self, path: Path) -> bool:
        """Whether the field is written."""
        node: Node | None = self.root
        for name, at in _pairs(path):
            node = None if node is None else _child(node, name, at)
        return node is not None

    def value(self, path: Path) -> str | None:
        """A scalar as it is written, None where the path leads to none."""
        return _locate(self.root, path).value if self.has(path) else None


def render(path: Path) -> str:
    """The path as users write it: ``input[1].dims``, ``parameters["FORCE"].value``."""
    shown = ""
    for step in path:
        if isinstance(step, int):
            shown += f"[{step}]"
        elif isinstance(step, Key):
            shown += f'["{step.value}"]'
        else:
            shown += f".{step}" if shown else step
    return shown


def _pairs(path: Path) -> Iterator[tuple[str, int | Key]]:
    """Names with what selects among their occurrences."""
    for position, step in enumerate(path):
        if isinstance(step, str):
            after = path[position + 1] if position + 1 < len(path) else 0
            yield step, 0 if isinstance(after, str) else after


def _child(node: Node, name: str, at: int | Key) -> Node | None:
    found = node.children.get(name, [])
    if isinstance(at, Key):
        # Where a key is written twice, the last entry counts.
        return next((entry for entry in reversed(found) if _key_of(entry) == at.value), None)
    return found[at] if at < len(found) else None


def _key_of(entry: Node) -> str:
    keys = entry.children.get("key")
    return (keys[-1].value or "") if keys else ""


def _locate(root: Node, path: Path) -> Node:
    node = root
    for name, at in _pairs(path):
        child = _child(node, name, at)
        if child is None:
            break
        node = child
    return node


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def read_message(self, node: Node, end: str, depth: int) -> None:
        while (token := self._next()) is not None and token.text != end:
            if token.kind != "word":
                if token.text in ",;":
                    continue
                return self._give_up()
            if (before := self._peek()) is None:
                return None
            if before.text == ":":
                self._next()
            occurrences = node.children.setdefault(token.text, [])
            self._read_value(occurrences, token.line, depth + 1)
        return None

    def _read_value(self, occurrences: list[Node], line: int, depth: int) -> None:
        """Reads one value, or a list of them; `line` is that of the name in front."""
        token = self._next()
        if token is None:
            return
        if depth > _MAX_DEPTH:
            self._give_up()
        elif token.kind == "mark" and token.text in _CLOSING:
            node = Node(line)
            occurrences.append(node)
            self.read_message(node, _CLOSING[token.text], depth)
        elif token.kind == "mark" and token.text == "[":
            while (element := self._peek()) is not None and not (element.kind == "mark" and element.text == "]"):
                if element.kind == "mark" and element.text == ",":
                    self._next()
                else:
                    self._read_value(occurrences, element.line, depth + 1)
            self._next()
        elif token.kind == "mark":
            self._give_up()
        else:
            occurrences.append(Node(line, self._scalar(token)))

    def _scalar(self, first: _Token) -> str:
        if first.kind == "word":
            return first.text
        text = first.text
        # Adjacent strings are one.
        parts = [text]
        while (after := self._peek()) is not None and after.kind == "string":
            parts.append(after.text)
            self._next()
        return "".join(_unquoted(part) for part in parts)

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> _Token | None:
        token = self._peek()
        self._at += 1
        return token

    def _give_up(self) -> None:
        self._at = len(self._tokens)


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind != "space":
            yield _Token(kind, match.group(), line)
        line += match.group().count("\n")


def _unquoted(text: str) -> str:
    try:
        return CUnescape(text[1:-1]).decode(errors="replace")
    except ValueError:
        return text[1:-1]
