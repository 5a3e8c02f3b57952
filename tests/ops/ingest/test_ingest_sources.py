"""Events from every source reach the store of a real server, all of them and each once, whoever is killed meanwhile."""

from __future__ import annotations

import json
import signal
import threading
import time

import polars as pl
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

import ebbtide.ingest.pump as pump_module
from ebbtide.client import ClientConfig, InterestClient
from ebbtide.ingest import FieldNames, IngestError, Message, Pump
from ebbtide.ingest.kafka_topic import KafkaSource, read_settings
from ebbtide.ingest.redis_stream import RedisAccess, RedisStreamSource
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.store import StoreConfig, open_store
from ports import free_port
from servers import only
from states import States, random_events

EVENTS = 4000
HASTY = ClientConfig(timeout_s=20, max_reconnect_backoff_ms=100)
"""Looks for the server again and again."""
PASSWORD = "open sesame"  # noqa: S105 - of a server of these tests


@pytest.fixture
def frame(tiny_bundle, request):
    """Events in the order of their times, of users that no other test has."""
    found = random_events(tiny_bundle.catalog.item_id[:60], 40, EVENTS, seed=len(request.node.name)).sort("time")
    return found.with_columns(user=pl.col("user") + f" of {request.node.name}")


def lines_of(frame, ids=True):
    """The events as JSON Lines."""
    renamed = frame.rename({"stars": "weight", "id": "event_id"})
    return (renamed if ids else renamed.drop("event_id")).write_ndjson()


def assert_all_once(pipeline, store, frame):
    users = sorted(frame["user"].unique())
    found = States.stored(pipeline, store, users)
    found.assert_same(States.expected(pipeline, frame, users, weight=True, ids=True))


def until(condition, process=None):
    """Returns when a condition holds."""
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.005)


def known(pipeline, store, frame):
    """How many of the frame's users the store knows."""
    return int(States.stored(pipeline, store, sorted(frame["user"].unique())).read.known.sum())


def test_lines_of_standard_input_are_stored_and_bad_ones_told(server, pipeline, store, frame, start_ingest, tmp_path):
    lines = lines_of(frame).splitlines()
    lines[9:9] = ['{"user": "u", "time": 1}', "oops"]
    lines.append(json.dumps({"user": "u", "item": frame["item"][0], "time": "2099-01-01T00:00:00Z"}))
    lines.append(json.dumps({"user": "v", "item": "no such item", "time": 1_700_000_000}))
    arguments = ("--server", server.grpc_url, "--rejected", tmp_path / "rejected.jsonl", "--unknown-items", "ignore")
    output, _ = start_ingest(*arguments).communicate("\n".join(lines))
    assert f"{len(lines):,} messages: {EVENTS:,} events added, 1 of unknown items, 3 rejected" in output
    assert "rejected: line 10: item: got none" in output
    assert "rejected: line 11: got text that is not JSON" in output
    rejected = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [one["where"] for one in rejected] == ["line 10", "line 11", f"line {len(lines) - 1}"]
    assert "a day after the server's clock" in rejected[2]["reason"]
    assert rejected[1]["message"] == "oops"
    assert_all_once(pipeline, store, frame)


