"""What every store does with records; each test runs against the embedded store and a real Redis."""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebbtide.store import StoreConfig, StoreConfigError, StoreError, config_from_environment, open_store, shared_key
from ebbtide.store.config import SETTINGS
from stores import FINGERPRINT, PATIENT, put, user

ALICE, BOB, CAROL = user("alice"), user("bob"), user("carol")
SHARED = shared_key("test", 7)


def test_read_returns_what_update_wrote(store):
    store.update([ALICE, BOB], put(b"\x00\r\nrecord", b""))
    assert store.read([BOB, CAROL, ALICE, ALICE], FINGERPRINT) == [b"", None, b"\x00\r\nrecord", b"\x00\r\nrecord"]
    assert store.read([ALICE], b"another version") == [None]
    assert store.read([], FINGERPRINT) == []


def test_update_keeps_the_records_of_other_fingerprints_and_deletes_those_of_none(store):
    store.update([ALICE], put(b"1"))
    store.update([ALICE], put(b"2", fingerprint=b"another"))
    assert store.read_all([ALICE, BOB]) == [{FINGERPRINT: b"1", b"another": b"2"}, {}]
    store.update([ALICE], lambda _: [{FINGERPRINT: None, b"never there": None}])
    assert store.read_all([ALICE]) == [{b"another": b"2"}]
    store.update([ALICE], lambda _: [{b"another": None}])
    assert store.read_all([ALICE]) == [{}]
    assert list(store.users(b"another")) == []


def test_begun_reads_answer_in_any_order_when_other_calls_come_between_and_one_is_dropped(store):
    store.update([ALICE, BOB], lambda _: [{FINGERPRINT: b"a"}, {FINGERPRINT: b"b"}])
    alice, bob, _dropped = (store.begin_read_all([user]) for user in (ALICE, BOB, ALICE))
    assert store.read([BOB, ALICE], FINGERPRINT) == [b"b", b"a"]
    assert bob() == [{FINGERPRINT: b"b"}]
    del _dropped
    assert store.read_all([ALICE, BOB]) == [{FINGERPRINT: b"a"}, {FINGERPRINT: b"b"}]
    assert alice() == [{FINGERPRINT: b"a"}]


def test_update_sees_present_records_and_registered_versions(store):
    store.register(b"v1")
    store.register(b"v2")
    store.update([ALICE], put(b"1"))
    seen = []
    store.update([BOB, ALICE], lambda snapshot: seen.append(snapshot) or [{}, {}])
    [snapshot] = seen
    assert (list(snapshot.indices), list(snapshot.records)) == ([0, 1], [{}, {FINGERPRINT: b"1"}])
    assert snapshot.registered == store.registered() == {b"v1", b"v2"}


def test_update_computes_again_only_the_users_that_another_writer_changed(store, address):
    store.update([ALICE, BOB, CAROL], put(b"a", b"b", b"c"))
    snapshots = []
    with open_store(address, PATIENT) as other:

        def change(snapshot):
            snapshots.append(snapshot)
            if len(snapshots) == 1:
                other.update([BOB], put(b"other"))
            return [{FINGERPRINT: records[FINGERPRINT] + b"+"} for records in snapshot.records]

        store.update([ALICE, BOB, CAROL], change)
    assert [list(snapshot.indices) for snapshot in snapshots] == [[0, 1, 2], [1]]
    assert store.read([ALICE, BOB, CAROL], FINGERPRINT) == [b"a+", b"other+", b"c+"]


def test_update_computes_again_when_the_user_was_forgotten_meanwhile(store, address):
    store.update([ALICE], put(b"a"))
    seen = []
    with open_store(address, PATIENT) as other:

        def change(snapshot):
            seen.append(snapshot.records[0])
            if len(seen) == 1:
                other.forget([ALICE])
            return [{FINGERPRINT: snapshot.records[0].get(FINGERPRINT, b"") + b"+"}]

        store.update([ALICE], change)
    assert seen == [{FINGERPRINT: b"a"}, {}]
    assert store.read([ALICE], FINGERPRINT) == [b"+"]


