"""Catalogs, and the texts that templates make of their rows."""

import polars as pl
import pytest

from ebbtide.data import tables
from ebbtide.data.bad_rows import BadRows
from ebbtide.data.catalog import catalog_of_events, read_catalog, read_catalog_pieces
from ebbtide.data.errors import DataError

CSV = """id,title,year,genres
1,Toy Story,1995,Adventure|Animation
2,,,
3,Heat,,Action
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "items.csv").write_text(CSV)
    return tmp_path / "items.csv"


def test_catalog_fills_templates_and_leaves_no_empty_brackets_when_values_are_missing(path):
    catalog, bad = read_catalog(path, "id", "{title} ({year}). {genres}", "{title} ({year})")
    assert bad.count == 0
    assert catalog.text == ["Toy Story (1995). Adventure|Animation", "2", "Heat. Action"]
    assert catalog.title == ["Toy Story (1995)", "2", "Heat"]
    assert catalog.index == {"1": 0, "2": 1, "3": 2}


def test_catalog_reports_rows_without_id_and_repeated_ids(tmp_path):
    (tmp_path / "items.csv").write_text("id,text\n1,a\n,b\n1,c\n2,d\n")
    catalog, bad = read_catalog(tmp_path / "items.csv", "id", max_bad_rows=0.5)
    assert catalog.item_id == ["1", "2"]
    assert bad.reasons == {"no item id": [3], "an item id that an earlier row has": [4]}
    with pytest.raises(DataError, match="2 of 4 rows"):
        read_catalog(tmp_path / "items.csv", "id")


@pytest.mark.parametrize(("template", "message"), [("{plot}", "no column 'plot'"), ("title", "at least one {column}")])
def test_catalog_is_refused_when_a_template_does_not_fit(path, template, message):
    with pytest.raises(DataError, match=message):
        read_catalog(path, "id", template)


def test_catalog_of_events_describes_items_by_their_ids():
    catalog = catalog_of_events(pl.Series(["b", "a", "b"]))
    assert catalog.item_id == catalog.text == ["a", "b"]


@pytest.mark.parametrize("template", ["{title", "{}", "{title} }", "{title}{"])
def test_catalog_is_refused_when_a_brace_encloses_no_column(path, template):
    with pytest.raises(DataError, match=r"template: got .*\{"):
        read_catalog(path, "id", template)
    with pytest.raises(DataError, match=r"title template: got"):
        read_catalog(path, "id", "{title}", template)


def test_catalog_fills_placeholders_whatever_the_name_of_the_column(tmp_path):
    (tmp_path / "items.csv").write_text("id,product name,meta-title,__line\n1,Lamp,Bright,9\n")
    catalog, _ = read_catalog(tmp_path / "items.csv", "id", "{product name}, {meta-title} {__line}", "{meta-title}")
    assert (catalog.text, catalog.title) == (["Lamp, Bright 9"], ["Bright"])
    with pytest.raises(DataError, match=r"no column 'meta-titel'; the file has id, product name, meta-title"):
        read_catalog(tmp_path / "items.csv", "id", "{product name}", "{meta-titel}")
    with pytest.raises(DataError, match="title template: got 'Lamp'"):
        read_catalog(tmp_path / "items.csv", "id", "{product name}", "Lamp")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_catalog_joins_the_values_of_a_list(tmp_path, suffix):
    table = pl.DataFrame({"item": ["1", "2"], "genres": [["a", "b"], None]})
    path = tmp_path / f"items{suffix}"
    table.write_parquet(path) if suffix == ".parquet" else table.write_ndjson(path)
    catalog, bad = read_catalog(path, "item", "{genres}")
    assert catalog.text == ["a, b", "2"]
    assert bad.notes == [
        f"1 items without text are described by their id ({'row' if suffix == '.parquet' else 'line'} 2)"
    ]


def test_catalog_keeps_the_sound_row_when_a_flawed_one_has_its_id(tmp_path):
    (tmp_path / "items.csv").write_text("id,text\n1,a,b\n1,c\nNULL,d\n")
    catalog, bad = read_catalog(tmp_path / "items.csv", "id", max_bad_rows=0.9)
    assert (catalog.item_id, catalog.text) == (["1"], ["c"])
    assert bad.reasons == {"more fields than the header": [2], "no item id": [4]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pl.Series([{"a": 1}]), r"column text: got the type Struct\("),
        (pl.Series([[b"\xff"]]), r"column text: got the type List\(Binary\)"),
        (pl.Series([[["a"]]]), r"column text: got the type List\(List\(String\)\) with values such as \"\[\['a'\]\]\""),
        (pl.Series([1]).cast(pl.Duration("ms")), "column text: got the type Duration"),
        (
            pl.Series([2**61]).cast(pl.Datetime("ms")),
            "row 1, column text: .*a date between the years 1 and 9999",
        ),
    ],
    ids=["struct", "list-of-binary", "list-of-lists", "duration", "no-date"],
)
def test_catalog_is_refused_when_a_column_of_a_template_is_no_text(tmp_path, values, message):
    pl.DataFrame({"item": ["1"], "text": values}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(DataError, match=message):
        read_catalog(tmp_path / "items.parquet")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_pieces_are_the_catalog_when_it_is_read_piece_by_piece(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(tables, "PIECE_ROWS", 3)
    monkeypatch.setattr(tables, "PIECE_BYTES", 40)
    path = tmp_path / f"catalog{suffix}"
    ids = ["a", "b", None, "c", "a", "d", "4.00638E+12", "e", "e", "b", "f"]
    frame = pl.DataFrame({"sku": ids, "name": [None if item == "c" else f"the {item}" for item in ids]})
    {".parquet": frame.write_parquet, ".csv": frame.write_csv, ".jsonl": frame.write_ndjson}[suffix](path)
    catalog, expected = read_catalog(path, "sku", "{name}", max_bad_rows=1)
    pieces = list(read_catalog_pieces(path, "sku", "{name}"))
    assert len(pieces) > 2
    found = pl.concat([frame for frame, _ in pieces])
    assert (found["item"].to_list(), found["text"].to_list()) == (catalog.item_id, catalog.text)
    bad = BadRows(rows=0)
    for _, of_piece in pieces:
        bad.extend(of_piece)
    assert bad.reasons == expected.reasons
    assert bad.rows == expected.rows == len(ids)
