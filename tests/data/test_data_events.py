"""Event logs of every format, and rows that cannot be used."""

import json
from datetime import datetime, timezone

import polars as pl
import pytest

from ebbtide.cli.training_display import TrainingDisplay
from ebbtide.data import tables
from ebbtide.data.dataset import DataReference, read_dataset
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventColumns, build_log, read_event_pieces, read_events, refuse_bad_rows

ROWS = [("u2", "a", 1_260_759_108, 2.0), ("u1", "b", 1_260_759_109, 3.5), ("u2", "b", 1_260_759_108, 1.0)]
COLUMNS = EventColumns(user="who", item="what", time="when", weight="stars")


def frame(times=None):
    times = [row[2] for row in ROWS] if times is None else times
    return pl.DataFrame(
        {"who": [r[0] for r in ROWS], "what": [r[1] for r in ROWS], "when": times, "stars": [r[3] for r in ROWS]}
    )


def write(folder, table, suffix):
    path = folder / f"log{suffix}"
    if suffix == ".parquet":
        table.write_parquet(path)
    elif suffix in {".csv", ".tsv"}:
        table.write_csv(path, separator="\t" if suffix == ".tsv" else ",")
    else:
        table.write_ndjson(path)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl", ".ndjson"])
def test_read_events_gives_the_same_whatever_the_format(tmp_path, suffix):
    read, bad = read_events(write(tmp_path, frame(), suffix), COLUMNS)
    assert bad.count == 0
    assert read.rows() == [(user, item, time * 1000, weight) for user, item, time, weight in ROWS]


TIMESTAMPS = [datetime(2009, 12, 14, 2, 51, 48 + second, tzinfo=timezone.utc) for second in (0, 1, 0)]


@pytest.mark.parametrize(
    "times",
    [
        [row[2] for row in ROWS],
        [row[2] * 1000 for row in ROWS],
        [float(row[2]) for row in ROWS],
        TIMESTAMPS,
        [timestamp.replace(tzinfo=None) for timestamp in TIMESTAMPS],
        [timestamp.isoformat() for timestamp in TIMESTAMPS],
        [timestamp.strftime("%Y-%m-%d %H:%M:%S") for timestamp in TIMESTAMPS],
        [timestamp.strftime("%Y-%m-%dT%H:%M:%SZ") for timestamp in TIMESTAMPS],
    ],
    ids=["s", "ms", "float", "utc", "naive", "iso-offset", "iso-space", "iso-z"],
)
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_read_events_understands_every_way_to_write_a_time(tmp_path, times, suffix):
    read, _ = read_events(write(tmp_path, frame(times), suffix), COLUMNS)
    assert read["time_ms"].to_list() == [row[2] * 1000 for row in ROWS]


BAD_CSV = """who,what,when,stars
u1,a,1260759108,1
,a,1260759108,1
u1,,1260759108,1
u1,a,yesterday,1
u1,a,1260759108,-2
u1,a,1260759108,many
u1,z,1260759108,1
u1,a,-5,1
u1
"""


def test_read_events_reports_line_and_reason_when_rows_are_bad(tmp_path):
    (tmp_path / "log.csv").write_text(BAD_CSV)
    read, bad = read_events(tmp_path / "log.csv", COLUMNS, {"a": 0}, max_bad_rows=1.0)
    assert read.height == 1
    assert bad.count == 8
    lines = {line: reason for reason, found in bad.reasons.items() for line in found}
    assert lines == {
        3: "no user",
        4: "no item",
        5: "an unreadable time",
        6: "a weight that is not a finite number of 0 or more",
        7: "a weight that is not a finite number of 0 or more",
        8: "an item that is not in the catalog",
        9: "a time before 1970",
        10: "fewer fields than the header",
    }
    assert "(column stars: line 6 '-2', line 7 'many')" in str(bad)


def test_read_events_is_refused_when_more_rows_are_bad_than_allowed(tmp_path):
    (tmp_path / "log.csv").write_text(BAD_CSV)
    with pytest.raises(DataError, match=r"8 of 9 rows ignored.*no user \(column who: line 3\).*than the 50.0%"):
        read_events(tmp_path / "log.csv", COLUMNS, {"a": 0}, max_bad_rows=0.5)