def test_update_writes_nothing_when_the_change_fails(store):
    store.update([ALICE, BOB], put(b"a", b"b"))

    def fail(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.update([ALICE, BOB], fail)
    assert store.read([ALICE, BOB], FINGERPRINT) == [b"a", b"b"]


def test_forget_removes_all_records_of_the_users_and_no_others(store):
    everyone = [user(number) for number in range(300)]
    store.update(everyone, put(*(b"%d" % number for number in range(300))))
    store.update(everyone[:2], put(b"x", b"y", fingerprint=b"another"))
    assert store.forget([everyone[0], CAROL, everyone[2], everyone[0]])[:3] == [2, 0, 1]
    assert store.read_all(everyone[:3]) == [{}, {FINGERPRINT: b"1", b"another": b"y"}, {}]
    assert store.read(everyone[3:], FINGERPRINT) == [b"%d" % number for number in range(3, 300)]
    store.update([everyone[0]], put(b"back"))
    assert store.read([everyone[0]], FINGERPRINT) == [b"back"]


def test_retire_removes_the_records_of_one_version(store):
    everyone = [user(number) for number in range(2500)]
    store.register(FINGERPRINT)
    store.register(b"another")
    store.update(everyone, put(*[b"r"] * 2500))
    store.update(everyone[:3], put(b"x", b"y", b"z", fingerprint=b"another"))
    assert set(store.users(FINGERPRINT)) == set(everyone)
    assert store.retire(FINGERPRINT) == 2500
    assert store.registered() == {b"another"}
    assert list(store.users(FINGERPRINT)) == []
    assert set(store.users(b"another")) == set(everyone[:3])
    assert store.retire(FINGERPRINT) == 0
    assert store.read_all([everyone[0], everyone[9]]) == [{b"another": b"x"}, {}]


def test_records_outlive_the_store_object(store, address):
    store.register(b"v")
    store.update([ALICE], put(b"1"))
    store.close()
    with open_store(address, PATIENT) as again:
        assert again.read([ALICE], FINGERPRINT) == [b"1"]
        assert again.registered() == {b"v"}


def test_store_refuses_calls_after_close(store):
    store.close()
    store.close()
    with pytest.raises(StoreError, match="it was closed"):
        store.read([ALICE], FINGERPRINT)


def test_forked_child_is_refused_or_served_and_the_parent_goes_on(store, address):
    store.update([ALICE, BOB], put(b"a", b"b"))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if address.startswith("embedded:"):
                for use in (store.registered, partial(open_store, address, PATIENT), store.close):
                    with pytest.raises(StoreError, match="it was open before a fork; open it only in the child"):
                        use()
            else:
                store.update([BOB], put(store.read([ALICE], FINGERPRINT)[0] + b" from the child"))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store.update([ALICE], put(b"from the parent"))
    written_by_child = b"b" if address.startswith("embedded:") else b"a from the child"
    assert store.read([ALICE, BOB], FINGERPRINT) == [b"from the parent", written_by_child]


def test_records_go_away_after_the_time_to_live(address):
    # A second in days, so that the test waits for a second.
    with open_store(address, replace(PATIENT, ttl_days=1 / 86_400)) as store:
        store.update([ALICE, BOB, SHARED], put(b"a", b"b", b"of all users"))

        def is_only_bob_left():
            # A busy machine may take more than a second between the two.
            store.update([BOB], put(b"still here"))
            return list(store.users(FINGERPRINT)) == [BOB]

        while not is_only_bob_left():
            time.sleep(0.05)
        assert store.read([ALICE], FINGERPRINT) == [None]
        assert store.read_all([ALICE]) == [{}]
        # Shared records do not expire, and are no users.
        assert store.read([SHARED], FINGERPRINT) == [b"of all users"]
        seen = []
        while store.read([ALICE], FINGERPRINT) != [b"anew"]:
            store.update([ALICE], lambda snapshot: seen.extend(snapshot.records) or [{FINGERPRINT: b"anew"}])
        assert not any(seen)


def test_records_stay_when_no_time_to_live_is_set_any_more(address):
    with open_store(address, replace(PATIENT, ttl_days=1 / 86_400)) as store:
        store.update([ALICE], put(b"a"))
    with open_store(address, PATIENT) as store:
        store.update([ALICE], put(b"b"))
        time.sleep(1.2)
        assert store.read([ALICE], FINGERPRINT) == [b"b"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda store: store.read([b"short"], FINGERPRINT), "key of a user: got 5 bytes, expected 16"),
        (lambda store: store.read([ALICE], b""), "fingerprint: got 0 bytes, expected 1 to 128"),
        (lambda store: store.register(b"f" * 129), "fingerprint: got 129 bytes, expected 1 to 128"),
        (lambda store: store.update([ALICE, ALICE], put(b"", b"")), "users: got 1 more than once"),
        (lambda store: store.update([ALICE], lambda _: []), "changes: got 0 users, expected 1"),
        (lambda store: store.update([ALICE], put(b"", fingerprint=b"")), "fingerprint: got 0 bytes"),
    ],
)
def test_wrong_arguments_are_named(store, call, message):
    with pytest.raises(StoreConfigError, match=message):
        call(store)


