"""Messages: what is an event, and what is told of the others."""

import json
import os

import pytest

from ebbtide.ingest import FieldNames, LineSource, Message, Rejection
from ebbtide.ingest.messages import NotAnEventError
from ebbtide.interest.time_units import TimeUnit

TIME_MS = 1_700_000_000_123


def read(content, names=None, *, message_id=None, id_from_message=True):
    names = names or FieldNames()
    content = content if isinstance(content, bytes | None) else json.dumps(content).encode()
    return names.event_of(Message(content, "line 1", message_id), id_from_message=id_from_message)


@pytest.mark.parametrize(
    "time",
    [
        TIME_MS,
        TIME_MS * 1000,
        TIME_MS * 1000 * 1000,
        str(TIME_MS),
        TIME_MS / 1000,
        "1700000000.123",
        "2023-11-14T22:13:20.123",
        "2023-11-14T22:13:20.123Z",
        "2023-11-14T23:13:20.123+01:00",
    ],
)
def test_time_of_any_unit_and_form_is_read(time):
    found = read({"user": "u", "item": "i", "time": time})
    assert found.event.time.ToMilliseconds() == TIME_MS


def test_named_fields_are_read_and_others_ignored():
    names = FieldNames("who", "what", "when", "stars", "key", TimeUnit.s)
    found = read({"who": 547, "what": "318", "when": 1_700_000_000, "stars": "4.5", "key": "e1", "user": 1}, names)
    assert (found.user_id, found.event.item_id, found.event.event_id) == ("547", "318", "e1")
    assert (found.event.weight, found.event.time.ToMilliseconds()) == (4.5, 1_700_000_000_000)
    bare = read({"user": "u", "item": "i", "time": TIME_MS, "weight": None, "event_id": None})
    assert not bare.event.HasField("weight")
    assert not bare.event.HasField("event_id")


def test_event_without_an_id_gets_that_of_its_message_unless_item_and_time_are_to_be_it():
    plain = {"user": "u", "item": "i", "time": TIME_MS}
    assert read(plain, message_id="events/1-0").event.event_id == "events/1-0"
    assert read(plain | {"event_id": "own"}, message_id="events/1-0").event.event_id == "own"
    assert not read(plain, message_id="events/1-0", id_from_message=False).event.HasField("event_id")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"oops", "got text that is not JSON"),
        (b"\xff", "got text that is not JSON"),
        (b"[" * 100_000, "got text that is not JSON"),
        (b"7", "got 7; expected a JSON object"),
        (None, "it was deleted from its source"),
        ({"item": "i", "time": TIME_MS}, "user: got none; expected an id"),
        ({"user": "", "item": "i", "time": TIME_MS}, "user: got ''; expected an id"),
        ({"user": True, "item": "i", "time": TIME_MS}, "user: got True; expected an id"),
        ({"user": "u", "item": ["i"], "time": TIME_MS}, r"item: got \['i'\]; expected an id"),
        ({"user": "u", "item": "i"}, "time: got none; expected a time"),
        ({"user": "u", "item": "i", "time": "yesterday"}, "time: got 'yesterday'; expected a time"),
        ({"user": "u", "item": "i", "time": 12}, "time: got 12; expected Unix time in s, ms, us or ns"),
        ({"user": "u", "item": "i", "time": False}, "time: got False; expected a time"),
        ({"user": "u", "item": "i", "time": TIME_MS, "weight": -1}, "weight: got -1; expected a number from 0 to 1e15"),
        ({"user": "u", "item": "i", "time": TIME_MS, "weight": "much"}, "weight: got 'much'; expected a number"),
        ({"user": "u", "item": "i", "time": TIME_MS, "weight": float("nan")}, "weight: got nan; expected a number"),
        ({"user": "u", "item": "i", "time": TIME_MS, "event_id": ""}, "event_id: got ''; expected an id"),
    ],
)
def test_other_messages_are_refused_with_the_field_and_its_value(content, reason):
    with pytest.raises(NotAnEventError, match=reason):
        read(content)


def test_rejection_keeps_the_message_whatever_its_bytes():
    line = Rejection(Message(b'{"user": "Zo\xeb\n', "line 3"), "no time").line()
    assert json.loads(line) == {"where": "line 3", "reason": "no time", "message": '{"user": "Zo\\xeb\n'}
    assert "\n" not in line
    assert json.loads(Rejection(Message({"user": "Zoë"}, "entry 1-0"), "x").line())["message"] == {"user": "Zoë"}


def test_lines_are_numbered_as_in_the_stream_and_come_when_they_are_there():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as writer:
        source = LineSource(stream)
        assert source.read(10, 0.01) == []
        writer.write(b"one\n\n  \ntw")
        assert [(m.content, m.where) for m in source.read(10, 0.01)] == [(b"one", "line 1")]
        writer.write(b"o\n" + b"".join(b"%d\n" % number for number in range(5, 25)))
        first = source.read(3, 1)
        assert [(m.content, m.where) for m in first] == [(b"two", "line 4"), (b"5", "line 5"), (b"6", "line 6")]
        assert len(source.read(100, 0.01)) == 18
        writer.write(b"last")
        writer.close()
        assert [(m.content, m.where) for m in source.read(10, 1)] == [(b"last", "line 25")]
        assert source.read(10, 0.01) is None
