"""The command line: one command for each stage, every one imported only when it runs."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs ``ebbtide``; the base install has the client only and says what to install for the rest."""
    # Read when torch is loaded: threads that spin while they wait stand still beside any other load on the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import typer  # noqa: F401
    except ModuleNotFoundError:
        sys.exit('the command line is not installed: pip install "ebbtide[cli]" (or [train], [export], [serve])')
    from ebbtide.cli.app import run

    run()
