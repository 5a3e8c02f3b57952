"""Item attributes of a catalog become bits that requests can filter by; invalid attributes are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ebbtide.data.errors import DataError
from ebbtide.export.attributes import MAX_VALUES, CatalogAttributes, read_attributes
from ebbtide.export.errors import AttributesError
from ebbtide.export.options import ExportOptions
from ebbtide.interest.keys import item_key
from ebbtide.interest.numbers import numbers_of
from ebbtide.train.bundle import InterestBundle

ITEMS = ["a", "b", "c", "d"]


def written(folder: Path, **columns: object) -> Path:
    pl.DataFrame({"id": ["b", "a", "x", "c"], **columns}).write_parquet(folder / "items.parquet")
    return folder / "items.parquet"


def read(path: Path, *columns: str, **choices: Any) -> CatalogAttributes:
    return read_attributes(path, columns, ITEMS, item_column="id", **choices)


def holders(found: CatalogAttributes, condition: str) -> list[str]:
    """The items with a value, read back from the bits."""
    index = int(np.flatnonzero(found.key == item_key(condition))[0])
    word, bit = divmod(int(found.bit[index]), 64)
    words = found.items.words[:, found.items.columns[found.column[index]][0] + word].view(np.uint64)
    return [item for item, value in zip(ITEMS, words.tolist(), strict=True) if value >> bit & 1]


@pytest.mark.parametrize(
    "genres",
    [["War|Drama", "War", "Western", " Drama |"], [["War", "Drama"], ["War"], ["Western"], ["Drama", None]]],
    ids=["text with separators", "lists"],
)
def test_items_have_the_values_of_their_rows_when_they_have_several(tmp_path: Path, genres: list[object]) -> None:
    found = read(written(tmp_path, genre=genres), "genre")
    # Western is of an item that the catalog lacks.
    assert found.values == {"genre": ("Drama", "War")}
    assert holders(found, "genre=War") == ["a", "b"]
    assert holders(found, "genre=Drama") == ["b", "c"]


def test_items_have_the_first_bit_of_every_column_when_they_have_no_value(tmp_path: Path) -> None:
    path = written(tmp_path, genre=["War", None, "War", "War"], stock=[True, False, None, None])
    found = read(path, "genre", "stock")
    assert found.values == {"genre": ("War",), "stock": ("false", "true")}
    assert ((found.items.words & 1) == 1).all()
    assert holders(found, "stock=true") == ["b"]
    assert holders(found, "genre=War") == ["b", "c"]


def test_text_is_one_value_when_the_separator_is_empty(tmp_path: Path) -> None:
    found = read(written(tmp_path, genre=["War|Drama", "War", "x", "War"]), "genre", separator="")
    assert found.values == {"genre": ("War", "War|Drama")}


def test_values_reach_into_more_words_when_there_are_many(tmp_path: Path) -> None:
    many = [[f"tag {number:03}" for number in range(130)], ["tag 129"], ["x"], ["tag 062", "tag 063"]]
    found = read(written(tmp_path, tag=many, year=[1990, 1991, 1992, 1990]), "tag", "year")
    assert found.items.columns == ((0, 3), (3, 4))
    assert holders(found, "tag=tag 129") == ["a", "b"]
    assert holders(found, "tag=tag 062") == holders(found, "tag=tag 063") == ["b", "c"]
    assert holders(found, "year=1990") == ["b", "c"]


def test_attributes_are_the_same_when_read_from_csv(tmp_path: Path) -> None:
    path = written(tmp_path, genre=["War|Drama", "War", "x", ""])
    pl.read_parquet(path).write_csv(tmp_path / "items.csv")
    assert read(tmp_path / "items.csv", "genre").digest == read(path, "genre").digest


def test_attributes_are_refused_when_nothing_can_be_filtered_by(tmp_path: Path) -> None:
    path = written(tmp_path, genre=["", None, "War", "|"])
    with pytest.raises(AttributesError, match=r"column genre: got no value"):
        read(path, "genre")
    with pytest.raises(DataError, match=r"no column 'color'"):
        read(path, "color")
    with pytest.raises(AttributesError, match=r"got no item of the catalog in column genre; expected ids such as a, b"):
        read_attributes(path, ["id"], ITEMS, item_column="genre")


def test_attributes_are_refused_when_there_are_too_many_values(tmp_path: Path) -> None:
    titles = [[str(number) for number in range(MAX_VALUES + 1)], ["0"], ["0"], ["0"]]
    with pytest.raises(AttributesError, match=rf"got {MAX_VALUES + 1} values .* of title\); expected at most"):
        read(written(tmp_path, title=titles), "title")


def test_fingerprint_is_another_when_an_item_has_another_value(tmp_path: Path, bundle: InterestBundle) -> None:
    one = read(written(tmp_path, genre=["War", "Drama", "x", "War"]), "genre")
    other = read(written(tmp_path, genre=["War", "Drama", "x", "Drama"]), "genre")
    assert len({ExportOptions().fingerprint(bundle, which) for which in (None, one, other)}) == 3


@pytest.mark.parametrize("prices", [[19.99, -0.0, 3, None], ["19.99", " -0 ", "3", ""]], ids=["numbers", "texts"])
def test_items_have_the_numbers_of_their_rows_when_a_column_is_numeric(tmp_path: Path, prices: list[Any]) -> None:
    path = written(tmp_path, genre=["War", "War", "x", "War"], price=pl.Series(prices, strict=False))
    found = read(path, "genre", numeric=["price"])
    assert found.values == {"genre": ("War",)}
    assert found.numbers == ("price",)
    assert found.items.columns == ((0, 1), (1, 4))
    assert found.number_ranges == {"price": (0, 19.99)}
    np.testing.assert_array_equal(numbers_of(found.items.words[:, 2]), [0, 19.99, np.nan, np.nan])
    assert (found.items.words[:, 1] == 1).all()
    assert read(path, numeric=["price"]).digest != found.digest != read(path, "genre").digest


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        (["1", "cheap", "2", "3"], "got 'cheap'; expected numbers"),
        (["988,87", "1", "2", "3"], "got '988,87'; expected numbers: write a point in place of the decimal comma"),
        (["1.149,05", "1", "2", "3"], "got '1.149,05'; expected numbers: write a point in place of the decimal comma"),
        ([1.0, float("inf"), 2.0, 3.0], "got an infinite number"),
        ([None, float("nan"), 2.0, None], "got no number"),
        ([[1.0], [2.0], [3.0], [4.0]], r"got List\(Float64\); expected numbers"),
        ([True, False, True, None], "got Boolean; expected numbers: name it with --attribute-col"),
    ],
)
def test_numbers_are_refused_when_a_column_has_something_else(tmp_path: Path, prices: list[Any], message: str) -> None:
    with pytest.raises(AttributesError, match=rf"column price: {message}"):
        read(written(tmp_path, price=prices), numeric=["price"])


def test_numbers_are_refused_when_an_item_has_two_or_the_column_has_values_too(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    pl.DataFrame({"id": ["a", "a", "b"], "price": [2.0, 1.5, 3.0]}).write_parquet(path)
    with pytest.raises(AttributesError, match=r"column price: got 1\.5 and 2 of one item"):
        read(path, numeric=["price"])
    with pytest.raises(AttributesError, match=r"column price: got it with values and as a numeric column"):
        read(path, "price", numeric=["price"])
