"""Where the quality benchmark prints."""

from __future__ import annotations

import sys

from rich.console import Console

_FILE_WIDTH = 160
"""Columns where the output is no terminal."""

console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
