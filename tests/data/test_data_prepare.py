"""Preparing a public data set: what is missing, what is kept, and the command that is printed."""

import shlex
import subprocess
import sys

import polars as pl
import pytest

from ebbtide.cli.prepare import FormatName
from ebbtide.data.errors import DataError
from ebbtide.data.prepare.formats import SOURCES
from ebbtide.data.prepare.write import Selection, prepare

FIRST_FILE = {
    "mind": "behaviors.tsv",
    "eb-nerd": "articles.parquet",
    "yambda": "listens.parquet",
    "amazon-2023": "*.jsonl or *.jsonl.gz or *.csv or *.csv.gz",
    "lastfm-1k": "userid-timestamp-artid-artname-traid-traname.tsv",
    "retailrocket": "events.csv",
    "movielens": "ratings.csv or ratings.dat",
    "online-retail": "*.csv or *.parquet",
}


def movielens(folder, rows):
    folder.mkdir(exist_ok=True)
    lines = [f"{user},{item},4.0,{1_256_677_221 + number}" for number, (user, item) in enumerate(rows)]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n")
    (folder / "movies.csv").write_text("movieId,title,genres\n1,Heat (1995),Action\n2,Babe (1995),Children\n3,Se7en,\n")
    return folder


@pytest.fixture
def folder(tmp_path):
    return movielens(tmp_path / "my films", [("a", 1), ("a", 2), ("b", 1), ("c", 1)])


def run(*arguments):
    code = "from ebbtide.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "prepare", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_command_line_names_the_formats_that_there_are():
    assert [name.value for name in FormatName] == list(SOURCES)
    assert {name: source.name for name, source in SOURCES.items()} == {name: name for name in SOURCES}


@pytest.mark.parametrize("name", SOURCES)
def test_error_names_the_file_and_the_page_when_a_file_is_missing(name, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "download.zip").write_bytes(b"PK")
    with pytest.raises(DataError) as caught:
        prepare(SOURCES[name], tmp_path / "in", tmp_path / "out")
    message = str(caught.value)
    assert f"no file {FIRST_FILE[name]}" in message
    assert f"{SOURCES[name].title} ({SOURCES[name].page})" in message
    assert "Unpack download.zip" in message
    assert "\n" not in message
    assert list((tmp_path / "out").iterdir()) == []


def test_error_names_the_folder_when_it_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder; expected the unpacked files of MovieLens"):
        prepare(SOURCES["movielens"], tmp_path / "nowhere", tmp_path / "out")


def test_error_names_the_second_file_when_only_the_first_is_there(folder, tmp_path):
    (folder / "movies.csv").unlink()
    with pytest.raises(DataError, match=r"movies.csv: no such file; expected .*grouplens"):
        prepare(SOURCES["movielens"], folder, tmp_path / "out")


def test_error_names_the_column_when_a_file_lacks_it(folder, tmp_path):
    (folder / "ratings.csv").write_text("userId,movie,rating,timestamp\n1,1,1,1\n")
    with pytest.raises(DataError, match=r"ratings.csv: no column 'movieId'; the file has userId, movie"):
        prepare(SOURCES["movielens"], folder, tmp_path / "out")


def test_two_editions_are_refused_when_they_lie_in_one_folder(folder, tmp_path):
    movielens(folder / "ml-20m", [("a", 1)])
    with pytest.raises(DataError, match=r"got 2 files \(ml-20m/ratings.csv, ratings.csv\); expected one"):
        prepare(SOURCES["movielens"], folder, tmp_path / "out")


def test_damaged_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "listens.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"cannot be read as Yambda: .*expected the files of https") as caught:
        prepare(SOURCES["yambda"], tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_second_run_reads_the_same_when_the_first_wrote_below_the_folder(tmp_path):
    (tmp_path / "data.csv").write_text(
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,CustomerID\n"
        "536365,71053,LANTERN,6,2010-12-01 08:26,17850\n"
    )
    first, second = (prepare(SOURCES["online-retail"], tmp_path, tmp_path / "out") for _ in range(2))
    assert first == second


def test_error_names_the_output_folder_when_it_is_a_file(folder, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(DataError, match=r"out: cannot be made: File exists; expected a folder to write to"):
        prepare(SOURCES["movielens"], folder, tmp_path / "out")


def test_log_is_refused_when_no_event_is_left(folder, tmp_path):
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,4,yesterday\n")
    with pytest.raises(DataError, match="no event is left: 1 rows without a usable time"):
        prepare(SOURCES["movielens"], folder, tmp_path / "out")


def test_rows_without_id_time_or_weight_are_left_out_and_counted(folder, tmp_path):
    with (folder / "ratings.csv").open("a") as file:
        file.write(",1,4,1256677221\nd,,4,1256677221\nd,1,4,\nd,1,much,1256677221\n")
    summary = prepare(SOURCES["movielens"], folder, tmp_path / "out")
    assert summary.events == 4
    assert summary.left_out == {
        f"rows without {what}": 1 for what in ("a usable time", "a usable weight", "a user", "an item")
    }


def test_sample_keeps_whole_users_and_is_the_same_in_every_run(folder, tmp_path):
    movielens(folder, [(str(user), 1 + number % 2) for user in range(20) for number in range(3)])
    first = prepare(SOURCES["movielens"], folder, tmp_path / "one", Selection(users=5))
    prepare(SOURCES["movielens"], folder, tmp_path / "two", Selection(users=5))
    assert (first.users, first.events, first.items) == (5, 15, 2)
    assert first.left_out == {"events of users outside the sample": 45}
    one, two = (pl.read_parquet(tmp_path / name / "events.parquet") for name in ("one", "two"))
    assert one.equals(two)


def test_rare_items_are_left_out_with_their_events(folder, tmp_path):
    summary = prepare(SOURCES["movielens"], folder, tmp_path / "out", Selection(min_item_events=2))
    assert (summary.events, summary.items) == (3, 1)
    assert summary.left_out == {"events of items with fewer than 2 events": 1}


def test_command_prints_counts_and_a_train_command_that_parses(folder, tmp_path):
    done = run("movielens", folder, "--out", tmp_path / "my out")
    assert done.returncode == 0, done.stderr
    assert "4 events of 3 users, 2009-10-27 to 2009-10-27; 3 items in the catalog" in done.stdout
    words = shlex.split(done.stdout.split("Next:\n")[1].replace("\\\n", ""))
    assert words == [
        *("ebbtide", "train", "--events", f"{tmp_path}/my out/events.parquet"),
        *("--catalog", f"{tmp_path}/my out/catalog.parquet", "--title-template", "{title}"),
        *("--out", f"{tmp_path}/my out/bundle"),
    ]


def test_command_ends_in_one_line_when_the_folder_is_wrong(tmp_path):
    done = run("mind", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "no file behaviors.tsv" in done.stderr
    assert "Traceback" not in done.stderr


def test_command_trains_with_the_printed_words(folder, tmp_path):
    """The options exist: `ebbtide train` gets as far as reading the two files."""
    prepare(SOURCES["movielens"], folder, tmp_path)
    words = shlex.split(prepare(SOURCES["movielens"], folder, tmp_path).train_command.replace("\\\n", ""))
    (tmp_path / "catalog.parquet").unlink()
    code = "from ebbtide.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "catalog.parquet: no such file" in done.stderr
