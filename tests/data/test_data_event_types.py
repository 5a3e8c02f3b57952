"""Event types of a log: which rows have one, which of them are predicted, and which are refused."""

import pytest

from ebbtide.data.errors import DataError
from ebbtide.data.event_types import EventTypeNames
from ebbtide.data.events import EventColumns, build_log, read_events

COLUMNS = EventColumns(event_type="did")
ROWS = ["a,x,1700000000,view", "a,y,1700000100, purchase ", "b,x,1700000200,dislike", "a,x,1700000300,view"]


@pytest.fixture
def frame(tmp_path):
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,did", *ROWS]) + "\n")
    return read_events(tmp_path / "log.csv", COLUMNS)[0]


def test_targets_come_first_and_alone_are_counted_when_a_log_has_event_types(frame):
    names = EventTypeNames.found(frame["event_type"], ["purchase"])
    assert names == EventTypeNames(("purchase", "dislike", "view"), 1)
    log = build_log(frame, {"x": 0, "y": 1}, names)
    assert [log.type_of(event) for event in range(4)] == ["view", "purchase", "view", "dislike"]
    assert log.is_target.tolist() == [False, True, False, False]
    item, time_ms = log.counted
    assert (item.tolist(), time_ms.tolist()) == ([1], [1_700_000_100_000])
    kept = log.only(log.user == 1)
    assert (kept.users, [kept.type_of(0)]) == (["b"], ["dislike"])


def test_all_events_are_targets_when_a_log_has_one_type(frame):
    log = build_log(frame, {"x": 0, "y": 1})
    assert log.is_target.all()
    assert log.type_of(0) is None
    assert log.counted[0] is log.item


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([], "target: got none; expected at least one of the log's event types.*'dislike', 'purchase', 'view'"),
        (["purchased"], "target: got 'purchased', which no event has.*'purchase'"),
    ],
)
def test_targets_are_refused_when_the_log_has_no_such_type(frame, targets, message):
    with pytest.raises(DataError, match=message):
        EventTypeNames.found(frame["event_type"], targets)


def test_type_is_refused_with_the_nearest_when_the_training_did_not_know_it(frame):
    with pytest.raises(DataError, match=r"column did: got 'dislike'; expected an event type .* such as 'disliked'"):
        build_log(frame, {"x": 0, "y": 1}, EventTypeNames(("purchase", "disliked", "view"), 1), "did")


def test_row_is_bad_when_it_has_no_event_type(tmp_path):
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,did", *ROWS, "b,y,1700000400,"]) + "\n")
    frame, bad = read_events(tmp_path / "log.csv", COLUMNS, max_bad_rows=0.5)
    assert frame.height == 4
    assert "no event type" in str(bad)
