"""Vectors of a catalog are those of its texts; whatever ends a run, the next one goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from commands import run
from ebbtide.batch import BatchError
from ebbtide.batch.embedding import PART_ITEMS, CatalogFile, embed_catalog
from ebbtide.batch.parts import MANIFEST_FILE
from ebbtide.data.catalog import read_catalog
from ebbtide.data.errors import DataError
from ebbtide.data.vectors import read_vectors
from ebbtide.train.encoder import embed_texts

ITEMS = PART_ITEMS * 2 + 100
KILLED = """
import os, signal, sys
from pathlib import Path
from ebbtide.cli.main import main

def on_rename(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(".parquet"):
        if any(Path(arguments[1]).parent.glob("*.parquet")):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(on_rename)
main()
"""
"""Runs ``ebbtide``, and kills it before the second part gets its name."""


@pytest.fixture(scope="module")
def catalog(movielens, tmp_path_factory):
    """A catalog of three parts, one of whose items has no text."""
    films = pl.read_parquet(movielens / "movies.parquet").head(ITEMS)
    titles = pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise("title").alias("title")
    path = tmp_path_factory.mktemp("catalog") / "films.csv"
    films.select(pl.col("movieId").alias("film"), titles, "genres").write_csv(path)
    return CatalogFile(path, "film", "{title}")


@pytest.fixture(scope="module")
def embedded(catalog, tiny_encoder, tmp_path_factory):
    """The folder that one process writes."""
    folder = tmp_path_factory.mktemp("vectors") / "vectors"
    embed_catalog(catalog, str(tiny_encoder), folder, processes=1)
    return folder


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows_of(folder):
    return pl.read_parquet(folder / "*.parquet")


def test_vectors_are_those_of_the_texts(catalog, embedded, tiny_encoder):
    items, _ = read_catalog(catalog.path, "film", "{title}")
    found = rows_of(embedded)
    assert found.schema == {"film": pl.String, "vector": pl.List(pl.Float32)}
    assert found["film"].to_list() == items.item_id
    assert items.text[3] == items.item_id[3]
    vectors = np.stack(found["vector"].to_numpy())
    np.testing.assert_allclose(vectors, embed_texts(tiny_encoder, items.text), atol=1e-5)
    assert {path.name for path in embedded.iterdir()} == {MANIFEST_FILE, *(f"part-{n:05d}.parquet" for n in range(3))}


def test_folder_is_a_feature_block(catalog, embedded):
    items, _ = read_catalog(catalog.path, "film", "{title}")
    vectors, bad = read_vectors("title", embedded, items, "film")
    assert (vectors.items, vectors.width, bad.count) == (ITEMS, 64, 0)


@pytest.mark.slow
def test_processes_write_what_one_writes(catalog, embedded, tiny_encoder, tmp_path):
    seen = []

    class Watcher:
        def reading(self, rows):
            seen.append(rows)

        def embedding(self, items, of):
            seen.append((items, of))

    summary = embed_catalog(catalog, str(tiny_encoder), tmp_path / "vectors", processes=2, progress=Watcher())
    assert (summary.read.items, summary.embedded, summary.parts, summary.width) == (ITEMS, ITEMS, 3, 64)
    assert (seen[0], seen[1], seen[-1], len(seen)) == (ITEMS, (0, ITEMS), (ITEMS, ITEMS), 5)
    found, expected = rows_of(tmp_path / "vectors"), rows_of(embedded)
    assert found["film"].equals(expected["film"])
    # The last digits depend on the number of threads.
    np.testing.assert_allclose(np.stack(found["vector"]), np.stack(expected["vector"]), atol=1e-6)


def test_run_goes_on_when_it_was_killed(catalog, embedded, tiny_encoder, tmp_path):
    out = tmp_path / "vectors"
    command = ["embed-catalog", "--catalog", catalog.path, "--item-col", "film", "--text-template", "{title}"]
    command += ["--encoder", tiny_encoder, "--processes", "1", "--out", out]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, command)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not json.loads((out / MANIFEST_FILE).read_text())["complete"]
    again = run(*command)
    assert (again.returncode, again.stderr) == (0, "")
    assert "1 of 3 parts were there before" in again.stdout
    assert f"vectors of {ITEMS:,} items in {out}, 64 numbers each" in again.stdout.replace("\n", "")
    assert "1 items without text are described by their id" in again.stdout
    assert files_of(out) == files_of(embedded)


@pytest.mark.parametrize(
    ("column", "template", "differs"),
    [
        ("film", "{genres}", r"items 4,100 \(\w+\) there and 4,100 \(\w+\) now;"),
        ("genres", "{title}", "item column film there and genres now;"),
    ],
)
def test_folder_of_another_run_is_refused(catalog, embedded, tiny_encoder, column, template, differs):
    before = files_of(embedded)
    with pytest.raises(BatchError, match=f"got a folder of another run: {differs} expected a new folder"):
        embed_catalog(CatalogFile(catalog.path, column, template), str(tiny_encoder), embedded)
    assert files_of(embedded) == before


def test_folder_of_another_encoder_is_refused(catalog, embedded):
    with pytest.raises(BatchError, match=r"got a folder of another run: encoder \w{16} there and \w{16} now;"):
        embed_catalog(catalog, "packaged", embedded)


def test_column_that_is_named_as_that_of_the_vectors_is_refused(catalog, tiny_encoder, tmp_path):
    with pytest.raises(BatchError, match="got 'vector', the column of the vectors; expected another name"):
        embed_catalog(CatalogFile(catalog.path, "vector"), str(tiny_encoder), tmp_path / "vectors")


def test_catalog_with_many_bad_rows_is_refused_before_anything_is_written(tiny_encoder, tmp_path):
    pl.DataFrame({"item": ["a", "b", "a"], "text": "t"}).write_csv(tmp_path / "catalog.csv")
    with pytest.raises(DataError, match=r"1 with an item id that an earlier row has \(column item: line 4 'a'\)"):
        embed_catalog(CatalogFile(tmp_path / "catalog.csv"), str(tiny_encoder), tmp_path / "vectors")
    assert not (tmp_path / "vectors").exists()


def test_catalog_without_an_item_is_refused(tiny_encoder, tmp_path):
    (tmp_path / "catalog.csv").write_text("item,text\n")
    with pytest.raises(DataError, match="no usable item"):
        embed_catalog(CatalogFile(tmp_path / "catalog.csv"), str(tiny_encoder), tmp_path / "vectors")


def test_texts_that_the_packaged_encoder_cannot_read_are_told(tmp_path):
    pl.DataFrame({"item": ["a", "b"], "text": ["七人の侍", "羅生門"]}).write_csv(tmp_path / "catalog.csv")
    summary = embed_catalog(CatalogFile(tmp_path / "catalog.csv"), "packaged", tmp_path / "vectors")
    assert "2 of 2 texts are not in Latin letters" in summary.read.messages[0]
