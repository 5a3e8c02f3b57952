"""Refuses a port of this machine that something else listens on, before `make serve` sets up and trains.

Run by any Python, before .venv is there: NAME=PORT for each port.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Sequence


def main(ports: Sequence[str]) -> int:
    """The exit status: 1 if a port is taken, which is printed in one line."""
    with contextlib.ExitStack() as held:
        for name, _, port in (one.partition("=") for one in ports):
            bound = held.enter_context(socket.socket())
            # As a server does: a port whose last connections linger in TIME_WAIT is free.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bound.bind(("127.0.0.1", int(port)))
                bound.listen(1)
            except (OSError, OverflowError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                print(
                    f"error: {name}: port {port} of 127.0.0.1 can't be bound: {reason}; "
                    f"end the process that listens there, or choose another port: make serve {name}=PORT",
                    file=sys.stderr,
                )
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
