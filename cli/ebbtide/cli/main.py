"""The command line: one command for each stage, every one imported only when it runs."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs ``ebbtide``; the base install has the client only and says what to install for the rest."""
    try:
        import typer  # noqa: F401
    except ModuleNotFoundError:
        sys.exit('the command line is not installed: pip install "ebbtide[cli]" (or [train], [export], [serve])')
    from ebbtide.cli.app import run

    run()
