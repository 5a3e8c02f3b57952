"""Feeds a stream of events to a server: JSON Lines, a Redis stream or a Kafka topic.

Delivery is at least once: a message is acknowledged after the server's store has its event, or after it was rejected.
The effect is exactly once, since events have ids.
"""

from ebbtide.ingest.errors import IngestError
from ebbtide.ingest.lines import LineSource
from ebbtide.ingest.messages import FieldNames, Message, Rejection
from ebbtide.ingest.pump import Pump, Totals
from ebbtide.ingest.sources import Source

__all__ = ["FieldNames", "IngestError", "LineSource", "Message", "Pump", "Rejection", "Source", "Totals"]
