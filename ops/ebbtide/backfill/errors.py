"""What can go wrong in a backfill, apart from what the files (`DataError`) and the store (`StoreError`) raise."""

from __future__ import annotations


class BackfillError(Exception):
    """A backfill cannot be run, or cannot go on; the message says what was seen, what was expected and what to do."""
