"""Writes the vectors of a catalog's texts, from a pre-trained encoder, part by part."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import polars as pl
import torch
import xxhash

from ebbtide.batch.errors import BatchError
from ebbtide.batch.parts import require_same_run, run_of_parts, write_part
from ebbtide.batch.workers import Workers
from ebbtide.data.bad_rows import BadRows
from ebbtide.data.catalog import read_catalog_pieces
from ebbtide.data.errors import DataError
from ebbtide.data.tables import refuse_too_many
from ebbtide.data.value_notes import note_script
from ebbtide.train.encoder import (
    PACKAGED,
    embed_with,
    encoder_fingerprint,
    encoder_folder,
    fast_tokenizer,
    load_encoder,
)

VECTOR_COLUMN = "vector"
PART_ITEMS = 2_000
_COMMAND = "embed-catalog"
_FEW_ITEMS = 4 * PART_ITEMS
"""For which one process is done before others have loaded torch."""


class Progress(Protocol):
    """Follows the work."""

    def reading(self, rows: int) -> None:
        """So many rows were read so far."""
        ...

    def embedding(self, items: int, of: int) -> None:
        """So many of the items have their vector."""
        ...


class Silent:
    """A `Progress` that tells nobody."""

    def reading(self, rows: int) -> None:
        """See `Progress`."""

    def embedding(self, items: int, of: int) -> None:
        """See `Progress`."""


@dataclass(frozen=True)
class CatalogFile:
    """A catalog, and how it is read; see `ebbtide.data.catalog.read_catalog`."""

    path: str | Path
    item_column: str = "item"
    text_template: str = "{text}"
    encoding: str | None = None
    max_bad_rows: float = 0.01
    """The file is refused if more than this share of its rows is bad."""


@dataclass
class Read:
    """What was read of a catalog."""

    items: int = 0
    mark: str = ""
    """Stands for all ids and texts, in their order."""
    without_text: int = 0
    """Items whose id is their text."""
    messages: list[str] = field(default_factory=list)
    """On rows that could not be used, and texts that the encoder cannot read."""


@dataclass(frozen=True)
class Summary:
    """What was written."""

    read: Read
    embedded: int
    """Items of the parts that this run wrote."""
    parts: int
    kept_parts: int
    """Parts that an earlier run had written."""
    width: int | None
    """Numbers in a vector; None if this run wrote no part."""
    reading_s: float
    embedding_s: float

    @property
    def items_per_s(self) -> float:
        """Of the parts that this run wrote."""
        return self.embedded / max(self.embedding_s, 1e-9)


@dataclass(frozen=True)
class Task:
    """What a process needs to know."""

    encoder: str
    """``packaged``, a Hugging Face id, or the absolute path of a folder."""
    fingerprint: str
    """Of the encoder."""
    item_column: str
    threads: int | None
    """Of torch; None for as many as it takes."""
    out: Path
    """Folder of the parts."""


@dataclass(frozen=True)
class Part:
    """Some of the items, in the order of the catalog."""

    number: int
    file: Path
    """With ``item`` and ``text``."""


def embed_catalog(
    catalog: CatalogFile,
    encoder: str,
    out: Path,
    *,
    processes: int | None = None,
    ray: str | None = None,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Writes the vector of each item's text, as `ebbtide train` computes it from the same template and encoder.

    The folder gets Parquet files with the column of item ids, named as in the catalog, and ``vector``, a list of
    float32, which `ebbtide.data.vectors.read_vectors` reads. The catalog need not fit into memory. A run that was
    ended, by whatever means, goes on when it is run again; a folder of another run is refused.

    Args:
        catalog: Of the items.
        encoder: ``packaged``, a folder, or a Hugging Face id.
        out: A new folder, or one with parts of the same run.
        processes: How many embed; None for one for each processor, less one on Ray, or one for a small catalog.
        ray: Address of a Ray cluster whose workers embed, or ``local`` for one that is started on this machine; its
            machines share the folders of ``out`` and ``scratch`` and see the encoder. None for processes of this
            machine.
        scratch: Folder for temporary files, which take as much as ids and texts; None for the system's.
        progress: Is told how far the work is.

    Raises:
        DataError: The catalog cannot be used; nothing was written.
        EncoderError: There is no such encoder.
        BatchError: The folder is of another run, a process was killed, or the cluster cannot be used.
    """
    if catalog.item_column == VECTOR_COLUMN:
        raise BatchError(f"item column: got {VECTOR_COLUMN!r}, the column of the vectors; expected another name")
    progress = progress or Silent()
    folder = encoder_folder(encoder)
    fingerprint = encoder_fingerprint(folder)
    known = {"encoder": fingerprint[:16], "item column": catalog.item_column}
    # Before the catalog is read, which may take long.
    require_same_run(out, _COMMAND, known)
    began = time.monotonic()
    with (
        Workers(processes, ray) as workers,
        tempfile.TemporaryDirectory(prefix="ebbtide-embed-", dir=scratch) as spilled,
    ):
        workers.require_shared(scratch)
        read, parts = _spill(catalog, encoder, Path(spilled), progress)
        read_at = time.monotonic()
        few = read.items <= _FEW_ITEMS
        source = str(folder.absolute()) if Path(encoder).is_dir() else encoder
        task = Task(source, fingerprint, catalog.item_column, workers.threads(few=few), out.absolute())
        embedded = 0
        width: int | None = None
        with run_of_parts(out, _COMMAND, {**known, "items": f"{read.items:,} ({read.mark})"}, len(parts)) as missing:
            pieces = [parts[number] for number in missing]
            kept = read.items - sum(min(PART_ITEMS, read.items - number * PART_ITEMS) for number in missing)
            progress.embedding(kept, read.items)
            for items, numbers in workers.results(partial(write_in_process, task), pieces, few=few):
                embedded, width = embedded + items, numbers
                progress.embedding(kept + embedded, read.items)
    seconds = read_at - began, time.monotonic() - read_at
    return Summary(read, embedded, len(parts), len(parts) - len(missing), width, *seconds)


