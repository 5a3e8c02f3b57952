"""``ebbtide ingest``: feeds events from standard input, a Redis stream or Kafka to a running server."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.access import Tls, TlsCa, TlsCertificate, TlsKey, TlsServerName, TokenFile
from ebbtide.cli.console import console, errors, escape, working
from ebbtide.cli.errors import CommandError
from ebbtide.cli.interest_display import counted_events
from ebbtide.cli.modules import require_modules
from ebbtide.cli.outputs import require_file
from ebbtide.cli.states import LOCAL, Server, UnknownItems, open_client
from ebbtide.interest.time_units import TimeUnit

if TYPE_CHECKING:
    from ebbtide.ingest import Pump, Source, Totals


def command(
    server: Server = LOCAL,
    redis: Annotated[
        str | None,
        typer.Option(help="Address of the Redis with the stream of events, as for `ebbtide serve --state`."),
    ] = None,
    kafka: Annotated[
        str | None, typer.Option(metavar="BROKERS", help="Kafka brokers (host:port,...; needs ebbtide[kafka]).")
    ] = None,
    stream: Annotated[
        str, typer.Option("--stream", "--topic", help="Name of the Redis stream, or of the Kafka topic.")
    ] = "events",
    group: Annotated[str, typer.Option(help="Consumer group. A new one begins with the oldest message.")] = "ebbtide",
    consumer: Annotated[
        str | None,
        typer.Option(
            help="Name of this consumer of a Redis stream, unique in its group and the same after a restart. Default: "
            "this machine's name."
        ),
    ] = None,
    claim_after_s: Annotated[
        float,
        typer.Option(
            min=0.1, help="Take over messages of a Redis stream that another consumer has left for so long, in seconds."
        ),
    ] = 60.0,
    redis_username: Annotated[str | None, typer.Option(help="User name for --redis.")] = None,
    redis_password_file: Annotated[
        Path | None, typer.Option(help="File whose first line is the password for --redis.")
    ] = None,
    redis_ca: Annotated[
        Path | None,
        typer.Option(help="PEM file with the authority for the certificate of --redis. Default: the system's."),
    ] = None,
    kafka_config: Annotated[
        Path | None,
        typer.Option(help="Properties file with settings of librdkafka, such as those of TLS and SASL."),
    ] = None,
    user_field: Annotated[str, typer.Option(help="Key of the user id.")] = "user",
    item_field: Annotated[str, typer.Option(help="Key of the item id.")] = "item",
    time_field: Annotated[
        str, typer.Option(help="Key of the time: Unix time, or ISO 8601 text (UTC without an offset).")
    ] = "time",
    weight_field: Annotated[str, typer.Option(help="Key of the weight, where an event has one.")] = "weight",
    event_type_field: Annotated[
        str | None,
        typer.Option(
            help="Key of what the user did (view, purchase, dislike), for a model that was trained with event types; "
            "an event without it is of the first target type. Default: none is read."
        ),
    ] = None,
    event_id_field: Annotated[
        str, typer.Option(help="Key of the event id, where an event has one: events with the same id count once.")
    ] = "event_id",
    item_time_ids: Annotated[
        bool,
        typer.Option(
            "--item-time-ids",
            help="Item and time are the id of an event that has none, as for `ebbtide backfill`. Default: the id of "
            "its message in the stream.",
        ),
    ] = False,
    time_unit: Annotated[
        TimeUnit | None,
        typer.Option(help="Unit of numeric times. Default: found by magnitude for times between 1995 and 2200."),
    ] = None,
    unknown_items: Annotated[
        UnknownItems | None,
        typer.Option(
            help="What to do with items that are not in the catalog: ignore counts them, error rejects them. Default: "
            "as the model was exported."
        ),
    ] = None,
    progress: Annotated[
        Path | None,
        typer.Option(
            help="File that keeps how many lines of standard input are done with. The next run with the same lines "
            "skips them; remove it for other lines."
        ),
    ] = None,
    rejected: Annotated[
        Path | None,
        typer.Option(help="File for messages that are no events, as JSON Lines with the reason; appended."),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Messages that are sent and acknowledged together, at most.")
    ] = 1000,
    wait_ms: Annotated[
        float, typer.Option(min=1, help="How long a message waits for others at most, in milliseconds.")
    ] = 200.0,
    idle_exit_s: Annotated[
        float | None,
        typer.Option(min=0, help="End when no message has come for so long, in seconds. Default: wait for more."),
    ] = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    token_file: TokenFile = None,
) -> None:
    """Feed a stream of events to a running server: JSON Lines from standard input, a Redis stream, or a Kafka topic.

    A message is one event, such as {"user": "547", "item": "318", "time": "2026-05-01T20:15:00Z", "weight": 5}. In a
    Redis stream these may also be the fields of the entry. A message is acknowledged when the server's store has its
    event, so none is lost; after a crash some come again, and count once. While the server is away, the command waits.
    Ctrl-C ends it after the present batch.

    **Examples**

    ebbtide ingest --server localhost:8001 < events.jsonl

    ebbtide ingest --redis redis://localhost:6379/0 --stream events --rejected rejected.jsonl

    ebbtide ingest --kafka broker1:9092,broker2:9092 --topic events --kafka-config client.properties
    """
    if redis is not None and kafka is not None:
        raise typer.BadParameter("--kafka: got it together with --redis; expected one of them, or none")
    if redis is None and kafka is None and sys.stdin.isatty():
        raise typer.BadParameter("expected events on standard input, as in < events.jsonl, or --redis or --kafka")
    if progress is not None and (redis or kafka):
        raise typer.BadParameter("--progress: got it with --redis or --kafka, which keep it themselves")
    require_file("--rejected", rejected)
    require_file("--progress", progress)
    from ebbtide.ingest import FieldNames, Pump

    told = _Told()
    with ExitStack() as stack:
        source = _source(
            redis,
            kafka,
            stream,
            group,
            consumer,
            claim_after_s,
            redis_username,
            redis_password_file,
            redis_ca,
            kafka_config,
            progress,
            told,
        )
        stack.callback(source.close)
        client = open_client(server, tls, tls_ca, tls_certificate, tls_key, tls_server_name, token_file)
        stack.enter_context(client)
        file = None if rejected is None else stack.enter_context(rejected.open("a", encoding="utf-8"))
        status = stack.enter_context(working(f"Waiting for messages of {source.name}"))

        def report(totals: Totals) -> None:
            told.again()
            status.update(f"{totals.messages:,} messages of {source.name}")

        pump = Pump(
            source,
            client,
            FieldNames(user_field, item_field, time_field, weight_field, event_id_field, time_unit, event_type_field),
            unknown_items=None if unknown_items is None else unknown_items.value,
            id_from_message=not item_time_ids,
            rejected=file,
            messages_per_batch=batch,
            wait_s=wait_ms / 1000,
            on_wait=told,
            on_batch=report,
        )
        try:
            with _stopping(pump):
                pump.run(idle_exit_s)
        finally:
            _print(pump.totals, rejected)


def _source(
    redis: str | None,
    kafka: str | None,
    stream: str,
    group: str,
    consumer: str | None,
    claim_after_s: float,
    redis_username: str | None,
    redis_password_file: Path | None,
    redis_ca: Path | None,
    kafka_config: Path | None,
    progress: Path | None,
    told: _Told,
) -> Source:
    if redis is not None:
        require_modules("--redis", "state", "redis")
        from ebbtide.ingest.redis_stream import RedisAccess, RedisStreamSource

        password = None
        if redis_password_file is not None:
            password = next(iter(redis_password_file.read_text(encoding="utf-8").splitlines()), "")
            if not password:
                raise CommandError(f"--redis-password-file: {redis_password_file}: got no first line with a password")
        access = RedisAccess(redis_username, password, redis_ca)
        name = consumer or socket.gethostname()
        return RedisStreamSource(redis, stream, group, name, access, claim_after_s=claim_after_s, on_wait=told)
    if kafka is not None:
        require_modules("--kafka", "kafka", "confluent_kafka")
        from ebbtide.ingest.kafka_topic import KafkaSource, read_settings

        settings = None if kafka_config is None else read_settings(kafka_config)
        return KafkaSource(kafka, [stream], group, settings, on_wait=told)
    from ebbtide.ingest import LineSource

    return LineSource(sys.stdin.buffer, progress=progress)


class _Told:
    """Prints why the command waits; the same reason once, until something has worked again."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, reason: str) -> None:
        if reason != self._last:
            self._last = reason
            errors.print(f"[yellow]waiting:[/yellow] {escape(reason)}", soft_wrap=True)

    def again(self) -> None:
        """Something has worked."""
        self._last = ""


@contextmanager
def _stopping(pump: Pump) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the pump after its batch; a second Ctrl-C at once."""

    def stop(number: int, _frame: object) -> None:
        pump.stop()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(totals: Totals, rejected: Path | None) -> None:
    details = [f"{counted_events(totals.added)} added"]
    details += [
        f"{count:,} {what}"
        for count, what in (
            (totals.duplicates, "known before"),
            (totals.late, "late"),
            (totals.unknown_items, "of unknown items"),
            (totals.rejected, "rejected"),
        )
        if count
    ]
    messages = "1 message" if totals.messages == 1 else f"{totals.messages:,} messages"
    console.print(f"[green]✓[/green] {messages}: {', '.join(details)}", soft_wrap=True)
    for rejection in totals.first_rejections:
        console.print(
            f"  [yellow]rejected:[/yellow] {escape(f'{rejection.message.where}: {rejection.reason}')}", soft_wrap=True
        )
    more = totals.rejected - len(totals.first_rejections)
    if more:
        where = "--rejected FILE keeps them" if rejected is None else f"all are in {rejected}"
        console.print(f"  [yellow]rejected:[/yellow] {more:,} more; {escape(where)}", soft_wrap=True)
