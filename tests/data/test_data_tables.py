"""Table files: encodings, quotes, ragged rows, column types, folders, and what is said when a file cannot be used."""

import decimal

import polars as pl
import pytest

from ebbtide.data import tables
from ebbtide.data.catalog import read_catalog
from ebbtide.data.errors import DataError
from ebbtide.data.tables import read_table

ROWS = [("Zoë", "a"), ("Ünal", "b")]
CSV = "user,item\n" + "".join(f"{user},{item}\n" for user, item in ROWS)


def save(folder, content, name="table.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows_of(path, columns=("user", "item"), encoding=None):
    return read_table(path, list(columns), encoding).frame.rows()


@pytest.mark.parametrize(
    "content",
    [
        CSV.encode(),
        CSV.encode("utf-8-sig"),
        CSV.encode("utf-16"),
        b"\xfe\xff" + CSV.encode("utf-16-be"),
        CSV.encode("utf-32"),
        CSV.replace("\n", "\r\n").encode(),
        CSV.replace("\n", "\r").encode(),
        CSV.rstrip("\n").encode(),
        CSV.replace("\n", "\n\n").encode(),
        CSV.replace(",", ";").encode(),
        CSV.replace(",", "\t").encode("utf-16"),
        CSV.replace(",", "|").encode(),
    ],
    ids=["utf-8", "bom", "utf-16", "utf-16-be", "utf-32", "crlf", "cr", "no-end", "blank", "semicolon", "tab", "pipe"],
)
def test_csv_is_read_when_another_program_wrote_it(tmp_path, content):
    assert rows_of(save(tmp_path, content)) == ROWS


def test_text_of_another_encoding_is_read_when_it_is_named(tmp_path):
    path = save(tmp_path, CSV.encode("latin-1"))
    assert rows_of(path, encoding="latin-1") == ROWS
    assert rows_of(save(tmp_path, CSV), encoding="latin-1") == ROWS
    with pytest.raises(DataError, match=r"line 2: got byte 0xeb.*--encoding cp1252 \(Latin-1\) gives 'Zoë,a'"):
        rows_of(save(tmp_path, CSV.encode("latin-1")))


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (CSV.encode("utf-16-le"), None, "line 1: got a NUL byte.*--encoding utf-16-le"),
        (CSV.encode("latin-1"), "klingon", "encoding: got 'klingon'; expected one that Python knows"),
        (CSV.encode("latin-1"), "hex", "encoding: got 'hex'"),
        (CSV.encode("latin-1"), "ascii", "line 2: got byte 0xeb, which is not ascii"),
        (CSV.encode("utf-16")[:-1], None, "line 3: got byte 0x0a, which is not utf-16-le"),
        (b"", None, "got an empty file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            None,
            "got a Git LFS pointer.*run `git lfs pull`",
        ),
        (b"\x1f\x8b\x08rest", None, "got a gzip file"),
        (b"PK\x03\x04rest", None, "got a zip file or an Excel workbook"),
        (b"PAR1rest", None, "got a Parquet file"),
    ],
)
def test_file_is_refused_with_what_to_do_when_it_is_no_text(tmp_path, content, encoding, message):
    path = save(tmp_path, content)
    with pytest.raises(DataError, match=f"^{path}: {message}") as error:
        rows_of(path, encoding=encoding)
    assert "\n" not in str(error.value)


def test_quotes_are_read_as_rfc_4180_has_them(tmp_path):
    path = save(tmp_path, 'user,item\n"a, ""b""\nc","x"\n"","""y"""\nd,z\n')
    table = read_table(path, ["user", "item"])
    assert table.frame.rows() == [('a, "b"\nc', "x"), ("", '"y"'), ("d", "z")]
    assert table.line.tolist() == [2, 4, 5]


def test_quotes_are_ordinary_characters_when_none_begins_a_field(tmp_path):
    path = save(tmp_path, 'user,item\n27" screen,a\n24" screen,b\n')
    assert rows_of(path) == [('27" screen', "a"), ('24" screen', "b")]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('user,item\na,"Heroes\nb,Low\n', 2),
        ('user,item\na,"x"\nb,"Heroes" live\nc,"z"\n', 3),
        ('user,item\n"a",27" screen\n', 2),
        (r"user,item" "\n" r'a,"say \"hi\""' "\n", 2),
    ],
    ids=["unclosed", "text-after", "inch-among-quoted", "backslash"],
)
def test_quotes_are_refused_with_line_and_column_when_they_do_not_match(tmp_path, content, line):
    with pytest.raises(DataError, match=f"table.csv: line {line}, column item: got a quote"):
        rows_of(save(tmp_path, content))


