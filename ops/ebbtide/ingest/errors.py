"""What can go wrong while events are fed to a server, apart from single messages: those are rejected, not raised."""

from __future__ import annotations


class IngestError(Exception):
    """A source cannot be read, or its settings cannot be used; the message says what to do."""
