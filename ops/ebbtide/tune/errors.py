"""What can go wrong in tuning."""

from __future__ import annotations


class TuneError(Exception):
    """A repository cannot be tuned, or an objective cannot be held; the message says what and what to do."""