def test_rows_are_flawed_when_their_number_of_fields_is_not_the_headers(tmp_path):
    table = read_table(save(tmp_path, "user,item,kind\na,b,c\na,b\n\na,b,c,d\na,,\n"), ["user"])
    assert table.line.tolist() == [2, 3, 5, 6]
    assert table.flaw.to_list() == [None, "fewer fields than the header", "more fields than the header", None]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user,item,user", "got 2 columns named 'user'; expected one"),
        ("user , item", "no column 'user'; the file has user ,  item. Did you mean 'user '?"),
        ("who;what", "no column 'user'; the file has who, what"),
    ],
)
def test_header_is_refused_when_it_does_not_name_each_column_once(tmp_path, header, message):
    with pytest.raises(DataError) as error:
        rows_of(save(tmp_path, f"{header}\na,b\n"))
    assert message in str(error.value)


def test_json_lines_keep_what_each_line_says(tmp_path):
    lines = [
        b'\xef\xbb\xbf{"user": 12345678901234567890, "item": 7.0}',
        b'{"user": NaN, "item": null}',
        b"",
        b'{"user": true, "item": "x"}\r',
        b'{"user": "u\\ud83d", "item": "x"}',
        b'{"user": {"id": 1}, "item": "x"}',
        b"[1]",
        b"{broken",
    ]
    table = read_table(save(tmp_path, b"\n".join(lines), "table.jsonl"), ["user", "item"])
    assert table.line.tolist() == [1, 2, 4, 5, 6, 7, 8]
    assert table.frame["user"].to_list() == ["12345678901234567890", None, "true", None, None, None, None]
    assert table.frame["item"].to_list() == ["7.0", None, "x", "x", "x", None, None]
    flaws = ["half a character", "an object in 'user', where", "text that is not", "text that is not"]
    assert [flaw is None for flaw in table.flaw] == [True] * 3 + [False] * 4
    assert all(flaw.startswith(begin) for flaw, begin in zip(table.flaw.drop_nulls(), flaws, strict=True))


def test_json_lines_are_refused_when_no_line_is_an_object(tmp_path):
    with pytest.raises(DataError, match="line 1: got text that is not a JSON object"):
        rows_of(save(tmp_path, '[\n{"user":\n1}\n]\n', "table.jsonl"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pl.Series(["x", None], dtype=pl.Categorical), ["x", None]),
        (pl.Series(["x", "y"], dtype=pl.Enum(["x", "y"])), ["x", "y"]),
        (pl.Series([b"x", "é".encode()]), ["x", "é"]),
        (pl.Series([decimal.Decimal(7), None]), ["7", None]),
        (pl.Series([7.0, float("nan")]), ["7.0", None]),
        (pl.Series([2**64 - 1, 0], dtype=pl.UInt64), ["18446744073709551615", "0"]),
        (pl.Series([None, None]), [None, None]),
    ],
    ids=["categorical", "enum", "binary", "decimal", "float", "uint64", "null"],
)
def test_ids_are_text_when_a_parquet_column_has_another_type(tmp_path, values, expected):
    pl.DataFrame({"id": values}).write_parquet(tmp_path / "table.parquet")
    assert read_table(tmp_path / "table.parquet", ["id"]).text("id", is_id=True).to_list() == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pl.Series([["x"], ["y", "z"]]), r"column id: got the type List\(String\) with values such as"),
        (pl.Series([{"a": 1}]), "column id: got the type Struct"),
        (pl.Series([True]), "column id: got the type Boolean"),
        (pl.Series([b"x", b"\xff"]), r"row 2, column id: got b'\\xff'; expected text in UTF-8"),
        (pl.Series([1.0, 1e17]), r"row 2, column id: got '1e\+17'.*lost digits"),
        (pl.Series([1.0, 2**24 + 2], dtype=pl.Float32), r"row 2, column id: got '16777218.0'.*lost digits"),
    ],
    ids=["list", "struct", "boolean", "binary", "large-float", "large-float32"],
)
def test_ids_are_refused_when_the_type_is_no_id(tmp_path, values, message):
    pl.DataFrame({"id": values}).write_parquet(tmp_path / "table.parquet")
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "table.parquet", ["id"]).text("id", is_id=True)


