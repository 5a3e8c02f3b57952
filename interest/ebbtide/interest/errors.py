"""What is wrong with a request, in one form that servers write and clients read back."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MESSAGE = re.compile(
    r"(?:(?P<model>\w+): )?(?P<field>\w+(?:\[\d+\])?): got (?P<value>.*); expected (?P<expected>.*)", re.DOTALL
)


STORE_FAILED = "the store of the users' states failed"
"""Begins what Triton answers with UNAVAILABLE if the store fails, after the name of the model; the store's own message
follows. It tells such an error from that of a server that refuses work."""


@dataclass(eq=False)
class RequestError(ValueError):
    """A field of a request that cannot be served.

    Its text, ``<field>: got <value>; expected <expectation>``, is what Triton answers with INVALID_ARGUMENT, after the
    name of the model that found it; `RequestError.parse` reads it back.
    """

    field: str
    """Tensor name, with the index of the offending element where there is one: ``event_time[3]``."""
    value: str
    """The value seen."""
    expected: str
    """What would have been accepted."""

    def __str__(self) -> str:
        return f"{self.field}: got {self.value}; expected {self.expected}"

    @classmethod
    def parse(cls, message: str) -> RequestError | None:
        """Reads the error back from a server's message; None when the message is of another kind."""
        match = _MESSAGE.search(message)
        if match is None:
            return None
        return cls(match["field"], match["value"], match["expected"])
