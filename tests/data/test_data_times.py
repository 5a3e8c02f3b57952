"""Times: units found or stated, text with and without zones, and refused values with the reading that is right."""

from datetime import date, datetime, time, timedelta, timezone

import polars as pl
import pytest

from ebbtide.data.errors import DataError
from ebbtide.data.events import EventColumns, read_events
from ebbtide.interest.time_units import TimeUnit

FIRST = 1_700_000_000
SECONDS = [FIRST + 3600 * hour for hour in range(200)]
"""From 2023-11-14 22:13:20 UTC on."""


def log_of(folder, times, suffix=".csv"):
    table = pl.DataFrame({"user": [f"u{i % 9}" for i in range(len(times))], "item": ["a"] * len(times), "time": times})
    path = folder / f"log{suffix}"
    if suffix == ".csv":
        table.write_csv(path)
    else:
        table.write_parquet(path)
    return path


def read(path, **how):
    frame, bad = read_events(path, EventColumns(**how))
    return frame["time_ms"].to_list(), bad


@pytest.mark.parametrize("per_second", [1, 10**3, 10**6, 10**9], ids=["s", "ms", "us", "ns"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_times_are_read_in_the_unit_of_their_magnitude(tmp_path, per_second, suffix):
    times, bad = read(log_of(tmp_path, [second * per_second for second in SECONDS], suffix))
    assert (times, bad.count) == ([second * 1000 for second in SECONDS], 0)


def test_times_do_not_overflow_when_the_column_has_32_bits(tmp_path):
    times, _ = read(log_of(tmp_path, pl.Series(SECONDS, dtype=pl.Int32), ".parquet"))
    assert times == [second * 1000 for second in SECONDS]


@pytest.mark.parametrize(
    "layout",
    ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S UTC", "%Y%m%dT%H%M%SZ", "%Y-%m-%d %H:%M:%S.000000"],
)
@pytest.mark.parametrize("first_day", [5, 14])
def test_times_are_read_whatever_way_iso_8601_is_written(tmp_path, layout, first_day):
    days = [datetime(2024, 1, first_day, 12, hour, tzinfo=timezone.utc) for hour in range(20)]
    times, bad = read(log_of(tmp_path, [day.strftime(layout) for day in days]))
    assert (times, bad.count) == ([round(day.timestamp() * 1000) for day in days], 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-11-14T22:13:20.123456789Z", 123),
        ("2023-11-14 22:13:20,5", 500),
        ("2023-11-15T00:13:20+02:00", 0),
        ("2023-11-15T00:13:20+0200", 0),
        ("2023-11-14 20:13:20 -02", 0),
        ("20231114T221320", 0),
        ("2023/11/14 22:13:20 GMT", 0),
        ("2023-11-14t22:13:20z", 0),
        ("2023-11-14T22:13", -20_000),
        ("2023-11-14", -80_000_000),
    ],
)
def test_times_of_one_column_may_name_different_zones(tmp_path, text, expected):
    times, bad = read(log_of(tmp_path, ["2023-11-14T22:13:20", text, "2023-11-14 22:13:20 UTC"]))
    assert (times, bad.count) == ([FIRST * 1000, FIRST * 1000 + expected, FIRST * 1000], 0)


@pytest.mark.parametrize("text", ["2023-02-30T10:00:00", "2023-13-01", "2023-11-14T25:00:00", "2023-11-14T10:00+25:00"])
def test_times_that_no_calendar_has_are_bad_rows(tmp_path, text):
    good = ["2023-11-14T22:13:20"] * 150
    _, bad = read(log_of(tmp_path, [*good, text]))
    assert str(bad) == f"1 of 151 rows ignored: 1 with an unreadable time (column time: line 152 '{text}')"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["20230101", "20230102"], "line 2, column time: got '20230101'.*date 2023-01-01.*--time-format %Y%m%d"),
        (["20230101120000"] * 2, "date 2023-01-01 written as a number: add --time-format %Y%m%d%H%M%S"),
        (["202301011200"] * 2, "date 2023-01-01 written as a number: add --time-format %Y%m%d%H%M"),
        (["45292.0", "45292.5"], "got '45292.0'.*Excel serial number of 2024-01-01"),
        (["12:30:00", "13:30:00"], "got '12:30:00'.*time of day, which has no date"),
        (["2 days 03:00:00"] * 2, "looks like a duration"),
        (["120", "340"], "got '120'.*may be a duration.*--time-unit s"),
        (["01/02/2024", "03/04/2024"], r"'01/02/2024'.*unknown order: add --time-format '%d/%m/%Y' or '%m/%d/%Y'"),
        (["01/02/2024 10:00", "13/02/2024 10:00"], r"has the day first: add --time-format '%d/%m/%Y %H:%M'"),
        (["12/1/2010 8:26"] * 20_000 + ["12/13/2010 9:02"] * 900, "has the month first: add --time-format"),
        (["01.02.24", "01.13.24"], r"has the month first: add --time-format '%m.%d.%y'"),
        (["1.7E+09", "1.7E+09"], "got '1.7E\\+09'.*lost its last digits"),
        (["638000000000000000"] * 2, "looks like a number of .NET ticks of 2022-09-28: write Unix times"),
        (["133444746440000000"] * 2, "looks like a Windows file time of 2023-11-14"),
        (["13344474644000000"] * 2, "looks like a WebKit time of 2023-11-14"),
        (["2460263.438"] * 2, "looks like a Julian day of 2023-11-14"),
        (["19675"] * 2, "looks like the days since 1970 of 2023-11-14: write the days times 86400"),
        (["2024010112"] * 2, "dates of the form %Y%m%d%H: add --time-format %Y%m%d%H, or --time-unit s if.*2034-02-20"),
        ([f"24010112{minute}" for minute in range(10, 50)], "dates of the form %y%m%d%H%M.*--time-unit s"),
        (["2023-W46-2"] * 2, "got '2023-W46-2'.*--time-format names another format"),
    ],
)
def test_times_are_refused_with_the_reading_that_is_right(tmp_path, values, message):
    with pytest.raises(
        DataError, match=f"log.csv: line 2, column time: .*{message.removeprefix('line 2, column time: ')}"
    ):
        read(log_of(tmp_path, values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([time(1, 2), time(3, 4)], "column time: got the type Time with values such as '01:02:00'"),
        ([timedelta(days=2)], "got the type Duration"),
        ([True, False], "got the type Boolean"),
        ([["2024"]], r"got the type List\(String\)"),
        (pl.Series([1.7e9], dtype=pl.Float32), "32-bit float"),
    ],
    ids=["time-of-day", "duration", "boolean", "list", "float32"],
)
def test_times_are_refused_when_the_type_is_no_time(tmp_path, values, message):
    with pytest.raises(DataError, match=message):
        read(log_of(tmp_path, values, ".parquet"))


