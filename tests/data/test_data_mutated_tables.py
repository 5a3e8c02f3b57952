"""Mutated tables: the readers give the right result, or one `DataError` with a place; nothing changes in silence."""

import csv
import io
import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebbtide.data.catalog import read_catalog
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventColumns, read_events

FIRST_MS = 1_500_000_000_000
LAST_MS = 1_700_000_000_000
DAY_MS = 86_400_000
ID = st.one_of(
    st.sampled_from(["u1", "007", "7", "7.0", "Zoë", "a, b", 'say "x"', '27"', "l1\nl2", "ну", " x", "NA", "0", "1e5"]),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=6),
)
MISSING_WORDS = {
    *("", "null", "none", "nan", "nat", "nil", "undefined", "\\n", "n/a", "<na>", "<null>", "(null)", "[null]"),
    *('""', "''", "#n/a", "#ref!", "#value!", "#name?", "#name", "#null!", "#num!", "#div/0!"),
}
MISSING = ("NULL", "null", "None", "NaN", "nan", "\\N", "N/A", "#REF!", "", None)
TIME_FORMS = {
    "s": lambda ms: ms // 1000,
    "ms": lambda ms: ms,
    "us": lambda ms: ms * 1000,
    "ns": lambda ms: ms * 1_000_000,
    "float": lambda ms: ms / 1000,
    "iso": lambda ms: utc(ms).isoformat(),
    "iso-zone": lambda ms: utc(ms).astimezone(timezone(timedelta(hours=-9, minutes=-30))).isoformat(" "),
    "iso-z": lambda ms: utc(ms).strftime("%Y-%m-%dT%H:%M:%SZ"),
    "iso-utc": lambda ms: utc(ms).strftime("%Y-%m-%d %H:%M:%S UTC"),
    "iso-basic": lambda ms: utc(ms).strftime("%Y%m%dT%H%M%SZ"),
    "iso-naive": lambda ms: utc(ms).strftime("%Y-%m-%d %H:%M:%S"),
}
WRONG_TIMES = {
    "us-date": lambda ms: utc(ms).strftime("%m/%d/%Y"),
    "compact": lambda ms: int(utc(ms).strftime("%Y%m%d")),
    "excel": lambda ms: ms / 86_400_000 + 25569,
    "time-of-day": lambda ms: utc(ms).strftime("%H:%M:%S"),
    "duration": lambda ms: ms % 86_400,
    "rounded": lambda _: "1.6E+09",
}
PARQUET_TYPES = (pl.String, pl.Categorical, pl.Binary)


