"""Requests of real users from the bundle's event log, each with 50 history events and 10 current events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ebbtide.data.dataset import read_dataset
from ebbtide.interest import contract
from ebbtide.interest.keys import item_keys
from ebbtide.train.bundle import InterestBundle

HISTORY, CURRENT = 50, 10
EVENTS = HISTORY + CURRENT
USERS = 256
_SINCE_LAST_MS = 60_000

Tensors = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Requests:
    """R requests of different users; row r of each array is one request to `recommend`."""

    tensors: Tensors
    """Arrays ``[R, ...]`` by input name."""

    def __len__(self) -> int:
        return len(self.tensors[contract.NOW.name])

    def __iter__(self) -> Iterator[Tensors]:
        """Yields each request with a batch dimension of 1."""
        for row in range(len(self)):
            yield {name: array[row : row + 1] for name, array in self.tensors.items()}

    def write_json(self, path: Path) -> Path:
        """Writes the requests as perf_analyzer's ``--input-data``; returns the path."""
        content = [
            {
                name: {"content": array[row].reshape(-1).tolist(), "shape": list(array.shape[1:])}
                for name, array in self.tensors.items()
            }
            for row in range(len(self))
        ]
        path.write_text(json.dumps({"data": content}))
        return path


def real_requests(bundle: InterestBundle, users: int = USERS) -> Requests:
    """Requests with the last `EVENTS` events of users who have that many, a minute after the last event.

    Raises:
        ValueError: No user of the log has that many events.
    """
    log = read_dataset(bundle.config.data).log
    keys = item_keys(bundle.catalog.item_id)
    ends = log.start[1:][np.diff(log.start) >= EVENTS]
    if not ends.size:
        raise ValueError(
            f"{bundle.config.data.events}: got no user with {EVENTS} events; expected one or more: use another --bundle"
        )
    chosen = np.random.default_rng(0).permutation(ends)[:users]
    span = chosen[:, None] + np.arange(-EVENTS, 0)
    time_ms = log.time_ms[span]
    is_current = np.broadcast_to(np.arange(EVENTS) >= HISTORY, span.shape)
    return Requests(
        {
            contract.EVENT_ITEM.name: keys[log.item[span]],
            contract.EVENT_TIME.name: time_ms,
            contract.EVENT_IS_CURRENT.name: np.ascontiguousarray(is_current),
            contract.NOW.name: time_ms[:, -1:] + _SINCE_LAST_MS,
        }
    )
