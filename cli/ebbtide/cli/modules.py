"""Looks for the packages that an option needs, before any work is done; nothing is imported for it."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from ebbtide.cli.console import errors
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


def warn_of_two_runtimes() -> None:
    """Warns if onnxruntime and onnxruntime-gpu are both installed: the one that was installed last has won."""
    found = []
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            return
    errors.print(
        f"[yellow]warning:[/yellow] {' and '.join(found)} are both installed and overwrite each other's files: "
        "pip uninstall both, then install one of them",
        soft_wrap=True,
    )
