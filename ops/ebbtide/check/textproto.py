"""Finds the line of every field in a text-format protobuf, because Python's own parser does not report lines.

It does not validate the text: `google.protobuf.text_format` does that. In a malformed text it stops at the first token
that it does not understand, and knows the lines of the fields before that token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ebbtide.check.tokens import Token

_CLOSING = {"{": "}", "<": ">"}
_MAX_DEPTH = 100


@dataclass(frozen=True)
class Key:
    """A step of a path: the map entry with this key."""

    value: str


Step = str | int | Key
Path = tuple[Step, ...]
"""The path of a field: its name, then an index (repeated field) or a `Key` (map), then the name of the next field.

``("input", 1, "dims")``, ``("parameters", Key("FORCE"), "value", "string_value")``. A name without an index is the
first occurrence of the field.
"""


@dataclass
class Node:
    """One occurrence of a field."""

    line: int
    """Line of the field's name, or of the element in a list; counted from 1."""
    value: str | None = None
    """A scalar as written, but strings without quotes and escapes; None for a message."""
    children: dict[str, list[Node]] = field(default_factory=dict)


class PositionIndex:
    """The line and value of every field of one text."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.root = Node(1)
        _Reader(tokens).read_message(self.root, "", 0)

    def line(self, path: Path) -> int:
        """The line of the field, or of the closest message around it if the field is not written."""
        return _locate(self.root, path).line

    def has(self, path: Path) -> bool:
        """Whether the text has the field."""
        node: Node | None = self.root
        for name, at in _pairs(path):
            node = None if node is None else _child(node, name, at)
        return node is not None

    def value(self, path: Path) -> str | None:
        """The scalar at the path as it is written; None if there is no scalar."""
        return _locate(self.root, path).value if self.has(path) else None


def render(path: Path) -> str:
    """The path as text: ``input[1].dims``, ``parameters["FORCE"].value``."""
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
    """Each field name of the path, with the index or key that selects one occurrence."""
    for position, step in enumerate(path):
        if isinstance(step, str):
            after = path[position + 1] if position + 1 < len(path) else 0
            yield step, 0 if isinstance(after, str) else after


def _child(node: Node, name: str, at: int | Key) -> Node | None:
    found = node.children.get(name, [])
    if isinstance(at, Key):
        # If a key is written twice, Triton uses the last entry.
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
    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._position = 0

    def read_message(self, node: Node, end: str, depth: int) -> None:
        """Reads fields into a node, until the mark that ends the message."""
        while (token := self._next()) is not None and not self._is_mark(token, end):
            if token.kind != "name":
                if self._is_mark(token, ",") or self._is_mark(token, ";"):
                    continue
                return self._give_up()
            if self._is_mark(self._peek(), ":"):
                self._next()
            occurrences = node.children.setdefault(token.text, [])
            self._read_value(occurrences, token.line, depth + 1)
        return None

    def _read_value(self, occurrences: list[Node], line: int, depth: int) -> None:
        """Reads one value, or a list of them; `line` is the line of the field's name."""
        token = self._next()
        if token is None:
            return
        if depth > _MAX_DEPTH:
            self._give_up()
        elif token.kind != "mark":
            occurrences.append(Node(line, self._scalar(token)))
        elif token.text == "-":
            number = self._next()
            occurrences.append(Node(line, f"-{number.text if number else ''}"))
        elif token.text in _CLOSING:
            node = Node(line)
            occurrences.append(node)
            self.read_message(node, _CLOSING[token.text], depth)
        elif token.text == "[":
            while (element := self._peek()) is not None and not self._is_mark(element, "]"):
                if self._is_mark(element, ","):
                    self._next()
                else:
                    self._read_value(occurrences, element.line, depth + 1)
            self._next()
        else:
            self._give_up()

    def _scalar(self, first: Token) -> str:
        text = first.text
        # Adjacent strings are read as one.
        while first.kind == "string" and (after := self._peek()) is not None and after.kind == "string":
            text += after.text
            self._next()
        return text

    @staticmethod
    def _is_mark(token: Token | None, text: str) -> bool:
        return token is not None and token.kind == "mark" and token.text == text

    def _peek(self) -> Token | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _next(self) -> Token | None:
        token = self._peek()
        self._position += 1
        return token

    def _give_up(self) -> None:
        self._position = len(self._tokens)
