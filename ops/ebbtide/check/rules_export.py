"""Rules about what `ebbtide export` writes beside the files that Triton knows: its manifest, and its models' code."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from ebbtide.check import backends
from ebbtide.check.findings import Finding
from ebbtide.check.repository import Repository
from ebbtide.check.view import View

_MANIFEST_FILE = "ebbtide-export.json"
_MARK_FILE = "fingerprint.json"
"""In each version folder of an export, so that models of others, whose packages the server has, are left alone."""
_PACKAGE = "ebbtide"
"""Copied into the version folders of Python models: the server's environment has none of it."""


def check_repository(repository: Repository) -> Iterator[Finding]:
    """Checks the export's manifest, where there is one."""
    if _MANIFEST_FILE not in repository.files:
        return
    found = _manifest_problem(repository.path / _MANIFEST_FILE, set(repository.models))
    if found:
        yield Finding(
            "export-manifest",
            _MANIFEST_FILE,
            1,
            "",
            f"got {found[0]}; expected {found[1]}",
            "copy the whole repository again, or export again: without the manifest no version is added or deployed",
        )


def check(view: View) -> Iterator[Finding]:
    """Checks that the packages which an exported Python model imports lie beside it."""
    if view.serving.backend != backends.PYTHON:
        return
    for version in view.versions:
        folder = view.model.path / str(version)
        if (folder / _MARK_FILE).is_file():
            yield from _code(view, folder)


def _manifest_problem(path: Path, models: set[str]) -> tuple[str, str] | None:
    """What is wrong with a manifest, and what was expected."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return f"{error.strerror}", "a readable manifest of `ebbtide export`"
    except (ValueError, RecursionError):
        return "a file that is not JSON", "the manifest of `ebbtide export`"
    if not isinstance(content, dict):
        return "no JSON object", "the manifest of `ebbtide export`"
    for key, kind, name in (
        ("format", int, "a number"),
        ("versions", dict, "an object"),
        ("models", dict, "an object"),
    ):
        if not isinstance(content.get(key), kind):
            return f"{key} that is not {name}" if key in content else f"no {key}", f"{key}: {name}"
        entries = content[key].values() if kind is dict else ()
        if not all(isinstance(entry, dict) for entry in entries):
            return f"an entry of {key} that is not an object", f"an object for each of the {key}"
    if absent := sorted(content["models"].keys() - models):
        return f"models that are not there: {', '.join(absent)}", "only models that have a folder"
    return None


def _code(view: View, folder: Path) -> Iterator[Finding]:
    """One finding for each file that imports absent modules."""
    for path in [*sorted(folder.glob("*.py")), *sorted((folder / _PACKAGE).rglob("*.py"))]:
        imports = _imports(path.read_bytes())
        absent = [(line, module) for line, module, name in imports if not _is_there(folder, module, name)]
        if absent:
            names = ", ".join(dict.fromkeys(module for _, module in absent))
            yield view.file_finding(
                "export-code-missing",
                path.relative_to(view.model.path).as_posix(),
                f"got an import of {names}, not all of which is in {folder.name}/{_PACKAGE}/; expected the packages "
                "that were exported with the model",
                "copy the whole folder again, or export again",
                absent[0][0],
            )


@lru_cache(maxsize=512)
def _imports(source: bytes) -> tuple[tuple[int, str, str], ...]:
    """Line, module and name (or nothing) of what a source imports from the package whenever it is imported.

    All models of an export have the same files, so each is parsed once.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return ()
    found = [
        (node.lineno, node.module or "", alias.name)
        for node in body
        if isinstance(node, ast.ImportFrom) and not node.level
        for alias in node.names
    ]
    found += [(node.lineno, alias.name, "") for node in body if isinstance(node, ast.Import) for alias in node.names]
    return tuple(sorted(one for one in found if one[1].partition(".")[0] == _PACKAGE))


def _is_there(folder: Path, module: str, name: str) -> bool:
    """Whether a module exists, and has the name as far as can be told without running it."""
    path = folder.joinpath(*module.split("."))
    if path.with_suffix(".py").is_file():
        return True
    if not path.is_dir():
        return False
    package = path / "__init__.py"
    # `ebbtide` itself is a namespace package; the packages in it are not.
    if not package.is_file() and module != _PACKAGE:
        return False
    if not name or (path / f"{name}.py").is_file() or (path / name).is_dir():
        return True
    return package.is_file() and name.encode() in package.read_bytes()
