"""Looks for the packages that an option needs, before any work is done; nothing is imported for it."""

from __future__ import annotations

import importlib.util

from ebbtide.cli.errors import CommandError


def require_modules(option: str, extra: str, *modules: str) -> None:
    """Accepts an option if the packages that it needs are installed.

    Args:
        option: The option or command, for the message.
        extra: The extra of Ebbtide that installs the packages.
        modules: The modules that are imported later.

    Raises:
        CommandError: A module is missing.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise CommandError(f'{option}: {module} is not installed: pip install "ebbtide[{extra}]"')
