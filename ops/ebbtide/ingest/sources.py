"""What a source of messages does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ebbtide.ingest.messages import Message


class Source(Protocol):
    """Gives messages, some at a time, and learns which are done with.

    Messages that were given and are not done with when the process ends, however it ends, are given again later, to
    this consumer or to another one.
    """

    @property
    def name(self) -> str:
        """For messages, without user name and password."""
        ...

    def read(self, most: int, wait_s: float) -> Sequence[Message] | None:
        """The next messages.

        Args:
            most: How many at most.
            wait_s: How long to wait for the first one, seconds.

        Returns:
            Messages; none if none came in time; None at the end of a source that has one.

        Raises:
            IngestError: The source cannot be read. One that is away for a while is waited for.
        """
        ...

    def done(self, messages: Sequence[Message]) -> None:
        """Notes that these messages, as `read` gave them, need not be given again."""
        ...

    def close(self) -> None:
        """Leaves the source."""
        ...