def utc(ms):
    return datetime.fromtimestamp(ms // 1000, timezone.utc)


def is_missing(text):
    return text is None or text.strip().lower() in MISSING_WORDS


@dataclass(frozen=True)
class Mutated:
    """A log, the way it is written, and what the reader must find in it."""

    rows: list
    """User, item and time in ms; user or item may be missing."""
    forms: list
    """Form of the time, of each row."""
    kind: str
    encoding: str = "utf-8"
    named: str | None = None
    quoting: int = csv.QUOTE_MINIMAL
    separator: str = ","
    line_end: str = "\n"
    raw_quotes: bool = False
    """Fields are joined as they are, with quotes as ordinary characters."""
    extra_field: int | None = None
    """Row with one field more than the header."""
    dtype: object = field(default=pl.String)

    @property
    def sound(self):
        """The rows that can be used; a compact date has no time of day, and is read among ISO 8601 texts."""
        return [
            (user, item, ms // DAY_MS * DAY_MS if form == "compact" else ms)
            for index, ((user, item, ms), form) in enumerate(zip(self.rows, self.forms, strict=True))
            if not (is_missing(user) or is_missing(item) or index == self.extra_field)
        ]

    def save(self, folder):
        values = [
            (user, item, (TIME_FORMS | WRONG_TIMES)[form](ms))
            for (user, item, ms), form in zip(self.rows, self.forms, strict=True)
        ]
        path = folder / f"log.{self.kind}"
        if self.kind == "parquet":
            texts = pl.DataFrame(values, schema=["user", "item", "time"], orient="row", strict=False)
            texts.with_columns(pl.col("user", "item").cast(pl.String).cast(self.dtype)).write_parquet(path)
        elif self.kind == "jsonl":
            lines = (json.dumps(dict(zip(("user", "item", "time"), row, strict=True))) for row in values)
            path.write_bytes("".join(f"{line}{self.line_end}" for line in lines).encode(self.encoding))
        else:
            text = io.StringIO()
            writer = csv.writer(
                text, delimiter=self.separator, quoting=self.quoting, lineterminator=self.line_end, strict=True
            )
            writer.writerow(("user", "item", "time"))
            for index, row in enumerate(values):
                fields = row + ("more",) * (index == self.extra_field)
                if self.raw_quotes:
                    text.write(self.separator.join("" if one is None else str(one) for one in fields) + self.line_end)
                else:
                    writer.writerow(fields)
            path.write_bytes(text.getvalue().encode(self.encoding))
        return path


@st.composite
def mutated(draw):
    """A sound log with up to three faults or unusual ways to write it."""
    ids = st.tuples(ID, ID, st.integers(FIRST_MS // 1000, LAST_MS // 1000).map(lambda s: s * 1000))
    rows = draw(st.lists(ids, min_size=2, max_size=12))
    form = draw(st.sampled_from(list(TIME_FORMS)))
    log = Mutated(rows, [form] * len(rows), draw(st.sampled_from(["csv", "tsv", "jsonl", "parquet"])))
    if log.kind == "tsv":
        log = replace(log, separator="\t")
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=3)):
        log = change(draw, log)
    return log


def with_nulls(draw, log):
    index = draw(st.integers(0, len(log.rows) - 1))
    missing = draw(st.sampled_from(MISSING))
    user, item, ms = log.rows[index]
    changed = (missing, item, ms) if draw(st.booleans()) else (user, missing, ms)
    return replace(log, rows=[*log.rows[:index], changed, *log.rows[index + 1 :]])


def with_copies(_draw, log):
    return replace(log, rows=[*log.rows, log.rows[0]], forms=[*log.forms, log.forms[0]])


def with_other_time(draw, log):
    """One row, or all, in another form of time."""
    form = draw(st.sampled_from([*TIME_FORMS, *WRONG_TIMES]))
    if draw(st.booleans()):
        return replace(log, forms=[form] * len(log.rows))
    return replace(log, forms=[form, *log.forms[1:]])


def with_encoding(draw, log):
    return replace(log, encoding=draw(st.sampled_from(["utf-8-sig", "utf-16", "utf-32"])))


def with_latin_1(draw, log):
    if log.kind in {"parquet", "jsonl"} or not all(_is_latin(user) and _is_latin(item) for user, item, _ in log.rows):
        return log
    return replace(log, encoding="latin-1", named=draw(st.sampled_from([None, "latin-1"])))


def _is_latin(text):
    return text is None or all(ord(character) < 256 for character in text)


def with_quotes(_draw, log):
    return log if log.raw_quotes else replace(log, quoting=csv.QUOTE_ALL)


def with_raw_quotes(_draw, log):
    """Only for ids that need no quotes; one that begins with a quote would be a quoted field."""
    ids = [one for user, item, _ in log.rows for one in (user, item) if one is not None]
    if log.quoting == csv.QUOTE_ALL or any(one.startswith('"') or set(one) & set(",;\t|\n") for one in ids):
        return log
    return replace(log, raw_quotes=True)


def with_separator(draw, log):
    return replace(log, separator=draw(st.sampled_from([",", ";", "\t", "|"])))


def with_line_ends(_draw, log):
    return replace(log, line_end="\r\n")


def with_extra_field(draw, log):
    return (
        log if log.kind in {"parquet", "jsonl"} else replace(log, extra_field=draw(st.integers(0, len(log.rows) - 1)))
    )


def with_type(draw, log):
    return replace(log, dtype=draw(st.sampled_from(PARQUET_TYPES)))


CHANGES = (
    with_nulls,
    with_copies,
    with_other_time,
    with_encoding,
    with_latin_1,
    with_quotes,
    with_raw_quotes,
    with_separator,
    with_line_ends,
    with_extra_field,
    with_type,
)


def outcome(path, read):
    """The result and no message, or none and the message of the one error that a reader may raise."""
    try:
        return read(), None
    except DataError as error:
        message = str(error)
    assert message.startswith(str(path))
    assert "\n" not in message
    return None, message


def check_log(folder, log):
    path = log.save(folder)
    result, refusal = outcome(path, lambda: read_events(path, EventColumns(encoding=log.named), None, 0.99))
    if result is None:
        assert_reason(log, refusal)
        return
    read, bad = result
    assert bad.rows == len(log.rows)
    assert read.height + bad.count == bad.rows
    found = read.select("user", "item", "time_ms").rows()
    bad_times = sum(len(rows) for reason, rows in bad.reasons.items() if "time" in reason)
    if len(set(log.forms)) == 1 and log.forms[0] in TIME_FORMS:
        assert found == log.sound
        assert bad_times == 0
    else:
        # A row in another form is read right or told; no row is read as another one.
        assert len(found) == len(log.sound) - bad_times
        rest = iter(log.sound)
        assert all(row in rest for row in found)


def assert_reason(log, message):
    """A refusal is right only for a log that has the fault which it names."""
    if "not UTF-8" in message:
        assert (log.encoding, log.named) == ("latin-1", None)
    elif "no usable event" in message or "--max-bad-rows" in message:
        assert not log.sound or len(set(log.forms)) > 1
    else:
        assert "column time: got" in message
        assert set(log.forms) & set(WRONG_TIMES)


@given(mutated())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_log_is_read_right_or_refused_with_a_place(tmp_path, log):
    check_log(tmp_path, log)


@pytest.mark.slow
@given(mutated())
@settings(max_examples=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_log_is_read_right_or_refused_with_a_place_in_2000_examples(tmp_path, log):
    check_log(tmp_path, log)


CATALOG = 'item,text,year\n007,"Zoë, ""a""",1999\n7.0,27 inch,\nb,Lamp,2001\n'.encode()
LOG = "user;item;time\nZoë;b;1700000000\nu;007;2023-11-14T22:13:20\nNULL;c;1700000000000\n".encode()
LINES = b'{"user": "u", "item": [1], "time": 1.7e9}\n{"user": NaN, "item": {"a": "\\ud83d"}, "time": "x"}\n'


@st.composite
def damaged(draw):
    """Bytes of a file, some of them replaced, removed or repeated, under any of the suffixes."""
    content = bytearray(draw(st.sampled_from([CATALOG, LOG, LINES])))
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(content)))
        end = min(len(content), begin + draw(st.integers(0, 4)))
        content[begin:end] = draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b'"', b"\n", b",", b"\r", b"{", b"\0"]))
        )
    return draw(st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"])), bytes(content)


def check_damaged(folder, suffix, content):
    path = folder / f"table{suffix}"
    path.write_bytes(content)
    for reader in (
        lambda: read_events(path, EventColumns(), {"b": 0, "7": 1}, 1.0),
        lambda: read_catalog(path, "item", "{text} {year}", None, 1.0),
    ):
        result, _ = outcome(path, reader)
        assert result is None or result[1].count <= result[1].rows


@given(damaged())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_file_is_read_or_refused_in_one_line(tmp_path, file):
    check_damaged(tmp_path, *file)


@pytest.mark.slow
@given(damaged())
@settings(max_examples=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_file_is_read_or_refused_in_one_line_in_2000_examples(tmp_path, file):
    check_damaged(tmp_path, *file)
