"""Event logs of every format, and rows that cannot be used."""

import json
from datetime import datetime, timezone

import polars as pl
import pytest

from ebbtide.data.errors import DataError
from ebbtide.data.events import EventColumns, build_log, read_events

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
        10: "no item",
    }
    assert "line 6, 7" in str(bad)


def test_read_events_is_refused_when_more_rows_are_bad_than_allowed(tmp_path):
    (tmp_path / "log.csv").write_text(BAD_CSV)
    with pytest.raises(DataError, match=r"8 of 9 rows ignored.*no user \(line 3\).*more than the 50.0% allowed"):
        read_events(tmp_path / "log.csv", COLUMNS, {"a": 0}, max_bad_rows=0.5)


def test_read_events_counts_lines_that_are_no_json_when_the_format_is_json_lines(tmp_path):
    good = json.dumps({"who": 1, "what": 2, "when": 1_260_759_108, "stars": 1})
    (tmp_path / "log.jsonl").write_text(f"{good}\n{{broken\n[1]\n{good}\n")
    read, bad = read_events(tmp_path / "log.jsonl", COLUMNS, max_bad_rows=1.0)
    assert read["user"].to_list() == ["1", "1"]
    assert bad.reasons == {"no user": [2, 3]}


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
