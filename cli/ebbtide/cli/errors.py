"""Errors of the command line itself; each message says what was found, what was expected, and what to do."""

from __future__ import annotations


class CommandError(Exception):
    """A command that cannot start as it was called, found before any work."""
