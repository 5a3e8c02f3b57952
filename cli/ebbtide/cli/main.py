"""The command line: one command for each stage, every one imported only when it runs."""

from __future__ import annotations

import os
import sys

_SPIN_COUNT = "10000"


def main() -> None:
    """Runs ``ebbtide``; the base install has the client only and says what to install for the rest."""
    try:
        import typer  # noqa: F401
    except ModuleNotFoundError:
        sys.exit('the command line is not installed: pip install "ebbtide[cli]" (or [train], [export], [serve])')
    # Read when torch is loaded. By default a waiting OpenMP thread spins for so long that an epoch takes three times as
    # long next to two busy processes; with a bound 2.3 times, and the same on a quiet machine.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    from ebbtide.cli.app import run
    from ebbtide.cli.terminal import accept_every_character

    accept_every_character()
    run()
