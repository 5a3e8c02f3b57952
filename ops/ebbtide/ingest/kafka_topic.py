"""Messages of Kafka topics, shared by the consumers of a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from ebbtide.ingest.errors import IngestError
from ebbtide.ingest.messages import Message

_OWN = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": False,
}
"""Settings that delivery at least once rests on."""
_AWAY = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE})
"""What librdkafka tells and goes on trying by itself."""


class KafkaSource:
    """Reads topics as a member of a consumer group, and commits offsets.

    An offset is committed when the messages before it are done with. So after a crash, and when partitions move to
    another consumer, messages may come again, and none is left out.
    """

    def __init__(
        self,
        brokers: str,
        topics: Sequence[str],
        group: str,
        settings: Mapping[str, str] | None = None,
        *,
        on_wait: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """Joins the group; the brokers need not answer yet.

        Args:
            brokers: ``HOST:PORT,...`` of some brokers.
            topics: Names.
            group: Of consumers; a new one begins with the oldest message.
            settings: Of librdkafka, such as ``security.protocol`` and ``sasl.password``.
            on_wait: Is told what librdkafka complains of while it tries again.

        Raises:
            IngestError: A setting is not valid.
        """
        self.name = f"kafka {brokers}, topic {', '.join(topics)}"
        self._on_wait = on_wait
        config: dict[str, Any] = {
            "auto.offset.reset": "earliest",
            # Brokers choose the partitions anew when a batch takes longer than this to be sent.
            "max.poll.interval.ms": 600_000,
            **(settings or {}),
            **_OWN,
            "bootstrap.servers": brokers,
            "group.id": group,
            "error_cb": self._told,
        }
        try:
            self._consumer = Consumer(config)
            self._consumer.subscribe(list(topics))
        except (KafkaException, ValueError, TypeError) as error:
            raise IngestError(f"{self.name}: {_text(error)}") from None

    def read(self, most: int, wait_s: float) -> Sequence[Message] | None:
        """See `Source.read`; librdkafka waits for brokers that are away."""
        try:
            found = self._consumer.consume(most, wait_s)
        except (KafkaException, RuntimeError) as error:
            raise IngestError(f"{self.name}: {_text(error)}") from None
        messages = []
        for message in found:
            fault = message.error()
            if fault is not None:
                if fault.code() in _AWAY or fault.retriable():
                    self._on_wait(f"{self.name}: {fault.str()}")
                    continue
                raise IngestError(f"{self.name}: {fault.str()}")
            name = f"{message.topic()}/{message.partition()}/{message.offset()}"
            messages.append(
                Message(message.value() or b"", f"{message.topic()}[{message.partition()}] at {message.offset()}", name)
            )
        return messages

    def done(self, messages: Sequence[Message]) -> None:
        """See `Source.done`."""
        after: dict[tuple[str, int], int] = {}
        for message in messages:
            topic, partition, offset = str(message.message_id).rsplit("/", 2)
            key = topic, int(partition)
            after[key] = max(after.get(key, 0), int(offset) + 1)
        offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in after.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            # Of partitions that have moved, or of brokers that are away: the messages come again, and count once.
            self._on_wait(f"{self.name}: {_text(error)}")

    def close(self) -> None:
        """See `Source.close`."""
        self._consumer.close()

    def _told(self, error: KafkaError) -> None:
        self._on_wait(f"{self.name}: {error.str()}")


def read_settings(path: Path) -> dict[str, str]:
    """The settings in a properties file, such as Kafka's own tools read: ``name=value`` lines; ``#`` begins a comment.

    Raises:
        IngestError: A line is no setting.
    """
    settings = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            # The line may hold a password.
            raise IngestError(
                f"{path}: line {number}: got a line without '='; expected name=value, as in security.protocol=SSL"
            )
        settings[name.strip()] = value.strip()
    return settings


def _text(error: BaseException) -> str:
    first = error.args[0] if error.args else error
    return first.str() if isinstance(first, KafkaError) else str(first)
