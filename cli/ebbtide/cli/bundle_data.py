"""The files that a bundle was trained on: absolute paths, and options for files that have moved since."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.errors import CommandError

if TYPE_CHECKING:
    from ebbtide.train.bundle import InterestBundle

BundleEvents = Annotated[
    str | None, typer.Option("--events", help="Event log, if it is not where the training read it.")
]
BundleCatalog = Annotated[
    str | None, typer.Option("--catalog", help="Catalog file, if it is not where the training read it.")
]


def absolute(path: str) -> str:
    """A path that means the same file in every working folder; a URL stays as it is.

    Raises:
        CommandError: An empty text, as a variable of the shell that is not set gives: it would name the current folder,
            all of whose Parquet files would be read.
    """
    if not path:
        raise CommandError("got an empty path of a log, a catalog or vectors; expected a file, a folder or a URL")
    return path if "://" in path else str(Path(path).absolute())


def moved(bundle: InterestBundle, events: str | None, catalog: str | None) -> InterestBundle:
    """The bundle with other paths of its log and catalog.

    Args:
        bundle: As loaded.
        events: The log's path; None for the one in the bundle.
        catalog: The catalog's path; likewise.

    Raises:
        CommandError: A file does not exist.
    """
    given = {"events": events, "catalog": catalog}
    data = bundle.config.data.model_copy(
        update={name: absolute(path) for name, path in given.items() if path is not None}
    )
    for name in given:
        path = getattr(data, name)
        if path is not None and "://" not in path and not Path(path).exists():
            hint = "" if given[name] is not None else f", which the bundle was trained on; --{name} gives its new path"
            raise CommandError(f"{path}: no such file{hint}")
    return replace(bundle, config=bundle.config.model_copy(update={"data": data}))
