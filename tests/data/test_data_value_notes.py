"""Values that are read as they stand and look like a fault are told; times and weights without meaning are refused."""

import polars as pl
import pytest

from ebbtide.data.bad_rows import BadRows
from ebbtide.data.catalog import read_catalog
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventColumns, read_event_pieces, read_events
from ebbtide.data.value_notes import note_script

SECOND = 1_700_000_000


def log_of(path, items, users=None, times=None, **more):
    rows = len(items)
    table = {"user": users or ["u"] * rows, "item": items, "time": times or [SECOND + row for row in range(rows)]}
    pl.DataFrame({**table, **more}).write_csv(path / "log.csv")
    return path / "log.csv"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("i0", "i0 "),
        ("i0", "i0\u00a0"),
        ("i0", "i0\u200b"),
        ("i0", "I0"),
        ("Zo\u00eb", "Zoe\u0308"),
        ("7", "007"),
        ("7", "7.0"),
    ],
)
def test_ids_of_a_log_that_look_alike_are_told(tmp_path, one, other):
    read, bad = read_events(log_of(tmp_path, [one, other, "b"]), EventColumns())
    assert read["item"].to_list() == [one, other, "b"]
    assert bad.notes == [
        f"1 ids of column item look like another one, such as {other!a} like {one!a}: if they are the same, "
        "write them as the same text"
    ]


def test_ids_of_a_catalog_that_look_alike_are_told_once(tmp_path):
    (tmp_path / "catalog.csv").write_text("item,text\na,A\nA,B\n")
    catalog, bad = read_catalog(tmp_path / "catalog.csv", "item", "{text}")
    assert "1 ids of column item look like another one" in bad.notes[0]
    _, bad = read_events(log_of(tmp_path, ["a", "A"]), EventColumns(), catalog.index)
    assert bad.notes == []


def test_event_types_that_look_alike_are_told(tmp_path):
    types = ["purchase", "Purchase", "view"]
    _, bad = read_events(log_of(tmp_path, ["a", "b", "c"], did=types), EventColumns(event_type="did"))
    assert bad.notes == [
        "1 event types of column did look like another one, such as 'Purchase' like 'purchase': if they are the same, "
        "write them as the same text"
    ]


def test_characters_that_were_lost_are_told_with_line_and_value(tmp_path):
    _, bad = read_events(log_of(tmp_path, ["Br\ufffdter", "b"]), EventColumns())
    (note,) = bad.notes
    assert note.startswith("1 values of column item have U+FFFD")
    assert "line 2" in note


def test_texts_that_say_nothing_are_told(tmp_path):
    (tmp_path / "catalog.csv").write_text("item,text,kind\na,NULL,x\nb,nan,x\nc,\ufffdl,x\n", encoding="utf-8")
    catalog, bad = read_catalog(tmp_path / "catalog.csv", "item", "{text}")
    assert catalog.text == ["NULL", "nan", "\ufffdl"]
    assert bad.notes[0] == (
        "2 values of column text are a word for a missing value, such as 'NULL' (line 2, 3): they are part of the "
        "texts; leave them empty"
    )
    assert bad.notes[1].startswith("1 values of column text have U+FFFD")
    _, bad = read_catalog(tmp_path / "catalog.csv", "item", "{kind}")
    assert bad.notes == ["all items have the text 'x': it says nothing of an item"]


@pytest.mark.parametrize("missing", ["1970-01-01 00:00:00", "1970-01-01T01:00:00+01:00", "1970-01-01"])
def test_event_is_ignored_when_its_time_is_the_start_of_unix_time(tmp_path, missing):
    path = log_of(tmp_path, ["a", "b"], times=["2024-01-01T00:00:00", missing])
    read, bad = read_events(path, EventColumns(), max_bad_rows=0.5)
    assert read["item"].to_list() == ["a"]
    assert bad.reasons == {"a time of 1970-01-01, which programs write for a missing one": [3]}


def test_weights_are_refused_when_all_are_zero_or_one_is_huge(tmp_path):
    columns = EventColumns(weight="w")
    with pytest.raises(DataError, match="column w: got weight 0 for all events"):
        read_events(log_of(tmp_path, ["a", "b"], w=[0, 0]), columns)
    path = log_of(tmp_path, ["a", "b"], w=[1.0, 1e30])
    with pytest.raises(DataError, match=r"1 with a weight above 1e15 .column w: line 3 '1e"):
        read_events(path, columns)
    ((read, bad),) = read_event_pieces(path, columns, latest_ms=2_000_000_000_000)
    assert (read.height, bad.count) == (1, 1)


def test_object_in_json_lines_is_named_with_its_column(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"user": "u", "item": "i", "time": {"$date": "2024-01-01T00:00:00Z"}}\n')
    with pytest.raises(DataError, match=r"1 with an object in 'time', where a text or a number is expected .line 1"):
        read_events(tmp_path / "log.jsonl", EventColumns())


@pytest.mark.parametrize(
    "texts",
    [
        ["寄生虫 (2019)", "霸王别姬", "Alien"],
        ["となりのトトロ", "ゴジラ", "東京物語"],
        ["Сталкер", "Зеркало (1975)", "Alien"],
        ["기생충", "올드보이", "7"],
        ["Ταξίδι στα Κύθηρα", "جدایی نادر از سیمین", "ביקור התזמורת"],
        ["पथेर पांचाली"],
    ],
)
def test_texts_in_another_script_are_told_once_with_an_example(texts):
    bad = BadRows(rows=len(texts))
    note_script(texts, bad)
    other = [text for text in texts if text not in ("Alien", "7")]
    assert bad.notes == [
        f"{len(other)} of {len(texts)} texts are not in Latin letters, such as {other[0]!r}: the packaged encoder "
        "reads English; name a multilingual one with --encoder"
    ]


@pytest.mark.parametrize(
    "texts",
    [
        ["Le fabuleux destin d'Amélie Poulain", "Les Quatre Cents Coups", "À bout de souffle"],
        ["Das Leben der Anderen", "Der Untergang, für Erwachsene", "Größenwahn"],
        ["Khi thì quá khứ đã ngủ yên", "Yabancı Damat", "Żywie Biełaruś!"],
        ["Spirited Away (千と千尋の神隠し)", "Parasite (기생충)", "Solaris (Солярис)"],
        ["α-Tocopherol 400 IE", "Ω-3 Öl", "µ-Meter"],
        ["寄生虫", "Alien", "Heat", "Ran"],
        ["寄生虫", "Alien"],
        ["7", "2001", "1984: 42", ""],
        ["ＴＯＫＹＯ　Ｄｒｉｆｔ"],
        [],
    ],
)
def test_texts_in_latin_letters_or_in_two_scripts_are_not_told(texts):
    bad = BadRows(rows=len(texts))
    note_script(texts, bad)
    assert bad.notes == []