def test_read_events_counts_lines_that_are_no_json_when_the_format_is_json_lines(tmp_path):
    good = json.dumps({"who": 1, "what": 2, "when": 1_260_759_108, "stars": 1})
    (tmp_path / "log.jsonl").write_text(f"{good}\n{{broken\n[1]\n{good}\n")
    read, bad = read_events(tmp_path / "log.jsonl", COLUMNS, max_bad_rows=1.0)
    assert read["user"].to_list() == ["1", "1"]
    assert bad.reasons == {"text that is not a JSON object": [2, 3]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", "who,what\n1,2\n", "no column 'when'; the file has who, what"),
        ("log.jsonl", '{"who": 1}\n', "no line has the key 'what'; keys seen: who"),
        ("log.xlsx", "", "expected .parquet, .csv"),
        ("log.csv", "who,what,when,stars\n", "no usable event"),
    ],
)
def test_read_events_says_what_is_wrong_when_a_file_cannot_be_used(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_events(tmp_path / name, COLUMNS)


def test_read_events_says_so_when_there_is_no_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_events(tmp_path / "log.csv", COLUMNS)


def test_log_orders_by_user_time_and_place_in_the_file(tmp_path):
    read, _ = read_events(write(tmp_path, frame(), ".csv"), COLUMNS)
    log = build_log(read, {"a": 0, "b": 1})
    assert log.users == ["u1", "u2"]
    assert log.start.tolist() == [0, 1, 3]
    assert log.item.tolist() == [1, 0, 1]
    assert log.of_user("u2") == slice(1, 3)
    with pytest.raises(DataError, match="'u3'"):
        log.of_user("u3")


def test_log_of_the_shipped_data_is_complete(movielens):
    read, bad = read_events(
        movielens / "ratings.parquet", EventColumns(user="userId", item="movieId", time="timestamp", weight="rating")
    )
    assert (read.height, bad.count) == (100_004, 0)
    assert read["user"].n_unique() == 671


@pytest.mark.parametrize(
    "word",
    ["NULL", "None", "nan", "\\N", "<NA>", " ", "NONE ", "N/A", "#N/A", "#REF!", "undefined", "(null)", "NaT"],
)
def test_ids_are_missing_when_they_are_a_word_for_null(tmp_path, word):
    (tmp_path / "log.csv").write_text(f"user,item,time\n1,a,1260759108\n{word},a,1260759108\n1,{word},1260759108\n")
    read, bad = read_events(tmp_path / "log.csv", EventColumns(), max_bad_rows=0.9)
    assert read["user"].to_list() == ["1"]
    assert bad.reasons == {"no user": [3], "no item": [4]}
    assert f"no user (column user: line 3 '{word}')" in str(bad)


@pytest.mark.parametrize("name", ["Nullsson", "nano", "none-1", "N", "NA", "0", "#1", "1E5"])
def test_ids_stay_when_they_only_look_like_a_word_for_null(tmp_path, name):
    (tmp_path / "log.csv").write_text(f"user,item,time\n{name},a,1260759108\n")
    assert read_events(tmp_path / "log.csv", EventColumns())[0]["user"].to_list() == [name]


@pytest.mark.parametrize("column", ["user", "item"])
def test_ids_are_bad_when_a_spreadsheet_has_rounded_them(tmp_path, column):
    row = {"user": "1", "item": "a", column: "4.00638E+12"}
    (tmp_path / "log.csv").write_text(f"user,item,time\n1,a,1260759108\n{row['user']},{row['item']},1260759109\n")
    read, bad = read_events(tmp_path / "log.csv", EventColumns(), max_bad_rows=0.9)
    assert read.height == 1
    assert f"lost its last digits in a spreadsheet (column {column}: line 3 '4.00638E+12'); export the" in str(bad)


@pytest.mark.parametrize(
    ("logged", "known", "words"),
    [
        ("cafe\u0301", "caf\u00e9", r"the catalog has 'caf\xe9' for 'cafe\u0301'"),
        ("i1", "i1\u200b", r"the catalog has 'i1\u200b' for 'i1'"),
    ],
)
def test_both_forms_of_an_id_are_spelt_out_when_they_look_alike(tmp_path, logged, known, words):
    (tmp_path / "log.csv").write_text(f"user,item,time\n1,{logged},1260759108\n1,b,1260759109\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_events(tmp_path / "log.csv", EventColumns(), {"b": 0, known: 1})
    assert words in str(caught.value)


def test_user_with_a_large_share_of_the_events_is_told(tmp_path):
    rows = [("0" if event % 4 == 0 else f"u{event % 17}", "a", 1_260_759_108 + event) for event in range(200)]
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv(tmp_path / "log.csv")
    read, bad = read_events(tmp_path / "log.csv", EventColumns())
    assert read.height == 200
    assert bad.notes == [
        "user '0' has 50 of 200 events: if this id stands for users without one, leave them out",
    ]


@pytest.mark.parametrize(
    ("weight", "hint"),
    [
        ('"4,5"', "a point in place of the decimal comma"),
        ("-1", "leave returns and cancellations"),
        ("True", "write 1 and 0 for true and false"),
    ],
)
def test_weights_are_refused_with_what_to_do(tmp_path, weight, hint):
    (tmp_path / "log.csv").write_text(f"user,item,time,w\n1,a,1260759108,1\n1,a,1260759109,{weight}\n")
    with pytest.raises(DataError, match=f"not a finite number of 0 or more.*{hint}"):
        read_events(tmp_path / "log.csv", EventColumns(weight="w"))


@pytest.mark.parametrize(("logged", "known"), [("7", "007"), ("7.0", "7"), ("7", "7.0"), (" a", "a"), ("SKU1", "sku1")])
def test_both_forms_of_an_id_are_named_when_the_catalog_writes_it_otherwise(tmp_path, logged, known):
    (tmp_path / "log.csv").write_text(f"user,item,time\n1,{logged},1260759108\n1,b,1260759109\n")
    with pytest.raises(DataError, match=f"line 2 '{logged}'.; the catalog has '{known}' for '{logged}': write the ids"):
        read_events(tmp_path / "log.csv", EventColumns(), {"b": 0, known: 1})


def test_copies_of_an_event_are_told_and_kept(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,time\n1,a,1260759108\n1,b,1260759109\n1,a,1260759108\n")
    read, bad = read_events(tmp_path / "log.csv", EventColumns())
    assert (read.height, bad.count) == (3, 0)
    assert bad.messages == ["1 exact copies of an earlier event are kept (line 4)"]


def test_events_are_refused_when_one_column_is_named_twice(tmp_path):
    with pytest.raises(DataError, match="got 'user' for two of user, item, time, weight and event type"):
        read_events(tmp_path / "log.csv", EventColumns(item="user"))


def test_weights_are_refused_when_their_type_is_no_number(tmp_path):
    table = frame().with_columns(stars=pl.lit(datetime(2024, 1, 1)))
    with pytest.raises(DataError, match="column stars: got the type Datetime"):
        read_events(write(tmp_path, table, ".parquet"), COLUMNS)
    truths = frame().with_columns(stars=pl.Series([True, False, True]))
    with pytest.raises(DataError, match=r"column stars: got the type Boolean .*such as 1 and 0"):
        read_events(write(tmp_path, truths, ".parquet"), COLUMNS)
    categorical = frame().with_columns(stars=pl.Series(["2", "3.5", "1"], dtype=pl.Categorical))
    assert read_events(write(tmp_path, categorical, ".parquet"), COLUMNS)[0]["weight"].to_list() == [2.0, 3.5, 1.0]


def reference(folder, **changes):
    settings = {
        "events": str(folder / "log.csv"),
        "catalog": str(folder / "items.csv"),
        "user_column": "user",
        "item_column": "item",
        "time_column": "time",
        "weight_column": None,
        "catalog_item_column": "item",
        "text_template": "{text}",
        "title_template": None,
        "max_bad_rows": 0.01,
        "holdout": "none",
    }
    return DataReference(**(settings | changes))


def test_dataset_tells_its_period_and_the_items_without_events(tmp_path):
    (tmp_path / "items.csv").write_text("item,text\na,A\nb,B\nc,C\n")
    (tmp_path / "log.csv").write_text("user,item,time\n1,a,2010-12-01\n1,b,2011-06-26T23:59:59\n")
    data = read_dataset(reference(tmp_path))
    assert data.log.period == "2010-12-01 to 2011-06-26"
    assert data.bad_items.messages == ["1 of 3 items have no event"]


def test_dataset_is_refused_when_all_events_have_one_time(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,time\n1,a,2010-12-01\n1,b,2010-12-01\n")
    with pytest.raises(DataError, match="column time: got the same time for all 2 events"):
        read_dataset(reference(tmp_path, catalog=None))


def test_training_prints_the_period_and_what_the_readers_tell(tmp_path, capsys):
    (tmp_path / "items.csv").write_text("item,text\na,A\nb,\nc,C\n")
    rows = ["1,a,2010-12-01", "1,b,2011-06-26", "1,b,2011-06-26", "NULL,a,2011-06-26"]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    with TrainingDisplay() as display:
        display.data_read(read_dataset(reference(tmp_path, max_bad_rows=0.5)))
    printed = " ".join(capsys.readouterr().out.split())
    assert "read 3 events of 1 users on 3 items, 2010-12-01 to 2011-06-26" in printed
    for message in (
        "events: 1 of 4 rows ignored: 1 with no user (column user: line 5 'NULL')",
        "events: 1 exact copies of an earlier event are kept (line 4)",
        "catalog: 1 items without text are described by their id (line 3)",
        "catalog: 1 of 3 items have no event",
    ):
        assert message in printed


NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_pieces_of_a_log_are_the_whole(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(tables, "PIECE_ROWS", 2)
    monkeypatch.setattr(tables, "PIECE_BYTES", 60)
    path = write(tmp_path, pl.concat([frame(), frame([0, 12, 1_260_759_110])]), suffix)
    pieces = list(read_event_pieces(path, COLUMNS, latest_ms=NOW_MS))
    whole, _ = read_events(path, COLUMNS, max_bad_rows=1)
    assert len(pieces) > 1
    assert pl.concat([read for read, _ in pieces]).equals(whole)
    bad = pieces[0][1]
    for _, later in pieces[1:]:
        bad.extend(later)
    assert (bad.rows, bad.count) == (6, 2)
    with pytest.raises(DataError, match=r"2 of 6 rows ignored.*more than the 1.0% allowed"):
        refuse_bad_rows(path, bad, 0.01)


def test_times_of_all_pieces_are_in_the_unit_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "PIECE_ROWS", 3)
    seconds, milliseconds = frame(), frame([time * 1000 for _, _, time, _ in ROWS])
    path = write(tmp_path, pl.concat([seconds, milliseconds]), ".parquet")
    (_, bad), (read, later) = read_event_pieces(path, COLUMNS, latest_ms=NOW_MS)
    assert (bad.count, read.height) == (0, 0)
    assert later.reasons == {"a time in ms among times in s": [4, 5, 6]}


def test_pieces_have_event_ids_and_no_events_of_tomorrow(tmp_path):
    table = frame([NOW_MS, NOW_MS + 1, NOW_MS]).with_columns(pl.Series("id", ["a", "b", ""]), stars=pl.lit(1e16))
    table = pl.concat([table, frame([NOW_MS] * 3).with_columns(pl.Series("id", ["c", "d", "e"]))])
    columns = COLUMNS.model_copy(update={"weight": None})
    ((read, bad),) = read_event_pieces(write(tmp_path, table, ".parquet"), columns, "id", latest_ms=NOW_MS)
    assert read["event_id"].to_list() == ["a", "c", "d", "e"]
    assert bad.reasons == {"a time more than a day after now": [2], "no event id": [3]}
    ((read, bad),) = read_event_pieces(write(tmp_path, table, ".parquet"), COLUMNS, "id", latest_ms=NOW_MS)
    assert bad.reasons == {"a weight above 1e15": [1, 2, 3]}
    with pytest.raises(DataError, match="no usable event"):
        refuse_bad_rows("log", bad.__class__(3, {"no user": [1, 2, 3]}, {"no user": "line 1, 2, 3"}), 1)


def test_ids_that_are_all_floats_are_told(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,time\n17850.0,a,1260759108\n13047.0,7.0,1260759109\n")
    read, bad = read_events(tmp_path / "log.csv", EventColumns())
    assert read["user"].to_list() == ["17850.0", "13047.0"]
    (note,) = bad.notes
    assert note.startswith(
        "every id of column user is a number with .0, such as '17850.0': requests must name it so too"
    )


def test_a_frame_in_place_of_a_path_is_refused():
    with pytest.raises(DataError, match="table: got a DataFrame; expected the path of a file: write it first"):
        read_events(pl.DataFrame({"user": ["a"]}), EventColumns())


def test_log_is_refused_when_an_item_has_no_index_and_names_the_nearest_user():
    frame = pl.DataFrame({"user": ["5"], "item": ["b"], "time_ms": [7], "weight": [1.0]})
    with pytest.raises(DataError, match="item: got 1 events of items without an index, such as 'b'"):
        build_log(frame, {"a": 0})
    with pytest.raises(DataError, match="user: got 5; expected one of the log's 1 users, such as '5'"):
        build_log(frame, {"b": 0}).of_user(5)
