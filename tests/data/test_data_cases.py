"""Small files as they went wrong in other projects' trackers: read rightly, or refused in one line that says where."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from ebbtide.data.dataset import DataReference, Dataset, read_dataset
from ebbtide.data.errors import DataError

CASES = Path(__file__).parent / "cases"
LOG = "crash-data-files/log.csv"
TYPED = "crash-data-files/categorical.parquet"
SHOP = ("template-placeholder-ignored/log.csv", "template-placeholder-ignored/catalog.csv")
FROM, TO = "2023-11-14", "2023-11-23"


def read(events: str, catalog: str | None = None, **options: Any) -> Dataset:
    given = {
        "user_column": "user",
        "item_column": "item",
        "time_column": "time",
        "weight_column": None,
        "catalog_item_column": "item",
        "text_template": "{text}",
        "title_template": None,
        "max_bad_rows": 0.01,
        "holdout": "none",
        **options,
    }
    files = {"events": str(CASES / events), "catalog": catalog and str(CASES / catalog)}
    return read_dataset(DataReference.model_validate({**files, **given}))


def period(data: Dataset) -> tuple[str, str]:
    days = (
        datetime.fromtimestamp(int(ms) / 1000, timezone.utc) for ms in (data.log.time_ms.min(), data.log.time_ms.max())
    )
    first, last = (day.date().isoformat() for day in days)
    return first, last


@pytest.mark.parametrize(
    ("files", "options", "expected", "events"),
    [
        ([LOG, "crash-data-files/inch.csv"], {}, (FROM, TO), 200),
        ([LOG, "crash-data-files/list.parquet"], {"text_template": "{title} {genres}"}, (FROM, TO), 200),
        (["crash-data-files/latin1.csv"], {"encoding": "latin-1"}, (FROM, TO), 200),
        ([TYPED], {}, ("2024-01-01", "2024-01-02"), 2),
        ([TYPED], {"time_column": "unix", "weight_column": "stars"}, (FROM, FROM), 2),
        (["ids-null-words/log.parquet"], {"max_bad_rows": 0.5}, (FROM, FROM), 20),
        (["ids-null-words/log.jsonl"], {"max_bad_rows": 0.5}, (FROM, FROM), 20),
        (["poor-message-data-files/semicolon.csv"], {}, (FROM, TO), 200),
        (["poor-message-data-files/utf16.csv"], {}, (FROM, TO), 200),
        (["poor-message-data-files/parts.parquet"], {}, (FROM, FROM), 1),
        (SHOP, {"text_template": "{product name}, {meta-title}, {kind}"}, (FROM, TO), 200),
        (["time-day-month-order/us-dates.csv"], {"time_format": "%m/%d/%Y %H:%M"}, ("2023-01-01", "2023-12-12"), 144),
        (["time-iso-mixed-zones/zones.csv"], {}, (FROM, TO), 200),
        (["time-iso-mixed-zones/one-unix-row.csv"], {}, (FROM, TO), 199),
        (["time-iso-mixed-zones/bigquery.csv"], {}, (FROM, TO), 200),
        (["time-iso-mixed-zones/basic-from-the-5th.csv"], {}, ("2024-01-05", "2024-01-13"), 200),
        (["time-iso-mixed-zones/basic-from-the-14th.csv"], {}, ("2024-01-14", "2024-01-22"), 200),
        (["time-microseconds-recommend-crash/log.csv"], {}, (FROM, TO), 200),
        (["time-unit-not-told/microseconds.csv"], {}, (FROM, TO), 200),
        (["time-unit-not-told/nanoseconds.csv"], {}, (FROM, TO), 200),
        (["time-unit-not-told/mixed-seconds-and-ms.csv"], {"max_bad_rows": 0.05}, (FROM, TO), 196),
        (["time-unit-not-told/compact-dates.csv"], {"time_format": "%Y%m%d"}, ("2023-01-01", "2023-07-19"), 200),
    ],
)
def test_file_is_read_rightly_when_its_form_is_unusual(
    files: list[str], options: dict[str, Any], expected: tuple[str, str], events: int
) -> None:
    found = read(*files, **options)
    assert (period(found), found.log.events) == (expected, events)


def test_texts_are_whole_when_catalog_has_quotes_lists_or_names_with_spaces() -> None:
    assert read(LOG, "crash-data-files/inch.csv").catalog.text[0] == '27" monitor'
    listed = read(LOG, "crash-data-files/list.parquet", text_template="{title} {genres}")
    assert listed.catalog.text[0] == "t a, b"
    shop = read(*SHOP, text_template="{product name}, {meta-title}, {kind}")
    assert shop.catalog.text[0] == "Lamp 0, Bright 0, home"


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        ([LOG, "crash-data-files/quote.tsv"], {}, ["quote.tsv: line 2, column text", "quotes around the field"]),
        (["crash-data-files/latin1.csv"], {}, ["line 5: got byte 0xeb", "--encoding cp1252", "Zoë"]),
        (["crash-data-files/latin1.jsonl"], {}, ["line 1: got byte 0xeb", "--encoding cp1252", "Zoë"]),
        (["crash-data-files/surrogate.jsonl"], {}, ["half a character", "line 1"]),
        (["crash-data-files/empty.csv"], {}, ["got an empty file"]),
        (["crash-data-files/pointer.parquet"], {}, ["Git LFS pointer", "git lfs pull"]),
        ([TYPED], {"time_column": "unix", "user_column": "raw"}, ["row 1, column raw", r"b'\xff'", "cast"]),
        ([LOG], {"item_column": "user"}, ["'user' for two of", "a different column for each"]),
        ([LOG, "crash-data-files/line.csv"], {"text_template": "{__line}"}, ["an item that is not in the catalog"]),
        (["ids-null-words/log.csv"], {}, ["40 with no user", "line 3 'NULL'", r"'\N'"]),
        (["ids-null-words/log.parquet"], {}, ["10 with no user", "row 1 'nan'"]),
        (["ids-null-words/log.jsonl"], {}, ["10 with no user", "line 1, 4"]),
        (["poor-message-data-files/bom.jsonl"], {}, ["the same time for all 2 events"]),
        (["poor-message-data-files/one-time.csv"], {}, ["the same time for all 60 events"]),
        (SHOP, {"text_template": "{meta title}"}, ["no column 'meta title'", "product name, meta-title, kind"]),
        (["time-day-month-order/us-dates.csv"], {}, ["line 2", "'01/01/2023 10:00'", "--time-format", "%m/%d/%Y"]),
        (["time-unit-not-told/mixed-seconds-and-ms.csv"], {}, ["line 9 '1700025200000'", "2023-11-15 in ms"]),
        (["time-unit-not-told/compact-dates.csv"], {}, ["'20230101'", "--time-format %Y%m%d"]),
        (["time-unit-not-told/excel-serials.csv"], {}, ["'45292.0'", "Excel serial number of 2024-01-01"]),
        (["time-unit-not-told/time-of-day.parquet"], {}, ["column time", "the type Time", "has no date"]),
    ],
)
def test_file_is_refused_in_one_line_when_it_cannot_be_read(
    files: list[str], options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        read(*files, **options)
    said = str(caught.value)
    assert "\n" not in said
    assert [word for word in words if word not in said] == []


def test_every_file_of_the_cases_is_tested() -> None:
    """A file that is added without a line above would be tested by nothing."""
    source = Path(__file__).read_text(encoding="utf-8")
    paths = {path.relative_to(CASES).as_posix() for path in CASES.glob("*/*")}
    assert {path for path in paths if path not in source} == set()
