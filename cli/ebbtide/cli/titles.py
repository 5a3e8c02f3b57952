"""Titles to show in place of item ids, from a bundle or a catalog file, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

TitleBundle = Annotated[Path | None, typer.Option("--bundle", help="Bundle that supplies the titles.")]
TitleCatalog = Annotated[str | None, typer.Option("--catalog", help="Catalog file that supplies the titles.")]
CatalogItemCol = Annotated[str, typer.Option(help="Column with the item id in --catalog.")]
TitleTemplate = Annotated[str, typer.Option(help="Title of an item of --catalog, with {column} for its values.")]

ITEM_COL, TEMPLATE = "item", "{title}"
"""Defaults of `CatalogItemCol` and `TitleTemplate`."""


@dataclass(frozen=True)
class TitleSource:
    """Where titles come from; nowhere if it names neither, and then ids are shown."""

    bundle: Path | None = None
    catalog: str | None = None
    item_column: str = ITEM_COL
    template: str = TEMPLATE

    def read(self) -> dict[str, str]:
        """The title of each item id.

        Raises:
            typer.BadParameter: Both a bundle and a catalog are given.
            CommandError: The bundle has no catalog.
            DataError: The file cannot be read, or lacks a column.
        """
        if self.bundle is None and self.catalog is None:
            return {}
        if self.bundle is not None and self.catalog is not None:
            raise typer.BadParameter("--catalog: got it together with --bundle; expected one of them for the titles")
        from ebbtide.cli.errors import CommandError
        from ebbtide.data.catalog import read_catalog
        from ebbtide.data.dataset import BUNDLE_CATALOG_FILE

        if self.bundle is None:
            catalog, _ = read_catalog(str(self.catalog), self.item_column, self.template)
        else:
            path = self.bundle / BUNDLE_CATALOG_FILE
            if not path.is_file():
                raise CommandError(f"{path}: no such file; expected a bundle written by `ebbtide train`")
            catalog, _ = read_catalog(path, "item_id", "{title}")
        return dict(zip(catalog.item_id, catalog.title, strict=True))
