"""The console of the quality benchmark."""

from __future__ import annotations

import sys

from rich.console import Console

_FILE_WIDTH = 160
"""Width in characters if the output is not a terminal."""

console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