USERS = [user(number) for number in range(6)]
FINGERPRINTS = [b"a", b"bb", b"\x00\xff" * 20]
records = st.one_of(st.binary(max_size=40), st.integers(0, 9000).map(bytes))
changes = st.dictionaries(st.sampled_from(FINGERPRINTS), st.none() | records, max_size=3)
updates = st.lists(st.tuples(st.sampled_from(USERS), changes), max_size=6, unique_by=lambda pair: pair[0])
steps = st.lists(st.one_of(updates, st.sampled_from(USERS), st.sampled_from(FINGERPRINTS)), max_size=12)


def wanted(changes, snapshot):
    return [changes[index] for index in snapshot.indices]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_any_calls_leave_what_a_dictionary_would_hold(store, steps):
    store.forget(USERS)
    expected = {each: {} for each in USERS}
    for step in steps:
        if isinstance(step, list):
            store.update([each for each, _ in step], partial(wanted, [change for _, change in step]))
            for each, change in step:
                merged = expected[each] | change
                expected[each] = {name: record for name, record in merged.items() if record is not None}
        elif step in USERS:
            assert store.forget([step]) == [len(expected[step])]
            expected[step] = {}
        else:
            assert store.retire(step) == sum(step in found for found in expected.values())
            for found in expected.values():
                found.pop(step, None)
        assert store.read_all(USERS) == list(expected.values())
    for name in FINGERPRINTS:
        assert store.read(USERS, name) == [found.get(name) for found in expected.values()]
        assert set(store.users(name)) == {each for each, found in expected.items() if name in found}


def test_neither_logs_nor_texts_hold_the_password(address, caplog):
    config = replace(PATIENT, username="service", password="hunter2 secret")  # noqa: S106 - of no one
    caplog.set_level(logging.DEBUG)
    texts = [repr(config), str(config)]
    store = open_store(address, config)
    texts += [repr(store), str(store), store.name]
    try:
        store.update([ALICE], put(b"1"))
    except StoreError as error:
        texts += [str(error), repr(error), repr(error.__context__), repr(error.__cause__)]
    store.close()
    assert not [text for text in [*texts, caplog.text] if "hunter2" in text]


def test_config_is_read_from_the_environment(tmp_path):
    secret = tmp_path / "password"
    secret.write_text("first line\nsecond\n", encoding="utf-8")
    config = config_from_environment(
        {
            "EBBTIDE_STATE": "redis://host",
            "EBBTIDE_STATE_TIMEOUT_MS": "250",
            "EBBTIDE_STATE_TTL_DAYS": "90",
            "EBBTIDE_STATE_DURABILITY": "crash",
            "EBBTIDE_STATE_MAX_GIB": "2.5",
            "EBBTIDE_STATE_USERNAME": "service",
            "EBBTIDE_STATE_PASSWORD": "",
            "EBBTIDE_STATE_PASSWORD_FILE": str(secret),
            "EBBTIDE_STATE_CA_FILE": str(secret),
            "UNRELATED": "x",
        }
    )
    assert config == StoreConfig(
        timeout_ms=250,
        ttl_days=90,
        durability="crash",
        max_gib=2.5,
        username="service",
        password="first line",  # noqa: S106 - of no one
        ca_file=secret,
    )
    assert config_from_environment({}) == StoreConfig()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TIMEOUT_MS": "soon"}, "EBBTIDE_STATE_TIMEOUT_MS: got 'soon', expected a number"),
        ({"TIMEOUT_MS": "0"}, "timeout_ms: got 0.0, expected a positive number"),
        ({"TTL": "90"}, "EBBTIDE_STATE_TTL: unknown variable; expected one of EBBTIDE_STATE_TIMEOUT_MS, "),
        ({"TTL_DAYS": "nan"}, "ttl_days: got nan, expected a positive number"),
        ({"MAX_GIB": "-1"}, "max_gib: got -1.0, expected a positive number"),
        ({"DURABILITY": "none"}, "durability: got 'none', expected one of power-loss, crash"),
        ({"PASSWORD": "a", "PASSWORD_FILE": "b"}, "got both, expected one of them"),
        ({"PASSWORD_FILE": "/nonexistent"}, "EBBTIDE_STATE_PASSWORD_FILE: cannot read /nonexistent: No such file"),
        ({"CA_FILE": "/nonexistent"}, "ca_file: /nonexistent does not exist or cannot be read"),
        ({"KEY_FILE": "/etc/hostname"}, "certificate_file and key_file: got one of them, expected both or none"),
    ],
)
def test_wrong_variables_are_named(variables, message):
    with pytest.raises(StoreConfigError, match=message):
        config_from_environment({f"EBBTIDE_STATE_{name}": value for name, value in variables.items()})


def test_guide_lists_every_variable():
    guide = (Path(__file__).parents[2] / "docs" / "state-store.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(EBBTIDE_STATE\w*)` \|", guide, re.MULTILINE)
    assert rows == ["EBBTIDE_STATE", *(f"EBBTIDE_STATE_{name}" for name in SETTINGS)]