def test_parquet_folder_is_read_with_its_partitions_as_text(tmp_path):
    for user, item in (("007", "a"), ("7", "b")):
        (tmp_path / "log" / f"user={user}").mkdir(parents=True)
        pl.DataFrame({"item": [item]}).write_parquet(tmp_path / "log" / f"user={user}" / "part-0.parquet")
    (tmp_path / "log" / "_SUCCESS").touch()
    assert rows_of(tmp_path / "log") == [("007", "a"), ("7", "b")]


def test_parquet_folder_is_refused_when_it_has_no_parts(tmp_path):
    with pytest.raises(DataError, match=r"got a folder without .parquet files"):
        rows_of(tmp_path)
    save(tmp_path, "version https://git-lfs.github.com/spec/v1\n", "part.parquet")
    with pytest.raises(DataError, match="Git LFS pointer"):
        rows_of(tmp_path)


def test_parquet_is_refused_in_one_line_when_it_is_damaged(tmp_path):
    pl.DataFrame({"user": ["a"] * 99, "item": ["b"] * 99}).write_parquet(tmp_path / "table.parquet")
    content = (tmp_path / "table.parquet").read_bytes()
    for damaged in (content[:-9], b"user,item\na,b\n", content[:20] + bytes(20) + content[-8:]):
        path = save(tmp_path, damaged, "table.parquet")
        with pytest.raises(DataError, match=f"^{path}: (cannot be read: |got .*; expected a )") as error:
            rows_of(path)
        assert "\n" not in str(error.value)


def test_url_is_refused_when_polars_cannot_read_it():
    with pytest.raises(DataError, match=r"^s3://bucket/log.csv: got a URL; expected one of Parquet files, ending in"):
        rows_of("s3://bucket/log.csv")
    with pytest.raises(DataError, match=r"^nowhere://bucket/log.parquet: cannot be read: .*copy the file here"):
        rows_of("nowhere://bucket/log.parquet")


LOG = (
    "user,item,note\n"
    + "".join(f'u{n},i{n % 7},"Zoë {n},\nsays ""{n}"""\n' for n in range(60))
    + "\nu9,i9\nu8,i8,x,y\n"
)
LINES = "".join(f'{{"user": "u{n}", "item": {n}, "note": "Zoë"}}\n' for n in range(60)) + 'oops\n\n{"user": "u"}\n'


@pytest.mark.parametrize(
    ("name", "content", "encoding"),
    [
        ("log.csv", LOG.encode(), None),
        ("log.csv", LOG.encode("utf-8-sig"), None),
        ("log.csv", LOG.encode("utf-16"), None),
        ("log.csv", LOG.encode("utf-16-le"), "utf-16-le"),
        ("log.csv", LOG.encode("latin-1"), "cp1252"),
        ("log.csv", LOG.replace("\n", "\r\n").encode(), None),
        ("log.csv", CSV.replace("\n", "\r").encode(), None),
        ("log.csv", (LOG + "u7,i7,").encode(), None),
        ("log.tsv", LOG.replace(",", "\t").replace('"', "").encode(), None),
        ("log.csv", LOG.replace('"', "").replace("says", '27" screen').encode(), None),
        ("log.jsonl", LINES.encode(), None),
        ("log.jsonl", LINES.encode("utf-16"), None),
    ],
)
@pytest.mark.parametrize("size", [1, 100, 2**24])
def test_pieces_of_a_text_file_are_the_whole_whatever_their_size(tmp_path, monkeypatch, name, content, encoding, size):
    monkeypatch.setattr(tables, "PIECE_BYTES", size)
    path = save(tmp_path, content, name)
    whole = read_table(path, ["user", "item"], encoding)
    pieces = list(tables.read_pieces(path, ["user", "item"], encoding))
    assert len(pieces) <= 2 or size < 2**24
    assert pl.concat([piece.frame for piece in pieces]).equals(whole.frame)
    assert [line for piece in pieces for line in piece.line.tolist()] == whole.line.tolist()
    assert pl.concat([piece.flaw for piece in pieces]).to_list() == whole.flaw.to_list()


