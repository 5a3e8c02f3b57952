"""What can go wrong while lists are computed, apart from what the files of the log raise (`DataError`)."""

from __future__ import annotations


class BatchError(Exception):
    """The lists cannot be computed; the message says what was seen, what was expected and what to do."""