@pytest.mark.parametrize(
    "values",
    [
        [date(2023, 11, 14), date(2023, 11, 15)],
        pl.Series(["2023-11-14", "2023-11-15"], dtype=pl.Categorical),
        pl.Series(["1699920000", "1700006400"]).cast(pl.Decimal(12, 0)),
        pl.Series([1_699_920_000, 1_700_006_400], dtype=pl.UInt64),
        pl.Series([1_699_920_000.0, 1_700_006_400.0]),
        pl.Series([datetime(2023, 11, 14), datetime(2023, 11, 15)]).dt.replace_time_zone("UTC"),
        pl.Series([datetime(2023, 11, 13, 19), datetime(2023, 11, 14, 19)]).dt.replace_time_zone("America/New_York"),
    ],
    ids=["date", "categorical", "decimal", "uint64", "float", "utc", "new-york"],
)
def test_times_are_read_from_every_type_that_holds_them(tmp_path, values):
    times, _ = read(log_of(tmp_path, values, ".parquet"))
    assert times == [1_699_920_000_000, 1_700_006_400_000]


def test_times_of_another_unit_are_named_when_units_are_mixed(tmp_path):
    values = list(SECONDS)
    values[7] *= 1000
    _, bad = read(log_of(tmp_path, values))
    assert str(bad) == (
        "1 of 200 rows ignored: 1 with a time in ms among times in s (column time: line 9 '1700025200000'); "
        "'1700025200000' is 2023-11-15 in ms"
    )
    values[60] *= 1000
    values[90] *= 1000
    with pytest.raises(DataError, match=r"3 of 200 rows.*line 62 '1700216000000'.*max-bad-rows"):
        read(log_of(tmp_path, values))


