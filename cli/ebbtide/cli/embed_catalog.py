"""``ebbtide embed-catalog``: vectors of a catalog's texts, from a pre-trained encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.bundle_data import absolute
from ebbtide.cli.console import console, counting_progress, escape, working
from ebbtide.cli.log_options import EncodingOfTexts
from ebbtide.cli.modules import require_modules
from ebbtide.cli.outputs import require_folder, require_outside
from ebbtide.cli.reading_display import ReadingDisplay
from ebbtide.cli.worker_options import RayAddress, require_ray

if TYPE_CHECKING:
    from ebbtide.batch.embedding import Summary


def command(
    catalog: Annotated[
        str,
        typer.Option(
            help="Catalog: Parquet, CSV, TSV or JSON Lines; a folder or an s3:// URL of Parquet files. It need not fit "
            "into memory."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the vectors (Parquet): a new one, or that of the same run.")],
    item_col: Annotated[str, typer.Option(help="Column with the item id.")] = "item",
    text_template: Annotated[
        str, typer.Option(help="Text that describes an item; {column} stands for the value of a catalog column.")
    ] = "{text}",
    encoding: EncodingOfTexts = None,
    max_bad_rows: Annotated[
        float, typer.Option(help="Refuse a file if more than this share of its rows cannot be used.", min=0, max=1)
    ] = 0.01,
    encoder: Annotated[
        str,
        typer.Option(help="Pre-trained language model: 'packaged' (MiniLM, English), a folder or a Hugging Face id."),
    ] = "packaged",
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that embed. Default: one for each processor, less one on Ray."),
    ] = None,
    ray: RayAddress = None,
    scratch: Annotated[
        Path | None,
        typer.Option(
            help="Folder for temporary files, which take as much as ids and texts. Default: the system's temporary "
            "folder."
        ),
    ] = None,
) -> None:
    """Embed the texts of a catalog with an encoder, for large catalogs on several machines.

    The files have the item ids and the column vector, which --vectors of `ebbtide train` reads. A run that was
    stopped goes on when the command is run again.

    **Example**

    ebbtide embed-catalog --catalog products.parquet --text-template "{name}, {kind}" --encoder BAAI/bge-m3
    --out bge_vectors

    ebbtide train --events log.parquet --catalog products.parquet --text-template "{name}" --vectors bge=bge_vectors
    --out artifacts/bundle
    """
    catalog = absolute(catalog)
    require_folder("--out", out)
    require_outside("--out", out, "--catalog", catalog)
    require_ray(ray)
    require_modules("ebbtide embed-catalog", "export", "torch", "transformers", "onnxruntime")
    with working("Loading torch and transformers"):
        from ebbtide.batch.embedding import CatalogFile, embed_catalog
    file = CatalogFile(catalog, item_col, text_template, encoding, max_bad_rows)
    with _Display() as display:
        summary = embed_catalog(file, encoder, out, processes=processes, ray=ray, scratch=scratch, progress=display)
    _print(summary, out)


class _Display(ReadingDisplay):
    """The progress bar, which counts rows, then items."""

    def __init__(self) -> None:
        super().__init__(counting_progress(), "Reading the catalog")

    def reading(self, rows: int) -> None:
        """See `ebbtide.batch.embedding.Progress`."""
        self.progress.update(self.task, completed=rows)

    def embedding(self, items: int, of: int) -> None:
        """See `ebbtide.batch.embedding.Progress`."""
        self.working("Embedding", items, of)


def _print(summary: Summary, out: Path) -> None:
    read = summary.read
    for message in read.messages:
        console.print(f"  [yellow]catalog:[/yellow] {escape(message)}", soft_wrap=True)
    if read.without_text:
        console.print(
            f"  [yellow]catalog:[/yellow] {read.without_text:,} items without text are described by their id",
            soft_wrap=True,
        )
    if summary.kept_parts:
        console.print(f"  {summary.kept_parts:,} of {summary.parts:,} parts were there before", soft_wrap=True)
    seconds = f"[dim]({summary.reading_s + summary.embedding_s:.1f} s)[/dim]"
    rate = "" if summary.width is None else f", {summary.width:,} numbers each, {summary.items_per_s:,.0f} items/s"
    console.print(
        f"[green]✓[/green] vectors of {read.items:,} items in {escape(str(out))}{rate} {seconds}", soft_wrap=True
    )
