"""Item attributes of a catalog become bits that requests can filter by; invalid attributes are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ebbtide.data.errors import DataError
from ebbtide.export.attributes import MAX_VALUES, CatalogAttributes, read_attributes
from ebbtide.export.errors import AttributesError
from ebbtide.export.options import ExportOptions
from ebbtide.interest.keys import item_key
from ebbtide.train.bundle import InterestBundle

ITEMS = ["a", "b", "c", "d"]


def written(folder: Path, **columns: object) -> Path:
    pl.DataFrame({"id": ["b", "a", "x", "c"], **columns}).write_parquet(folder / "items.parquet")
    return folder / "items.parquet"


def read(path: Path, *columns: str, **choices: str) -> CatalogAttributes:
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