def test_times_keep_the_iso_rows_when_one_row_is_a_unix_time(tmp_path):
    values = [f"2023-11-14T22:13:{second:02}" for second in range(60)] * 3
    values[3] = str(FIRST)
    times, bad = read(log_of(tmp_path, values))
    assert (len(times), bad.hints["an unreadable time"]) == (179, f"'{FIRST}' is 2023-11-14 in s")


def test_times_are_read_by_the_format_when_one_is_named(tmp_path):
    path = log_of(tmp_path, ["01/02/2024 10:00", "03/02/2024 10:00"])
    day, month = (read(path, time_format=layout)[0] for layout in ("%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"))
    assert [datetime.fromtimestamp(value[0] / 1000, timezone.utc).month for value in (day, month)] == [2, 1]
    with pytest.raises(DataError, match=r"line 2, column time: got '01/02/2024 10:00'.*'%Y'"):
        read(path, time_format="%Y")


def test_times_read_fractions_and_whole_numbers_when_a_format_names_them(tmp_path):
    assert read(log_of(tmp_path, ["14.11.2023 22:13:20.5"]), time_format="%d.%m.%Y %H:%M:%S.%f")[0] == [
        1_700_000_000_500
    ]
    numbers = pl.Series([20231114, None, 20231115], dtype=pl.Float64)
    frame, _ = read_events(log_of(tmp_path, numbers, ".parquet"), EventColumns(time_format="%Y%m%d"), None, 0.5)
    assert frame["time_ms"].to_list() == [1_699_920_000_000, 1_700_006_400_000]


def test_times_count_from_another_start_when_the_unit_is_stated(tmp_path):
    path = log_of(tmp_path, [0, 60, 120])
    assert read(path, time_unit=TimeUnit.s)[0] == [0, 60_000, 120_000]
    with pytest.raises(DataError, match="may be a duration"):
        read(path)


def test_stated_unit_is_refused_when_another_one_is_right(tmp_path):
    path = log_of(tmp_path, SECONDS)
    assert read(path, time_unit=TimeUnit.s)[0][0] == FIRST * 1000
    with pytest.raises(DataError, match=r"times in ms.*would be 1970-01-20; in s it is 2023-11-14"):
        read(path, time_unit=TimeUnit.ms)
    with pytest.raises(DataError, match="expected one of them"):
        read(path, time_unit=TimeUnit.s, time_format="%Y")


@pytest.mark.parametrize("far", [4_102_444_800, 2_147_483_647], ids=["2100", "2038"])
def test_event_is_ignored_when_it_is_far_after_the_rest_of_the_log(tmp_path, far):
    times, bad = read(log_of(tmp_path, [*SECONDS, far]))
    assert len(times) == 200
    assert bad.reasons == {"a time more than 5 years after the rest of the log": [202]}
    assert f"line 202 '{far}'" in str(bad)


def test_event_stays_when_the_log_is_long_and_grows_thin(tmp_path):
    years = [f"{year}-06-01" for year in range(2001, 2010) for _ in range(20)] + ["2014-06-01"]
    _, bad = read(log_of(tmp_path, years))
    assert bad.count == 0


