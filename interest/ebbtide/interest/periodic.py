"""Calls a function again and again in a thread of its own, while the served models answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_PAUSE_OVER_CALL = 10
"""A call that takes long is followed by a longer pause, so that the thread leaves the core to others."""


class Periodic:
    """Calls a function at once, and after every pause, until it is closed."""

    def __init__(
        self, call: Callable[[], None], pause_s: float, report: Callable[[str], None], longest_pause_s: float = 0
    ) -> None:
        """Starts the thread.

        Args:
            call: May fail; then it is called again after the next pause.
            pause_s: Seconds between two calls.
            report: Is told the first of several failures in a row.
            longest_pause_s: Seconds up to which the pause grows to ten times what the call took.
        """
        self._call = call
        self._pause_s = pause_s
        self._longest_pause_s = max(pause_s, longest_pause_s)
        self._report = report
        self._failed = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Calls the function for a last time, and ends the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while True:
            began = time.monotonic()
            try:
                self._call()
                self._failed = False
            except Exception as error:
                if not self._failed:
                    self._report(str(error))
                self._failed = True
            if is_last:
                return
            long_s = _PAUSE_OVER_CALL * (time.monotonic() - began)
            is_last = self._closing.wait(min(max(self._pause_s, long_s), self._longest_pause_s))