def test_pieces_of_parquet_files_are_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "PIECE_ROWS", 7)
    frame = pl.DataFrame({"user": range(50), "item": [f"i{n}" for n in range(50)], "other": [0.0] * 50})
    (tmp_path / "log").mkdir()
    frame.head(20).write_parquet(tmp_path / "log" / "a.parquet", row_group_size=6)
    frame.tail(30).write_parquet(tmp_path / "log" / "b.parquet")
    pieces = list(tables.read_pieces(tmp_path / "log", ["item", "user"]))
    assert [piece.frame.height for piece in pieces] == [7] * 7 + [1]
    assert pl.concat([piece.frame for piece in pieces]).equals(frame.select("item", "user"))
    assert [line for piece in pieces for line in piece.line.tolist()] == list(range(1, 51))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LOG.replace("Zoë 40", 'Zoë "40').encode(), "line 82, column note: got a quote"),
        (LOG.encode().replace("Zoë 40".encode(), b"Zo\xeb 40"), "line 82: got byte 0xeb"),
        (LOG.encode().replace(b"u50,", b"u\0,"), "line 102: got a NUL byte"),
    ],
)
def test_fault_of_a_later_piece_is_told_with_its_line(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(tables, "PIECE_BYTES", 300)
    path = save(tmp_path, content)
    with pytest.raises(DataError, match=message):
        list(tables.read_pieces(path, ["user", "item"]))
    with pytest.raises(DataError, match=message):
        read_table(path, ["user", "item"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# exported on 5 May\n" + CSV, "got the column names in line 2; expected them in line 1"),
        ("sep=,\r\n" + CSV, "got the column names in line 2"),
        ("Sales report\n\n" + CSV.replace(",", ";"), "got the column names in line 3"),
        ("u1,a,1700000000\nu2,b,1700000001\n", r"got values in line 1 \(u1, a, 1700000000\); expected the names"),
    ],
)
def test_table_is_refused_with_the_line_when_its_header_is_not_the_first_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        rows_of(save(tmp_path, content))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv.gz", b"\x1f\x8b\x08\0", "got a gzip file; unpack it with gunzip"),
        ("log.xlsx", b"PK\x03\x04\0", "an Excel workbook; unpack it, or save it as CSV UTF-8"),
        ("log.feather", b"ARROW1\0\0", "got an Arrow file; write it as Parquet"),
        ("log.pq", b"PAR1\0", "got a Parquet file; name it .parquet"),
        ("log.txt", CSV, "got a file of type .txt;.*If it is a table of text, name it .csv or .tsv"),
        ("log", CSV, r"got a file of type \(no suffix\);.*name it .csv"),
        ("log.json", '[{"user": 1}]', "write each object in a line of its own, into a .jsonl file"),
        ("log.json", '{"user": 1}\n', "If each line is a JSON object, name it .jsonl"),
        ("log.parquet", CSV, "got text such as 'user,item.*; expected a Parquet file"),
        ("log.parquet", b"PAR1\0\0\0\0cut", "got a Parquet file without its end"),
        ("log.parquet", b"\x1f\x8b\x08\0", "got a gzip file"),
    ],
)
def test_file_is_refused_with_what_it_is_when_its_name_does_not_say_so(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        rows_of(save(tmp_path, content, name))


def test_table_is_refused_when_its_path_is_empty():
    with pytest.raises(DataError, match="got an empty path"):
        read_table("", ["user"])


@pytest.mark.parametrize("share", [-0.1, 5, float("nan")])
def test_table_is_refused_when_the_share_of_bad_rows_is_no_share(tmp_path, share):
    with pytest.raises(DataError, match=f"max_bad_rows: got {share}; expected a share from 0 to 1"):
        read_catalog(save(tmp_path, "item,text\n1,a\n"), max_bad_rows=share)


@pytest.mark.parametrize("encoding", ["nonsense", "rot13", "hex"])
def test_encoding_is_refused_when_python_does_not_know_it_as_text_even_if_it_is_not_needed(tmp_path, encoding):
    with pytest.raises(DataError, match=f"encoding: got '{encoding}'; expected one that Python knows"):
        rows_of(save(tmp_path, CSV), encoding=encoding)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_missing_column_is_named_when_another_separator_gives_the_others(tmp_path, separator):
    path = tmp_path / "log.csv"
    path.write_text(separator.join(["user", "item", "at"]) + "\n")
    with pytest.raises(DataError, match="no column 'time'; the file has user, item, at"):
        read_table(path, ["user", "item", "time"])
    with pytest.raises(DataError, match="no column 'kunde'; the file has user, item, at"):
        read_table(path, ["kunde"])
