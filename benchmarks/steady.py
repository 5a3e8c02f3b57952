"""Calls at a fixed rate, whether or not earlier ones were answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from ebbtide.client import InterestClient

_THREADS = 32


@dataclass
class Load:
    """Calls of one client of some servers."""

    addresses: Sequence[str]
    call: Callable[[InterestClient, int], object]
    """Makes the call of a number."""
    rate_per_s: float
    latencies_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Calls until it ends."""
        ends = threading.Event()
        with InterestClient(list(self.addresses)) as client, ThreadPoolExecutor(_THREADS) as pool:

            def start() -> None:
                began, sent = time.perf_counter(), 0
                while not ends.is_set():
                    pool.submit(self._call, client, sent)
                    sent += 1
                    ends.wait(max(0.0, began + sent / self.rate_per_s - time.perf_counter()))

            thread = threading.Thread(target=start)
            thread.start()
            try:
                yield
            finally:
                ends.set()
                thread.join()

    def _call(self, client: InterestClient, number: int) -> None:
        began = time.perf_counter()
        try:
            self.call(client, number)
        except Exception as error:
            self.failures.append(repr(error))
        self.latencies_ms.append(1_000 * (time.perf_counter() - began))
