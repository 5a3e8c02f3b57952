"""Writers at the same time, and writers that are killed; against both stores.

The slow test repeats `test_no_acknowledged_update_is_lost_when_writers_are_killed` at full size.
"""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from ebbtide.store import open_store
from stores import FINGERPRINT, PATIENT, append, entries, put, start_writer, user

ALICE = user("alice")


def run_threads(*works):
    """Runs functions at the same time; fails if any of them does."""
    failures = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_eight_threads_lose_nothing_on_one_user(store):
    def work(thread):
        for number in range(25):
            store.update([ALICE], append((0, thread, number)))

    run_threads(*(lambda thread=thread: work(thread) for thread in range(8)))
    found = entries(store, ALICE)
    assert Counter(found) == Counter((0, thread, number) for thread in range(8) for number in range(25))
    for thread in range(8):
        assert [number for _, by, number in found if by == thread] == list(range(25))


def test_four_processes_with_two_threads_lose_nothing_on_one_user(store, address):
    store.update([ALICE], put(b""))
    writers = [start_writer(address, ALICE, writer, 2, 25) for writer in range(4)]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert Counter(entries(store, ALICE)) == Counter(
        (writer, thread, number) for writer in range(4) for thread in range(2) for number in range(25)
    )


def test_batches_that_share_users_in_any_order_lose_nothing(store):
    everyone = [user(number) for number in range(12)]

    def work(thread):
        for number in range(15):
            shift = (thread * 5 + number) % 12
            batch = (everyone[shift:] + everyone[:shift])[:8]
            store.update(batch[:: 1 if thread % 2 else -1], append((0, thread, number)))

    run_threads(*(lambda thread=thread: work(thread) for thread in range(4)))
    expected = Counter()
    for thread in range(4):
        for number in range(15):
            shift = (thread * 5 + number) % 12
            expected.update((each, (0, thread, number)) for each in (everyone[shift:] + everyone[:shift])[:8])
    assert Counter((each, entry) for each in everyone for entry in entries(store, each)) == expected


def test_reads_see_every_user_while_others_are_forgotten_and_written(store, address):
    everyone = [user(number) for number in range(40)]
    store.update(everyone, put(*[b"stays" * 100] * 40))
    # In the bucket of the first user, so that the embedded store encrypts it again each time.
    beside = [everyone[0][:2] + bytes([number]) * 14 for number in range(4)]
    is_done = threading.Event()

    def read():
        while not is_done.is_set():
            assert store.read(everyone, FINGERPRINT) == [b"stays" * 100] * 40

    def forget():
        try:
            with open_store(address, PATIENT) as other:
                for _ in range(25):
                    other.update(beside, put(*[b"goes"] * 4))
                    assert other.forget(beside) == [1] * 4
        finally:
            is_done.set()

    run_threads(read, read, forget)


def kill_writers(address, durability, updates, kills):
    """Kills writers in the middle of their updates, and checks what they had said was written."""
    with open_store(address, PATIENT) as store:
        for writer in range(kills):
            acknowledged = []
            # At another place each time, and before the end.
            place = (writer + 1) * updates // kills // (kills + 1)
            with start_writer(address, user(writer), writer, 2, updates // kills, durability) as process:
                for line in process.stdout:
                    acknowledged.append(tuple(map(int, line.split())))
                    if len(acknowledged) >= place:
                        break
                process.kill()
                # Lines that it had printed before it died.
                acknowledged += [tuple(map(int, line.split())) for line in process.stdout if line.endswith("\n")]
            assert process.returncode == -9
            found = entries(store, user(writer))
            assert set(acknowledged) <= {(thread, number) for _, thread, number in found}
            # What was written and not acknowledged is at most one update of each thread, and nothing came twice.
            assert len(found) == len(set(found)) <= len(acknowledged) + 2
            store.update([user(writer)], put(b"the store goes on"))
            assert store.read([user(writer)], FINGERPRINT) == [b"the store goes on"]


def test_no_acknowledged_update_is_lost_when_writers_are_killed(address):
    kill_writers(address, "crash", updates=1000, kills=3)


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["crash", "power-loss"])
def test_no_acknowledged_update_of_10000_is_lost_when_writers_are_killed(address, durability):
    kill_writers(address, durability, updates=10_000, kills=10)
