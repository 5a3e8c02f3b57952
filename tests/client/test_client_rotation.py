"""Turns among several servers, with a clock that the test moves."""

from types import SimpleNamespace

import pytest

from ebbtide.client import (
    CallCancelledError,
    InternalError,
    ModelNotReadyError,
    OverloadedError,
    StateUnavailableError,
    Status,
    UnavailableError,
)
from ebbtide.client import _rotation as rotation_module
from ebbtide.client._rotation import Rotation, is_the_servers


@pytest.fixture
def clock(monkeypatch):
    """A clock with a field `now_s`."""
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(rotation_module.time, "monotonic", lambda: clock.now_s)
    return clock


def rotation(servers=3, *, connected=None, **settings):
    made = Rotation([f"10.0.0.{n}:8001" for n in range(servers)], **{"in_turn": True, "longest_pause_s": 4, **settings})
    made.is_connected = lambda server: connected is None or server in connected
    return made


def test_servers_get_calls_in_turn_when_all_are_in_service():
    turns = rotation()
    assert [turns.choose() for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_first_server_in_service_gets_all_calls_when_they_do_not_take_turns():
    turns = rotation(in_turn=False)
    assert [turns.choose() for _ in range(3)] == [0, 0, 0]
    turns.failed(0)
    assert [turns.choose() for _ in range(3)] == [1, 1, 1]


def test_servers_are_left_out_when_they_are_not_connected_or_failed_this_call():
    turns = rotation(connected={1, 2})
    assert [turns.choose() for _ in range(4)] == [1, 2, 1, 2]
    assert turns.choose(tried={1}) == 2
    assert turns.choose(tried={1, 2}) is None
    assert (turns.has_other({1}), turns.has_other({1, 2})) == (True, False)


def test_choice_is_grpcs_when_no_server_is_in_service():
    assert rotation(connected=set()).choose() is None
    assert Rotation(["a:1", "b:1"], in_turn=True, longest_pause_s=1).choose() is None


def test_server_that_failed_is_tried_by_one_call_when_its_pause_is_over(clock):
    turns = rotation(2)
    turns.failed(0)
    assert [turns.choose() for _ in range(3)] == [1, 1, 1]
    clock.now_s += 1.01
    assert sorted(turns.choose() for _ in range(4)) == [0, 1, 1, 1]
    turns.answered(0)
    assert sorted(turns.choose() for _ in range(4)) == [0, 0, 1, 1]


def test_pause_doubles_up_to_the_longest_when_a_server_fails_again(clock):
    turns = rotation(2, connected={0})
    pauses = []
    for _ in range(4):
        # Calls in flight that fail together count as one failure.
        turns.failed(0)
        turns.failed(0)
        began_s = clock.now_s
        while turns.choose() is None:
            clock.now_s += 0.25
        pauses.append(clock.now_s - began_s)
    assert pauses == [1, 2, 4, 4]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UnavailableError("a"), True),
        (ModelNotReadyError("a", status=Status.NOT_FOUND), True),
        (CallCancelledError("a"), True),
        (OverloadedError("a"), False),
        (StateUnavailableError("a"), False),
        (InternalError("a"), False),
    ],
)
def test_another_server_is_asked_when_the_error_is_the_servers_own(error, expected):
    assert is_the_servers(error) is expected
