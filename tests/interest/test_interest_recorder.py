"""Records give what the batch formula gives for all events at once, whatever way the events took into them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.interest.record import HALF_TAIL_EVENTS, KNOWN_IDS, TAIL_EVENTS, NewEvents

START_MS = 1_600_000_000_000
MS_PER_DAY = 86_400_000
GAP_MS = 1_800_000
PAUSES_MS = [0, 0, 1, 20_000, 60_000, 600_000, GAP_MS, GAP_MS + 1, MS_PER_DAY, 30 * MS_PER_DAY, 900 * MS_PER_DAY]
UNKNOWN_KEY = 5


@dataclass
class Log:
    """The events of one user in the order of their arrival, and how they reach the record."""

    key: np.ndarray
    time_ms: np.ndarray
    weight: np.ndarray
    event_id: np.ndarray
    call: np.ndarray
    """Ascending: the call that each event is part of."""
    now_ms: int
    asked: tuple
    """Key, time and weight of the events of the request."""


def random_log(random, keys, *, events, calls, own_ids, asked=True) -> Log:
    """Events that arrive out of order inside the tail, some of them more than once; see `test_...at_any_split`."""
    pauses = random.choice(PAUSES_MS[: random.integers(3, len(PAUSES_MS) + 1)], events)
    time_ms = START_MS + np.cumsum(pauses)
    key = random.choice(keys[: random.integers(2, 30)], events)
    key[random.random(events) < 0.1] = UNKNOWN_KEY
    weight = np.where(random.random(events) < 0.5, 1, random.random(events) * 5 + 0.01).astype(np.float32)
    index = np.arange(events)
    # An event with fewer than TAIL_EVENTS newer ones before it is never older than what is folded; the id of one with
    # fewer than KNOWN_IDS newer ones is still known.
    disorder = random.choice([0, 3, TAIL_EVENTS])
    arrival = index + random.random(events) * disorder
    again = np.flatnonzero(random.random(events) < random.choice([0, 0.3]))
    index = np.concatenate([index, again])
    arrival = np.concatenate([arrival, again + random.random(again.size) * (KNOWN_IDS - 1)])
    index = index[np.argsort(arrival, kind="stable")]
    event_id = random.integers(-(2**63), 2**63, events)
    call = np.sort(random.integers(0, calls, index.size))
    now_ms = int(random.choice(np.r_[START_MS - 1, time_ms, time_ms[-1:] + random.choice(PAUSES_MS)]))
    return Log(
        key[index],
        time_ms[index],
        weight[index],
        event_id[index] if own_ids else np.zeros(0, np.int64),
        call,
        now_ms,
        asked_events(random, keys, now_ms, time_ms, key) if asked else (),
    )


def asked_events(random, keys, now_ms, time_ms, key):
    """Events of a request, among them some that the record may hold; none is older than what may be folded."""
    oldest = np.sort(time_ms)[max(time_ms.size - HALF_TAIL_EVENTS, 0)]
    if oldest > now_ms:
        return ()
    known = np.flatnonzero((time_ms >= oldest) & (time_ms <= now_ms) & (key != UNKNOWN_KEY))
    repeated = random.choice(known, min(known.size, random.integers(0, 3)), replace=False)
    own = int(random.integers(0, 4))
    own_times = random.integers(oldest, now_ms + 1, own)
    keys, times = np.r_[key[repeated], random.choice(keys, own)], np.r_[time_ms[repeated], own_times]
    return keys, times, (random.random(keys.size) + 0.1).astype(np.float32)


def observed(recorder, random, logs, records=None):
    """The records after all calls: each call takes some users in any order; and all acknowledgements, added up."""
    records = [None] * len(logs) if records is None else list(records)
    total = np.zeros((len(logs), 4), np.int64)
    for call in range(max((int(log.call.max(initial=-1)) for log in logs), default=-1) + 1):
        users = random.permutation(len(logs))
        parts = [np.flatnonzero(logs[user].call == call) for user in users]
        users, parts = zip(*[(u, p) for u, p in zip(users, parts, strict=True) if p.size or random.random() < 0.2]) or (
            (),
            (),
        )
        column = {
            name: np.concatenate([getattr(logs[user], name)[part] for user, part in zip(users, parts, strict=True)])
            for name in ("key", "time_ms", "weight")
        }
        own_ids = None
        if logs[0].event_id.size:
            own_ids = np.concatenate([logs[user].event_id[part] for user, part in zip(users, parts, strict=True)])
        done = recorder.observe(
            [records[user] for user in users],
            NewEvents(np.array([part.size for part in parts]), *column.values(), own_ids),
        )
        for user, record, counts in zip(users, done.records, done.counts, strict=True):
            records[user] = record
            total[user] += counts
    return records, total