def test_event_is_refused_when_it_is_in_the_far_future_of_a_small_log(tmp_path):
    with pytest.raises(DataError, match=r"more than 20 years after the rest of the log.*line 4 '2100-01-01'"):
        read(log_of(tmp_path, ["2023-01-01", "2023-01-02", "2100-01-01"]))
    assert read(log_of(tmp_path, ["2003-01-01", "2003-01-02", "2012-01-01"]))[1].count == 0


@pytest.mark.parametrize(
    ("stored", "number", "right"),
    [("ns", 1, "s"), ("us", 1, "s"), ("ns", 10**3, "ms"), ("ms", 10**6, "us"), ("us", 10**9, "ns"), ("ms", 1, "s")],
)
def test_date_times_are_refused_when_they_were_made_from_numbers_of_another_unit(tmp_path, stored, number, right):
    numbers = pl.Series([second * number for second in SECONDS]).cast(pl.Datetime(stored))
    with pytest.raises(DataError, match=rf"row 1, column time: .* are {right} since 1970, which gives 2023-11-14"):
        read(log_of(tmp_path, numbers, ".parquet"))


def test_date_time_is_a_bad_row_when_no_calendar_has_it(tmp_path):
    numbers = pl.Series([second * 1000 for second in SECONDS] + [FIRST * 10**6]).cast(pl.Datetime("ms"))
    times, bad = read(log_of(tmp_path, numbers, ".parquet"))
    assert len(times) == 200
    assert str(bad).endswith("1 with a time after 2200 (column time: row 201 'the year 55840')")


@pytest.mark.parametrize(
    "layout",
    [
        "%d/%m/%Y %I:%M:%S %p",
        "%m/%d/%Y %I:%M %p",
        "%d.%m.%y %H:%M",
        "%Y.%m.%d %H:%M:%S",
        "%a, %d %b %Y %H:%M:%S GMT",
        "%a %b %d %H:%M:%S %Y",
        "%d/%b/%Y:%H:%M:%S +0000",
        "%d-%b-%Y %H:%M",
        "%B %d, %Y %I:%M %p",
        "%d %b %Y",
        "%Y%m%d%H",
        "%y%m%d%H%M",
        "%Y%m%d",
    ],
)
def test_suggested_format_reads_the_times(tmp_path, layout):
    times = [datetime(2023, 11, 1, 13, 7, tzinfo=timezone.utc) + timedelta(hours=25 * day) for day in range(40)]
    path = log_of(tmp_path, [time.strftime(layout) for time in times])
    with pytest.raises(DataError, match="add --time-format") as caught:
        read(path)
    suggested = str(caught.value).split("--time-format ")[1].split(", or --time-unit")[0].strip("'")
    read_ms, bad = read(path, time_format=suggested)
    expected = [datetime.strptime(time.strftime(layout), layout).replace(tzinfo=timezone.utc) for time in times]
    assert (read_ms, bad.count) == ([round(time.timestamp() * 1000) for time in expected], 0)


def test_numbers_that_look_like_dates_are_read_as_unix_times_when_the_unit_is_stated(tmp_path):
    path = log_of(tmp_path, ["2024010112", "2024010113"])
    assert read(path, time_unit=TimeUnit.s)[0] == [2_024_010_112_000, 2_024_010_113_000]


def test_numbers_are_unix_times_when_one_of_them_is_no_date(tmp_path):
    values = [1_701_011_200 + minute for minute in [*range(40), 99]]
    assert read(log_of(tmp_path, values))[0] == [value * 1000 for value in values]


def test_format_is_refused_when_it_has_the_name_of_a_zone(tmp_path):
    path = log_of(tmp_path, ["2023-11-14 22:13:20 EST"] * 2)
    with pytest.raises(DataError, match="--time-format: got '%Y-%m-%d %H:%M:%S %Z'; expected %z for an offset"):
        read(path, time_format="%Y-%m-%d %H:%M:%S %Z")