def _spill(catalog: CatalogFile, encoder: str, folder: Path, progress: Progress) -> tuple[Read, list[Part]]:
    """Writes ids and texts to a file for each part.

    Raises:
        DataError: The catalog cannot be used.
    """
    read, bad = Read(), BadRows(rows=0)
    parts: list[Part] = []
    digest = xxhash.xxh3_64()
    waiting = pl.DataFrame(schema={"item": pl.String, "text": pl.String})

    def write(frame: pl.DataFrame) -> None:
        part = Part(len(parts), folder / f"{len(parts):05d}.parquet")
        frame.write_parquet(part.file)
        digest.update(json.dumps([frame["item"].to_list(), frame["text"].to_list()]).encode())
        parts.append(part)

    for frame, of_piece in read_catalog_pieces(
        catalog.path, catalog.item_column, catalog.text_template, catalog.encoding
    ):
        bad.extend(of_piece)
        if not read.items and encoder == PACKAGED:
            note_script(frame["text"].to_list(), bad)
        read.items += frame.height
        read.without_text += int((frame["text"] == frame["item"]).sum())
        waiting = pl.concat([waiting, frame])
        while waiting.height >= PART_ITEMS:
            write(waiting[:PART_ITEMS])
            waiting = waiting[PART_ITEMS:]
        progress.reading(bad.rows)
    refuse_too_many(catalog.path, bad, catalog.max_bad_rows)
    if not read.items:
        raise DataError(f"{catalog.path}: no usable item ({bad})")
    if waiting.height:
        write(waiting)
    read.mark = digest.hexdigest()
    read.messages += bad.messages
    return read, parts


class Embedder:
    """Computes vectors with one encoder."""

    def __init__(self, task: Task) -> None:
        """Loads the encoder.

        Raises:
            EncoderError: It is not on this machine, or damaged.
            BatchError: It is another one than where the run began.
        """
        if task.threads is not None:
            torch.set_num_threads(task.threads)
        folder = encoder_folder(task.encoder)
        found = encoder_fingerprint(folder)
        if found != task.fingerprint:
            raise BatchError(
                f"{folder}: got an encoder with the fingerprint {found[:16]}; expected {task.fingerprint[:16]}, with "
                "which the run began: use the same files on all machines"
            )
        self._task = task
        self._encoder = load_encoder(folder)
        self._tokenizer = fast_tokenizer(folder, self._encoder.settings.max_tokens)

    def write(self, part: Part) -> tuple[int, int]:
        """Writes the vectors of a part's items; returns how many there are, and their width."""
        frame = pl.read_parquet(part.file)
        vectors = embed_with(self._encoder, self._tokenizer, frame["text"].to_list())
        width = vectors.shape[1]
        lists = pl.Series(VECTOR_COLUMN, vectors, dtype=pl.Array(pl.Float32, width)).cast(pl.List(pl.Float32))
        write_part(self._task.out, part.number, frame.select(pl.col("item").alias(self._task.item_column), lists))
        return frame.height, width


@lru_cache(1)
def _of_process(task: Task) -> Embedder:
    return Embedder(task)


def write_in_process(task: Task, part: Part) -> tuple[int, int]:
    """`Embedder.write` in a process that does it for many parts of one task."""
    return _of_process(task).write(part)
