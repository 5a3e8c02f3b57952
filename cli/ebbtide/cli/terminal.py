"""Output on any terminal: characters that its encoding does not have are replaced, never an error."""

from __future__ import annotations

import codecs
import io
import sys

HANDLER = "ebbtide"
"""Name of the error handler for streams."""
_PLAIN = str.maketrans(
    {
        "✓": "ok",
        "✗": "x",
        "±": "+-",
        "…": "...",
        "—": "-",
        "–": "-",
        "−": "-",
        "×": "x",
        "→": "->",
        "≤": "<=",
        "≥": ">=",
        "•": "*",
        "━": "-",
        "╸": "-",
        "╺": "-",
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
    }
)
"""What stands for the characters that the commands print themselves."""
_BRAILLE = range(0x2800, 0x2900)
"""The frames of a spinner."""


def accept_every_character() -> None:
    """Lets standard output and error replace what they cannot encode; a handler that the user chose stays."""
    codecs.register_error(HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        # Standard error replaces already, but `\u2713` says less than "ok".
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape", "backslashreplace"):
            stream.reconfigure(errors=HANDLER)


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(map(_plain, found)), error.end


def _plain(character: str) -> str:
    if ord(character) in _BRAILLE:
        return "*"
    plain = character.translate(_PLAIN)
    return plain if plain.isascii() else plain.encode("ascii", "backslashreplace").decode("ascii")