def test_lines_count_once_when_the_command_is_killed_and_gets_them_again(
    server, pipeline, store, frame, start_ingest, tmp_path
):
    lines = lines_of(frame)
    progress = tmp_path / "progress"
    arguments = ("--server", server.grpc_url, "--batch", 300, "--progress", progress)
    process = start_ingest(*arguments)
    process.stdin.write(lines[: len(lines) // 2])
    process.stdin.flush()
    until(progress.exists, process)
    process.kill()
    process.communicate()
    assert 0 < int(progress.read_text()) < EVENTS
    output, _ = start_ingest(*arguments).communicate(lines)
    assert "messages: " in output
    assert progress.read_text() == str(EVENTS)
    assert_all_once(pipeline, store, frame)
    nothing, _ = start_ingest(*arguments).communicate(lines)
    assert "0 messages: 0 events added" in nothing
    progress.write_text("x")
    refused, _ = start_ingest(*arguments).communicate(lines)
    assert "got 'x'; expected the number of lines that are done with" in refused


@pytest.fixture
def add_entries(shared_redis):
    """Adds the events of a frame to a stream, and returns the frame with the ids that the events get."""
    with shared_redis.client() as client:

        def add(stream, frame):
            pipe = client.pipeline(transaction=False)
            for row in frame.iter_rows(named=True):
                event = {"user": row["user"], "item": row["item"], "time": row["time"], "weight": row["stars"]}
                as_json = row["time"] % 2
                pipe.xadd(stream, {"event": json.dumps(event)} if as_json else event)
            entries = [entry.decode() for entry in pipe.execute()]
            return frame.with_columns(id=pl.Series([f"{stream}/{entry}" for entry in entries]))

        yield add


def pending(redis, stream, group="ebbtide"):
    with redis.client() as client:
        return client.xpending(stream, group)["pending"]


def test_entries_of_a_redis_stream_count_once_when_consumers_are_killed(
    server, pipeline, store, frame, shared_redis, add_entries, start_ingest
):
    stream = "of a killed consumer"
    frame = add_entries(stream, frame)
    arguments = ("--server", server.grpc_url, "--redis", shared_redis.address, "--stream", stream, "--batch", 700)
    process = start_ingest(*arguments)
    until(lambda: known(pipeline, store, frame), process)
    process.kill()
    process.wait()
    assert pending(shared_redis, stream) > 0
    # A second consumer, which is killed while it has entries, and a third one, which takes them over.
    second = start_ingest(*arguments, "--consumer", "second", "--claim-after-s", 0.1)
    until(lambda: pending(shared_redis, stream) == 0 or second.poll() is not None)
    second.kill()
    second.wait()
    third = start_ingest(*arguments, "--consumer", "third", "--claim-after-s", 0.1, "--idle-exit-s", 1)
    output, _ = third.communicate()
    assert third.returncode == 0, output
    assert pending(shared_redis, stream) == 0
    assert_all_once(pipeline, store, frame)


def test_entries_that_were_read_and_not_acknowledged_come_first_when_a_consumer_starts_again(
    shared_redis, add_entries, frame
):
    stream = "of one consumer"
    add_entries(stream, frame.head(25))
    first = RedisStreamSource(shared_redis.address, stream, "g", "me")
    read = first.read(10, 1)
    assert [message.where for message in read] == sorted(message.where for message in read)
    first.done(read[:4])
    first.close()
    with shared_redis.client() as client:
        client.xdel(stream, read[5].message_id.rpartition("/")[2])
    again = RedisStreamSource(shared_redis.address, stream, "g", "me")
    pending_ones = again.read(4, 1) + again.read(4, 1)
    assert [message.message_id for message in pending_ones[:6]] == [message.message_id for message in read[4:]]
    assert [message.content is None for message in pending_ones[:6]] == [False, True, False, False, False, False]
    rest = pending_ones[6:]
    while len(rest) < 15:
        rest += again.read(100, 1)
    assert len({message.message_id for message in rest} | {message.message_id for message in read}) == 25
    again.done(pending_ones + rest)
    assert pending(shared_redis, stream, "g") == 0
    assert again.read(10, 0.01) == []
    with shared_redis.client() as client:
        client.delete(stream)
    add_entries(stream, frame.head(1))
    assert len(again.read(10, 5)) == 1
    again.close()


def test_redis_that_is_away_is_waited_for_and_one_that_refuses_is_not(make_redis):
    redis = make_redis("--requirepass", PASSWORD)
    redis.start()
    reasons = []
    source = RedisStreamSource(
        redis.address, "events", "g", "me", RedisAccess(password=PASSWORD), on_wait=reasons.append
    )
    assert source.read(10, 0.01) == []
    redis.kill()
    assert source.read(10, 0.01) == []
    assert reasons
    redis.start()
    assert source.read(10, 5) == []
    source.close()
    refused = RedisStreamSource(redis.address, "events", "g", "me", RedisAccess(password=PASSWORD[1:]))
    with pytest.raises(IngestError, match="stream events"):
        refused.read(10, 1)
    with pytest.raises(IngestError, match="address of the stream"):
        RedisStreamSource("http://x", "events", "g", "me")


@pytest.fixture(scope="module")
def brokers():
    """The address of librdkafka's own test cluster: three brokers of Kafka's protocol on ports of this machine."""
    producer = Producer({"test.mock.num.brokers": 3})
    found = producer.list_topics(timeout=300).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in found)
    del producer


def produce(brokers, topic, frame):
    producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True})
    for user, line in zip(frame["user"], lines_of(frame).splitlines(), strict=True):
        producer.produce(topic, line, key=user)
        producer.poll(0)
    assert producer.flush(60) == 0


