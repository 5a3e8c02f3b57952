"""Rows of `ebbtide items`: an id that is missing, or a stock that is no number, is refused with its line."""

import io

import pytest

from ebbtide.cli import items
from ebbtide.cli.errors import CommandError
from ebbtide.data.errors import DataError

MISSING = ["", "NULL", "nan", "\\N"]


def columns(**changes):
    given = {
        "item_column": "item_id",
        "text_template": "{text}",
        "title_template": None,
        "attributes": [],
        "separator": "|",
        "encoding": None,
        "max_bad_rows": None,
    }
    return items._Columns(**(given | changes))


@pytest.mark.parametrize("missing", MISSING)
def test_stock_of_a_row_without_an_item_is_refused(tmp_path, missing):
    (tmp_path / "stock.csv").write_text(f"sku,left\n007,0\n{missing},37\n")
    with pytest.raises(CommandError, match=r"stock.csv: line 3: got item id .*; expected the id of an item"):
        list(items._stock_of_file(str(tmp_path / "stock.csv"), None, "sku", "left"))


@pytest.mark.parametrize("value", ["nan", "NaN", "ja", ""])
def test_stock_that_is_no_number_is_refused_before_any_row_is_sent(tmp_path, value):
    rows = "".join(f"{number},1\n" for number in range(5_000))
    (tmp_path / "stock.csv").write_text(f"sku,left\n{rows}9,{value}\n")
    with pytest.raises(CommandError, match=r"stock.csv: line 5002: got stock .*; expected true, false or how many"):
        next(items._stock_of_file(str(tmp_path / "stock.csv"), None, "sku", "left"))


def test_stock_keeps_ids_as_they_are_written(tmp_path):
    (tmp_path / "stock.csv").write_text("sku,left\n007,0\n7,3\n")
    (found,) = items._stock_of_file(str(tmp_path / "stock.csv"), None, "sku", "left")
    assert found == {"007": False, "7": True}


@pytest.mark.parametrize("written", ["null", '""', '"NULL"', "NaN", "true", "7.0", '["a"]'])
def test_line_without_an_item_id_is_refused(monkeypatch, written):
    line = f'{{"item_id": {written}, "text": "A film", "in_stock": true}}\n'
    for read in (columns().of_input, lambda: items._stock_of_input("item_id", "in_stock")):
        monkeypatch.setattr("sys.stdin", io.StringIO(line))
        with pytest.raises(CommandError, match=r"standard input: line 1: got item id .*; expected the id of an item"):
            list(read())


def test_share_of_bad_rows_may_be_given_for_a_short_file(tmp_path):
    (tmp_path / "new.csv").write_text("item_id,text\na,A film\na,Again\nb,B film\n")
    with pytest.raises(DataError, match=r"1 of 3 rows ignored.*allowed \(--max-bad-rows\)"):
        list(columns().of_file(str(tmp_path / "new.csv")))
    (found,) = columns(max_bad_rows=0.5).of_file(str(tmp_path / "new.csv"))
    assert [one.item_id for one in found] == ["a", "b"]
