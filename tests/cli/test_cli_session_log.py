"""The log of a load test is read with the options of training."""

import numpy as np
import pytest

from ebbtide.cli.session_log import read_session_log
from ebbtide.data.errors import DataError
from ebbtide.interest.time_units import TimeUnit
from ebbtide.loadtest import LoadTestError

COLUMNS = ("user", "item", "time", None, None)


def read(path, *reading, holdout="leave-last-out", bundle=None):
    given = (*reading, None, None, None)[:3]
    return read_session_log(bundle, None if bundle else str(path), None, holdout, "{text}", COLUMNS, given)[0].log


@pytest.mark.parametrize(
    ("times", "reading", "encoding"),
    [
        (["1000", "2000"], (TimeUnit.s,), "utf-8"),
        (["01/02/1970 00:16", "01/03/1970 00:16"], (None, "%m/%d/%Y %H:%M"), "utf-8"),
        (["2024-01-01", "2024-01-02"], (None, None, "cp1252"), "cp1252"),
    ],
)
def test_log_is_read_as_training_reads_it(times, reading, encoding, tmp_path):
    rows = [f"Zoë,i{index},{time}" for index, time in enumerate(times)]
    (tmp_path / "log.csv").write_text("user,item,time\n" + "\n".join(rows) + "\n", encoding=encoding)
    log = read(tmp_path / "log.csv", *reading)
    assert log.users == ["Zoë"]
    assert np.diff(log.time_ms).tolist() == [1_000_000 if times[0] == "1000" else 86_400_000]


def test_options_that_contradict_are_refused_before_the_log_is_read(tmp_path):
    missing = tmp_path / "none.csv"
    with pytest.raises(LoadTestError, match="time_unit: got it with --time-format"):
        read(missing, TimeUnit.s, "%Y")
    with pytest.raises(LoadTestError, match="bundle: got it with --time-unit"):
        read(missing, TimeUnit.s, bundle=tmp_path)
    with pytest.raises(DataError, match="holdout: got 'last'"):
        read(missing, holdout="last")
