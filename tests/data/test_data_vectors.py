"""Vectors of items: which rows are used, which are told, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ebbtide.data.catalog import Catalog
from ebbtide.data.errors import DataError
from ebbtide.data.vectors import ItemVectors, parse_vectors, read_vectors

ITEMS = list("abcd")
CATALOG = Catalog(ITEMS, ITEMS, ITEMS)
NAN = float("nan")


def read(folder: Path, ids: list[Any], vectors: Any, column: str = "image", **options: Any) -> tuple[ItemVectors, Any]:
    path = folder / "vectors.parquet"
    pl.DataFrame({"item": ids, column: vectors}).write_parquet(path)
    return read_vectors("image", path, CATALOG, **options)


@pytest.mark.parametrize(
    "vectors",
    [
        [[1.0, 2.0], [3.0, 4.0]],
        pl.Series([[1, 2], [3, 4]]),
        pl.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pl.Array(pl.Float32, 2)),
    ],
    ids=["lists", "whole-numbers", "arrays"],
)
def test_vectors_are_in_catalog_order_and_items_without_one_have_zeros(tmp_path: Path, vectors: Any) -> None:
    found, bad = read(tmp_path, ["d", "b"], vectors)
    assert found.vector.tolist() == [[0, 0], [3, 4], [0, 0], [1, 2]]
    assert found.is_present.tolist() == [False, True, False, True]
    assert (found.width, found.items, bad.messages) == (2, 2, ["2 of 4 items have a vector of 2 numbers"])


def test_vectors_are_read_from_an_archive_of_arrays(tmp_path: Path) -> None:
    for ids in (np.array(["d", "b"]), np.array([b"d", b"b"])):
        np.savez(tmp_path / "vectors.npz", item=ids, vector=np.array([[1, 2], [3, 4]], dtype=np.float64))
        found, _ = read_vectors("image", tmp_path / "vectors.npz", CATALOG)
        if ids.dtype.kind == "U":
            assert found.vector.tolist() == [[0, 0], [3, 4], [0, 0], [1, 2]]


def test_vectors_are_read_from_the_only_column_of_lists_or_that_of_the_name(tmp_path: Path) -> None:
    found, _ = read(tmp_path, ["a", "b"], [[1.0], [2.0]], column="embedding")
    assert found.vector[:2].tolist() == [[1], [2]]
    path = tmp_path / "both.parquet"
    pl.DataFrame({"item": ["a", "b"], "image": [[1.0], [2.0]], "audio": [[3.0], [4.0]]}).write_parquet(path)
    assert read_vectors("audio", path, CATALOG)[0].vector[:2].tolist() == [[3], [4]]
    with pytest.raises(
        DataError, match=r"both\.parquet: columns of lists of numbers: got 2 \(image, audio\); expected"
    ):
        read_vectors("graph", path, CATALOG)


def test_rows_are_ignored_and_told_when_few_are_bad(tmp_path: Path) -> None:
    ids = ["a", "b", "a", "c", "d", None]
    vectors = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0], [NAN, 0.0], [1.0, 1.0]]
    found, bad = read(tmp_path, ids, vectors, max_bad_rows=0.9)
    assert found.is_present.tolist() == [True, True, False, False]
    assert found.vector[0].tolist() == [1, 0]
    assert bad.reasons == {
        "no item id": [6],
        "an item id that an earlier row has": [3],
        "a vector of another length than 2": [4],
        "a vector with NaN, null or an infinite number": [5],
    }
    with pytest.raises(DataError, match=r"row 3 'a'\).*row 4 '\[1\.0\]'.*row 5 '\[nan, 0\.0\]'.*\(--max-bad-rows\)"):
        read(tmp_path, ids, vectors)


@pytest.mark.parametrize("number", [NAN, float("inf"), 1e300, None])
def test_vector_is_bad_when_a_number_is_not_finite(tmp_path: Path, number: float | None) -> None:
    found, bad = read(tmp_path, ITEMS, [[1.0], [2.0], [3.0], [number]], max_bad_rows=0.5)
    assert found.items == 3
    assert list(bad.reasons.values()) == [[4]]


def test_items_are_without_vector_when_theirs_is_null_empty_or_zero(tmp_path: Path) -> None:
    found, bad = read(tmp_path, [*ITEMS, "x", "a"], [None, [0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], []])
    assert found.is_present.tolist() == [False, False, True, True]
    assert not bad.count
    assert bad.notes == [
        "1 vectors of items that the catalog lacks are ignored (row 5 'x')",
        "1 vectors of zeros count as missing (row 2 'b')",
        "2 of 4 items have a vector of 2 numbers",
    ]


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        ([" A", "x"], [[1.0], [2.0]], r"row 1, column item: got ' A', and no id .* expected ids of the catalog: 'a'"),
        (["x", "y"], [[1.0], [2.0]], "expected ids of the catalog, such as 'a'"),
        (ITEMS, [[1.0]] * 4, "got the same vector for all 4 items; expected vectors that tell items apart"),
        (ITEMS, [[0.0]] * 4, "got zeros for all items"),
        (ITEMS, pl.Series([None] * 4, dtype=pl.List(pl.Float32)), "column image: got no vector in 4 rows"),
        (ITEMS, list("wxyz"), "column image: got the type String with values such as 'w'; expected lists of numbers"),
        (ITEMS, [["w"]] * 4, r"column image: got the type List\(String\)"),
    ],
    ids=["near", "unknown", "constant", "zeros", "nulls", "text", "lists-of-text"],
)
def test_file_is_refused_when_it_says_nothing_of_the_items(
    tmp_path: Path, ids: list[str], vectors: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, ids, vectors)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"v": np.eye(2)}, r"got the arrays v \[2, 2\]; expected two: ids \[rows\] and vectors \[rows, width\]"),
        ({"i": np.array(["a", "b", "c"]), "v": np.eye(2)}, r"got the arrays i \[3\], v \[2, 2\]"),
        ({"i": np.array([1.5, 2.5]), "v": np.eye(2)}, "got ids of type float64"),
        ({"i": np.array(["a", None], dtype=object), "v": np.eye(2)}, r"allow_pickle=False.*ids\.astype\(str\)"),
    ],
    ids=["no-ids", "lengths", "fractions", "objects"],
)
def test_archive_is_refused_when_its_arrays_are_not_ids_and_vectors(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "vectors.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_vectors("image", tmp_path / "vectors.npz", CATALOG)


def test_file_is_refused_when_it_is_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "vectors.csv").write_text("item,image\na,1\n")
    (tmp_path / "vectors.npz").write_text("no archive")
    for name, message in (("csv", "which has no lists of numbers"), ("npz", "cannot be read"), ("parquet", "no such")):
        with pytest.raises(DataError, match=message):
            read_vectors("image", tmp_path / f"vectors.{name}", CATALOG)
    with pytest.raises(DataError, match="no such file"):
        read_vectors("image", tmp_path / "other.npz", CATALOG)


def test_names_and_files_are_parsed() -> None:
    assert parse_vectors(["image=a=b.parquet", "kg_2=s3://x/y.parquet"]) == {
        "image": "a=b.parquet",
        "kg_2": "s3://x/y.parquet",
    }


@pytest.mark.parametrize("given", [["image"], ["image="], ["=a"], ["text=a"], ["residual=a"], ["Image=a"], ["a=b"] * 2])
def test_names_and_files_are_refused_when_a_name_cannot_be_used(given: list[str]) -> None:
    with pytest.raises(DataError, match=r"vectors: got .*\(--vectors\)"):
        parse_vectors(given)