def committed(brokers, topic, group="ebbtide"):
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": group})
    partitions = list(consumer.list_topics(topic, timeout=300).topics[topic].partitions)
    offsets = consumer.committed([TopicPartition(topic, number) for number in partitions], timeout=300)
    consumer.close()
    return sum(max(one.offset, 0) for one in offsets)


def test_messages_of_kafka_count_once_when_consumers_are_killed(
    server, pipeline, store, frame, brokers, start_ingest, tmp_path
):
    topic = "of-a-killed-consumer"
    # The shortest time after which the group goes on without a consumer that was killed.
    (tmp_path / "client.properties").write_text("session.timeout.ms=6000\n")
    produce(brokers, topic, frame)
    arguments = ("--server", server.grpc_url, "--kafka", brokers, "--topic", topic, "--batch", 500)
    arguments += ("--kafka-config", tmp_path / "client.properties")
    process = start_ingest(*arguments)
    until(lambda: known(pipeline, store, frame), process)
    process.kill()
    process.wait()
    assert committed(brokers, topic) < EVENTS
    again = start_ingest(*arguments)
    until(lambda: committed(brokers, topic) == EVENTS, again)
    again.send_signal(signal.SIGTERM)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert_all_once(pipeline, store, frame)


def test_settings_of_kafka_come_from_a_file_whose_faults_are_told_without_them(tmp_path):
    path = tmp_path / "client.properties"
    path.write_text("# comment\n\nsecurity.protocol=SASL_SSL\nsasl.password = a=b\n")
    assert read_settings(path) == {"security.protocol": "SASL_SSL", "sasl.password": "a=b"}
    path.write_text("secret\n")
    with pytest.raises(IngestError, match="line 1: got a line without '='") as error:
        read_settings(path)
    assert "secret" not in str(error.value)
    with pytest.raises(IngestError, match=r"no\.such\.setting"):
        KafkaSource("localhost:1", ["events"], "g", {"no.such.setting": "1"})


class Listed:
    """A source that gives the same messages until they are done with."""

    name = "a list"

    def __init__(self, messages):
        self.left = list(messages)

    def read(self, most, _wait_s):
        return self.left[:most] or None

    def done(self, messages):
        assert messages == self.left[: len(messages)]
        del self.left[: len(messages)]

    def close(self):
        pass


def test_pump_waits_when_the_server_goes_away_and_goes_on_when_it_is_back(
    repository, pipeline, frame, tmp_path, monkeypatch
):
    monkeypatch.setattr(pump_module, "_LONGEST_PAUSE_S", 0.2)
    state = f"embedded:{tmp_path / 'states'}"
    port = free_port()
    config = ServerConfig(repository, grpc_port=port, state=state, **only("observe"))
    source = Listed([Message(line.encode(), f"line {n}") for n, line in enumerate(lines_of(frame).splitlines())])
    reasons = []

    def pump(on_wait=reasons.append, on_batch=lambda _totals: None):
        return Pump(source, client, FieldNames(), messages_per_batch=500, on_wait=on_wait, on_batch=on_batch)

    with InterestClient(f"127.0.0.1:{port}", config=HASTY) as client:
        without = pump(on_wait=lambda _reason: without.stop())
        assert without.run().messages == 0
        assert len(source.left) == EVENTS
        with TritonServer(config):
            client.wait_until_ready(60, "observe")
            half = pump(on_batch=lambda totals: half.stop() if totals.messages == 2000 else None)
            assert half.run().messages == 2000
        whole = pump()
        thread = threading.Thread(target=whole.run)
        del reasons[:]
        thread.start()
        until(lambda: reasons)
        with TritonServer(config):
            thread.join()
    assert not source.left
    assert whole.totals.messages == EVENTS - 2000
    with open_store(state, StoreConfig(timeout_ms=60_000)) as store:
        assert_all_once(pipeline, store, frame)
