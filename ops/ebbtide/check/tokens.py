"""Splits a text-format protobuf into tokens as Triton's C++ parser does.

Python's parser differs: it accepts unknown escape sequences, ``+8`` and no-break spaces, which Triton refuses, and it
refuses ``- 1`` and Latin-1 comments, which Triton accepts. So this module splits the text, and Python's parser reads
the output of `normalised`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\n\v\f\r]+|\#[^\n\0]*)
    | (?P<string>"(?:\\.|[^"\\\n\0])*"|'(?:\\.|[^'\\\n\0])*')
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>(?:
        0[xX][0-9A-Fa-f]+
        | 0[0-7]+
        | (?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?
      )(?![A-Za-z0-9_.]))
    | (?P<template>\{\{)
    | (?P<mark>[{}<>\[\]:,;./-])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(
    rb"""
    \\(?:
        (?P<single>[abfnrtv\\?'"])
        | (?P<octal>[0-7]{1,3})
        | x(?P<hex>[0-9A-Fa-f]{1,2})
        | U(?P<long>00[01][0-9A-Fa-f]{5})
        | (?P<bad>[^u]|u(?![0-9A-Fa-f]{4}))
    )
    | (?P<units>(?:\\u[0-9A-Fa-f]{4})+)
    """,
    re.VERBOSE | re.DOTALL,
)
_SINGLE = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True))
_LARGEST_CODE_POINT = 0x10FFFF
_TEMPLATE_HINT = "fill in the template before you serve the file"
_HINTS = {
    "+": "write a positive number without a sign",
    "=": "write `:` between a field and its value",
    "$": _TEMPLATE_HINT,
    "%": _TEMPLATE_HINT,
    "\ufeff": "save the file as UTF-8 without a byte order mark",
}


@dataclass(frozen=True)
class Token:
    """One token. Spaces and comments are not tokens."""

    kind: str
    """``string``, ``name``, ``number`` or ``mark``."""
    text: str
    """The token as written; for a string its value, with U+FFFD for bytes that are not UTF-8."""
    line: int
    """Counted from 1."""


@dataclass(frozen=True)
class Problem:
    """Why Triton cannot split the text into tokens."""

    line: int
    message: str
    hint: str


class _BadEscapeError(ValueError):
    """A string has an escape sequence that does not exist; the error's text is that sequence."""


def split(text: str) -> tuple[tuple[Token, ...], Problem | None]:
    """Splits a text into its tokens.

    Args:
        text: decoded from UTF-8 with ``surrogateescape``: a comment or string may hold any bytes.

    Returns:
        The tokens before the first problem, and that problem.
    """
    tokens: list[Token] = []
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup == "template":
            return tuple(tokens), _problem(text, position, line)
        kind, written = str(match.lastgroup), match.group()
        if kind == "string":
            try:
                tokens.append(Token(kind, _unquoted(written).decode(errors="replace"), line))
            except _BadEscapeError as error:
                return tuple(tokens), Problem(
                    line,
                    f"got the escape sequence {error} in a string; expected \\n, \\t, \\\\, \\', \\\", \\?, \\a, \\b, "
                    "\\f, \\r, \\v, an octal code, or \\x, \\u or \\U with hexadecimal digits",
                    "write a backslash as \\\\",
                )
        elif kind != "space":
            tokens.append(Token(kind, written, line))
        position, line = match.end(), line + written.count("\n")
    return tuple(tokens), None


def normalised(tokens: Sequence[Token]) -> str:
    """Writes the tokens on the same lines so that Python's parser reads them as Triton does."""
    parts: list[str] = []
    line = 1
    for token in tokens:
        # For Python a minus sign belongs to the number, for C++ it is a token of its own.
        if parts[-1:] != ["-"]:
            parts.append("\n" * (token.line - line) or " ")
            line = token.line
        parts.append(_quoted(token.text) if token.kind == "string" else token.text)
    return "".join(parts)


def _quoted(text: str) -> str:
    return '"' + "".join(f"\\{byte:03o}" for byte in text.encode()) + '"'


def _unquoted(written: str) -> bytes:
    """The value of a string that is written with quotes and escapes.

    Raises:
        _BadEscapeError: the string has an escape sequence that does not exist.
    """
    return _ESCAPE.sub(_unescaped, written[1:-1].encode(errors="surrogateescape"))


def _unescaped(match: re.Match[bytes]) -> bytes:
    kind, escape = str(match.lastgroup), match.group(str(match.lastgroup))
    if kind == "single":
        return bytes([_SINGLE.get(escape[0], escape[0])])
    if kind == "octal":
        return bytes([int(escape, 8) % 256])
    if kind == "hex":
        return bytes([int(escape, 16)])
    if kind == "long":
        code_point = int(escape, 16)
        # C++ keeps the escape sequence if there is no such character.
        return rb"\U%08x" % code_point if code_point > _LARGEST_CODE_POINT else _utf8(chr(code_point))
    if kind == "units":
        # Two UTF-16 units may be one character.
        return _utf8(bytes.fromhex(escape.replace(rb"\u", b"").decode()).decode("utf-16-be", "surrogatepass"))
    raise _BadEscapeError(match.group().decode(errors="replace"))


def _utf8(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _problem(text: str, position: int, line: int) -> Problem:
    """Explains why there is no token at a position."""
    character = text[position]
    if character in "\"'":
        return Problem(
            line,
            f"got a string that does not end on its line; expected a closing {character}",
            "close the string; two strings beside each other, on two lines as well, are read as one",
        )
    if character.isascii() and character.isdigit():
        number = re.compile(r"[A-Za-z0-9_.]+").match(text, position)
        return Problem(
            line,
            f"got the number {number.group() if number else character}; expected a decimal number such as 8, an "
            "octal number such as 010, or a hexadecimal number such as 0x8",
            "correct the number, or write a space behind it",
        )
    if character == "{":
        return Problem(line, "got {{; expected one {", _TEMPLATE_HINT)
    return Problem(
        line,
        f"got {_named(character)} outside of strings and comments; expected names, numbers, strings and "
        "{ } < > [ ] : , ;",
        _HINTS.get(character, "remove the character; it may be invisible in an editor"),
    )


def _named(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"byte 0x{ord(character) - 0xDC00:02X}"
    name = unicodedata.name(character, "control character")
    return f"the character U+{ord(character):04X} ({name})"
