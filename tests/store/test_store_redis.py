"""The store in Redis: servers that are down, slow, full, or of another kind; lost connections, TLS, clusters."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import threading
import time
from dataclasses import replace

import pytest
import redis
import trustme

from ebbtide.store import (
    ConflictError,
    FullError,
    RefusedError,
    StoreConfigError,
    StoreError,
    UnavailableError,
    open_store,
    redis_store,
)
from ebbtide.store.redis_errors import PERMISSIONS
from ports import free_port
from redis_servers import is_free
from relays import close, relay
from stores import FINGERPRINT, PATIENT, append, entries, put, start_writer, user

ALICE, BOB = user("alice"), user("bob")
PASSWORD = "hunter2 secret"  # noqa: S105 - of no one


@pytest.fixture
def server(make_redis):
    made = make_redis()
    made.start()
    return made


def test_store_without_a_server_says_so_and_connects_when_there_is_one(make_redis):
    server = make_redis()
    with open_store(server.address, PATIENT) as store:
        with pytest.raises(UnavailableError, match=rf"^redis://127.0.0.1:{server.port}/0: .*Connection refused"):
            store.read([ALICE], FINGERPRINT)
        server.start()
        store.update([ALICE], put(b"1"))
        assert store.read([ALICE], FINGERPRINT) == [b"1"]


def test_store_goes_on_after_a_restart_that_forgets_connections_and_scripts(make_redis):
    server = make_redis("--appendonly", "yes", "--appendfsync", "always")
    server.start()
    with open_store(server.address, PATIENT) as store:
        store.register(b"v")
        store.update([ALICE, BOB], put(b"a", b"b"))
        for _ in range(2):
            server.kill()
            server.start()
            wait_until_loaded(server)
            store.update([ALICE], append((1, 2, 3)))
            assert store.read([BOB], FINGERPRINT) == [b"b"]
        assert store.read([ALICE], FINGERPRINT)[0][1:] == bytes([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]) * 2
        assert store.registered() == {b"v"}


def wait_until_loaded(server):
    with server.client() as client:
        while True:
            with contextlib.suppress(redis.exceptions.BusyLoadingError):
                client.ping()
                return
            time.sleep(0.01)


def test_kill_of_a_server_that_syncs_every_second_loses_only_the_end(make_redis):
    """With ``appendfsync everysec``: an update is safe two seconds after its answer; only the last ones are lost."""
    server = make_redis("--appendonly", "yes", "--appendfsync", "everysec")
    server.start()
    with open_store(server.address, PATIENT) as store:
        for number in range(200):
            store.update([ALICE], append((0, 0, number)))
        time.sleep(2.5)
        with start_writer(server.address, ALICE, 1, 1, 100_000) as writer:
            acknowledged = [writer.stdout.readline() for _ in range(300)]
            server.kill()
            acknowledged += [line for line in writer.stdout if line.endswith("\n")]
            assert writer.wait() != 0
        server.start()
        wait_until_loaded(server)
        found = entries(store, ALICE)
    assert found[:200] == [(0, 0, number) for number in range(200)]
    # All up to some update, and no more than one that was written when the server died.
    assert found[200:] == [(1, 0, number) for number in range(len(found) - 200)]
    assert len(found) - 200 <= len(acknowledged) + 1


def test_stopped_server_is_unavailable_by_the_deadline(server):
    with (
        open_store(server.address, replace(PATIENT, timeout_ms=50)) as store,
        open_store(server.address, PATIENT) as slow,
    ):
        slow.update([ALICE], put(b"1"))
        server.signal(signal.SIGSTOP)
        expected = f"^redis://127.0.0.1:{server.port}/0: no answer within 50 ms$"
        # Connecting succeeds, for the kernel does that: what waits is the first answer. It never comes.
        for call in (
            lambda: store.read([ALICE], FINGERPRINT),
            lambda: store.update([ALICE, BOB], put(bytes(2000), bytes(2000))),
            lambda: store.forget([ALICE]),
        ):
            with pytest.raises(UnavailableError, match=expected):
                call()
        server.signal(signal.SIGCONT)
        # The answers of the calls that were given up are not taken for those of later ones.
        for number in range(20):
            slow.update([ALICE], put(b"%d" % number))
            assert slow.read([ALICE], FINGERPRINT) == [b"%d" % number]


def read_in_time(store):
    with contextlib.suppress(UnavailableError):
        return store.read([ALICE], FINGERPRINT)


def test_deadline_holds_for_the_whole_call_and_not_for_each_answer(server):
    delays_s = [0.0]
    with (
        relay(server.port, answer_delay_s=lambda: delays_s[-1]) as port,
        open_store(f"redis://127.0.0.1:{port}", replace(PATIENT, timeout_ms=2000)) as store,
    ):
        store.update([ALICE], put(b"1"))
        # Time for the answer to the read, unless the machine is too busy, and not for that to the write after it.
        delays_s.append(1.2)
        while read_in_time(store) != [b"1"]:
            pass
        with pytest.raises(UnavailableError, match="no answer within 2000 ms"):
            store.update([ALICE], put(b"2"))


def test_update_counts_once_when_the_answer_to_it_is_lost(server):
    """The server has written, but the connection breaks before it says so: the client must not write a second time."""
    lost = []

    def lose(sent):
        is_first_write = b"EVAL" in sent and len(lost) < 3
        lost.extend([sent] if is_first_write else [])
        return is_first_write

    with relay(server.port, lose_answer_to=lose) as port, open_store(f"redis://127.0.0.1:{port}", PATIENT) as store:
        for number in range(3):
            with contextlib.suppress(UnavailableError):
                store.update([ALICE], append((0, 0, number)))
        assert len(lost) == 3
        found = entries(store, ALICE)
    assert len(found) == len(set(found))


def test_update_succeeds_when_one_answer_is_lost(server):
    lost = []

    def lose(sent):
        is_written = b"EVAL" in sent and not lost
        lost.extend([sent] if is_written else [])
        return is_written

    with open_store(server.address, PATIENT) as store:
        # The server knows the script, so that the first call is the one that writes.
        store.update([BOB], append((0, 0, 0)))
    with relay(server.port, lose_answer_to=lose) as port, open_store(f"redis://127.0.0.1:{port}", PATIENT) as store:
        store.update([ALICE], append((0, 0, 0)))
        assert lost
        assert entries(store, ALICE) == [(0, 0, 0)]


def test_update_gives_up_when_another_writer_is_first_every_time(server, monkeypatch):
    monkeypatch.setattr(redis_store, "ATTEMPTS", 4)
    with open_store(server.address, PATIENT) as store, open_store(server.address, PATIENT) as other:
        store.update([ALICE, BOB], put(b"a", b"b"))

        def change(snapshot):
            if 0 in snapshot.indices:
                other.update([ALICE], put(b"other"))
            return [{FINGERPRINT: b"mine"} for _ in snapshot.indices]

        with pytest.raises(ConflictError, match=r"other writers changed 1 of 2 users in every attempt"):
            store.update([ALICE, BOB], change)
        assert store.read([ALICE, BOB], FINGERPRINT) == [b"other", b"mine"]


@pytest.mark.parametrize(
    ("username", "password"),
    [(None, None), (None, "wrong"), ("service", None), ("service", "wrong"), ("nobody", PASSWORD)],
)
def test_wrong_password_is_refused_and_not_repeated(make_redis, username, password):
    server = make_redis("--requirepass", PASSWORD, "--user", "service", "on", f">{PASSWORD}", "~ebbtide:*", "+@all")
    server.start()
    with open_store(server.address, replace(PATIENT, username=username, password=password)) as store:
        with pytest.raises(RefusedError, match=r"it refuses .* see EBBTIDE_STATE_USERNAME") as refusal:
            store.read([ALICE], FINGERPRINT)
        assert not [part for part in (PASSWORD, "wrong") if part in str(refusal.value)]


def test_user_with_the_stated_permissions_can_do_everything(make_redis):
    permissions = ["--user", "service", "on", f">{PASSWORD}", *PERMISSIONS.split()]
    server = make_redis("--user", "default", "off", *permissions)
    server.start()
    config = replace(PATIENT, username="service", password=PASSWORD, ttl_days=1)
    with open_store(server.address, config) as store:
        store.register(FINGERPRINT)
        store.update([ALICE, BOB], put(b"a", b"b"))
        store.update([ALICE], lambda _: [{FINGERPRINT: None, b"v2": b"2"}])
        with open_store(server.address, replace(config, ttl_days=None)) as lasting:
            lasting.update([ALICE], put(b"a"))
        assert store.read_all([ALICE]) == [{FINGERPRINT: b"a", b"v2": b"2"}]
        assert store.forget([BOB]) == [1]
        assert set(store.users(FINGERPRINT)) == {ALICE}
        assert store.retire(FINGERPRINT) == 1


def test_user_without_a_permission_is_told_which_it_needs(make_redis):
    permissions = ["--user", "service", "on", f">{PASSWORD}", "~ebbtide:*", "+@read", "+@connection"]
    server = make_redis("--user", "default", "off", *permissions)
    server.start()
    with open_store(server.address, replace(PATIENT, username="service", password=PASSWORD)) as store:
        assert store.read([ALICE], FINGERPRINT) == [None]
        with pytest.raises(RefusedError, match=r"the user lacks a permission; it needs ~ebbtide:\*"):
            store.update([ALICE], put(b"1"))


def test_key_of_another_program_is_an_error_of_one_line(server):
    with server.client() as client:
        client.set(b"ebbtide:{%s}" % ALICE.hex().encode(), b"text")
    with open_store(server.address, PATIENT) as store:
        for call in (lambda: store.read([ALICE], FINGERPRINT), lambda: store.update([BOB, ALICE], put(b"1", b"2"))):
            with pytest.raises(StoreConfigError, match="another program uses keys that start with ebbtide:") as refusal:
                call()
            assert ALICE.hex() not in str(refusal.value)


def test_records_of_a_database_number_are_apart(server):
    with open_store(f"{server.address}/3", PATIENT) as third, open_store(server.address, PATIENT) as first:
        third.update([ALICE], put(b"1"))
        assert first.read([ALICE], FINGERPRINT) == [None]
    with open_store(f"{server.address}/99", PATIENT) as store, pytest.raises(StoreError, match=r"/99: .*out of range"):
        store.read([ALICE], FINGERPRINT)


def test_server_that_does_not_speak_redis_is_an_error_of_one_line():
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def answer():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with (
            open_store(f"redis://127.0.0.1:{port}", PATIENT) as store,
            pytest.raises(StoreConfigError, match=rf"^redis://127.0.0.1:{port}/0: what answers there is not Redis$"),
        ):
            store.read([ALICE], FINGERPRINT)
    finally:
        close(listener)
        thread.join()


def test_full_server_refuses_a_record_whole(make_redis):
    server = make_redis("--maxmemory-policy", "noeviction")
    server.start()
    with open_store(server.address, PATIENT) as store:
        store.update([ALICE], put(b"1"))
        store.update([ALICE], put(b"old", fingerprint=b"v0"))
        with server.client() as client:
            client.config_set("maxmemory", "1")
            with pytest.raises(FullError, match=r"it has reached its maxmemory and refuses to write"):
                store.update([ALICE], lambda _: [{FINGERPRINT: b"2", b"v0": None}])
            assert store.read_all([ALICE]) == [{FINGERPRINT: b"1", b"v0": b"old"}]
            client.config_set("maxmemory", "0")
        store.update([ALICE], put(b"2"))


def test_read_only_replica_answers_reads_and_refuses_writes_for_now(server, make_redis):
    replica = make_redis("--replicaof", "127.0.0.1", str(server.port), name="replica")
    replica.start()
    with open_store(server.address, PATIENT) as store, open_store(replica.address, PATIENT) as copy:
        store.update([ALICE], put(b"1"))
        while copy.read([ALICE], FINGERPRINT) != [b"1"]:
            time.sleep(0.01)
        with pytest.raises(UnavailableError, match=r"read only replica"):
            copy.update([ALICE], put(b"2"))


def test_forget_leaves_nothing_in_memory_and_in_files_that_are_rewritten(make_redis):
    server = make_redis("--appendonly", "yes", "--rdbcompression", "no", "--dbfilename", "dump.rdb")
    server.start()
    record = b"what Alice did, at length"
    names = (ALICE, ALICE.hex().encode(), record)
    with open_store(server.address, PATIENT) as store, server.client() as client:
        store.update([ALICE, BOB], put(record, b"what Bob did"))
        client.save()
        # The search finds what it looks for while it is there.
        assert [name in contents(server) for name in names] == [False, True, True]
        assert store.forget([ALICE]) == [1]
        assert [key for key in client.scan_iter() if ALICE.hex().encode() in key] == []
        # As the guide says: the files keep what was written before until the server writes them anew.
        client.bgrewriteaof()
        while any(client.info("persistence")[f"aof_rewrite_{state}"] for state in ("in_progress", "scheduled")):
            time.sleep(0.01)
        client.save()
        assert [name in contents(server) for name in names] == [False, False, False]
        assert b"what Bob did" in contents(server)


def contents(server):
    return b"".join(path.read_bytes() for path in server.folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(params=["relay", "native"])
def tls_port(request, make_redis, authority, tmp_path):
    """The port of a Redis behind TLS that wants a certificate of the client: its own TLS, and that of a relay."""
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    if request.param == "relay":
        server = make_redis()
        server.start()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        with relay(server.port, tls=context) as port:
            yield port
        return
    port = free_port()
    settings = ("--tls-port", str(port), "--tls-cert-file", str(tmp_path / "server.pem"))
    settings += ("--tls-key-file", str(tmp_path / "server.key"), "--tls-ca-cert-file", str(tmp_path / "ca.pem"))
    server = make_redis(*settings)
    try:
        server.start()
    except AssertionError as error:
        if "tls" not in str(error).lower():
            raise
        pytest.skip("this redis-server was built without TLS; the relay's was tested")
    yield port


@pytest.fixture
def client_files(authority, tmp_path):
    """Settings with a certificate that the authority has issued for this client."""
    certificate = authority.issue_cert("service@ebbtide.example")
    files = {"ca_file": tmp_path / "ca.pem", "certificate_file": tmp_path / "c.pem", "key_file": tmp_path / "c.key"}
    certificate.cert_chain_pems[0].write_to_path(files["certificate_file"])
    certificate.private_key_pem.write_to_path(files["key_file"])
    return files


def test_tls_with_an_own_authority_and_client_certificate(tls_port, client_files):
    with open_store(f"rediss://127.0.0.1:{tls_port}", replace(PATIENT, **client_files)) as store:
        store.update([ALICE], put(bytes(100_000)))
        assert store.read([ALICE], FINGERPRINT) == [bytes(100_000)]
        assert store.name == f"rediss://127.0.0.1:{tls_port}/0"


def test_tls_refuses_a_server_of_another_authority(tls_port, client_files, tmp_path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "stranger.pem")
    config = replace(PATIENT, **{**client_files, "ca_file": tmp_path / "stranger.pem"})
    for each in (config, replace(config, ca_file=None)):
        with (
            open_store(f"rediss://127.0.0.1:{tls_port}", each) as store,
            pytest.raises(UnavailableError, match=r"^rediss://\S+: .*certificate verify failed"),
        ):
            store.read([ALICE], FINGERPRINT)


def test_tls_refuses_a_server_under_another_name(tls_port, client_files):
    with (
        open_store(f"rediss://localhost:{tls_port}", replace(PATIENT, **client_files)) as store,
        pytest.raises(UnavailableError, match=r"^rediss://\S+: .*certificate verify failed.*localhost"),
    ):
        store.read([ALICE], FINGERPRINT)


def test_tls_server_refuses_a_client_without_certificate(tls_port, client_files):
    config = replace(PATIENT, ca_file=client_files["ca_file"])
    with open_store(f"rediss://127.0.0.1:{tls_port}", config) as store, pytest.raises(UnavailableError):
        store.read([ALICE], FINGERPRINT)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("redis://service:hunter2@host:6379", "got one with a user name or password"),
        ("redis://:hunter2@host", "got one with a user name or password"),
        ("redis://", "got one that is not SCHEME://HOST:PORT/NUMBER"),
        ("redis://host:port", "got one that is not SCHEME://HOST:PORT/NUMBER"),
        ("redis://host/users", "got one that is not SCHEME://HOST:PORT/NUMBER"),
        ("redis://host?password=hunter2", "got one that is not SCHEME://HOST:PORT/NUMBER"),
        ("redis+cluster://host/1", "got database 1; a cluster has only number 0"),
    ],
)
def test_address_that_is_not_one_is_refused_without_its_password(address, message):
    with pytest.raises(StoreConfigError, match=message) as refusal:
        open_store(address)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("redis://host", "redis://host:6379/0"),
        ("rediss://host:1/2", "rediss://host:1/2"),
        ("redis://[::1]:7/", "redis://[::1]:7/0"),
        ("rediss+cluster://host", "rediss+cluster://host:6379"),
    ],
)
def test_name_is_the_whole_address(address, name):
    with open_store(address) as store:
        assert store.name == name


@pytest.fixture
def cluster(make_redis):
    """Two nodes, with half of the slots each."""
    nodes = [make_redis("--cluster-enabled", "yes", name=f"node-{number}") for number in range(2)]
    for number, node in enumerate(nodes):
        # Nodes speak to each other on another port, which is this one plus 10,000; it must be as good a port.
        while node.port > 22_000 or not is_free(node.port + 10_000):
            node.port = free_port()
        node.start()
        with node.client() as client:
            client.execute_command("CLUSTER ADDSLOTS", *range(8192 * number, 8192 * (number + 1)))
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
    with nodes[0].client() as client:
        client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[1].port)
    for node in nodes:
        with node.client() as client:
            while True:
                found = client.execute_command("CLUSTER INFO")
                if (found["cluster_state"], found["cluster_slots_ok"]) == ("ok", "16384"):
                    break
                time.sleep(0.05)
    return nodes


def test_cluster_serves_batches_over_its_nodes(cluster):
    everyone = [user(number) for number in range(200)]
    with open_store(f"redis+cluster://127.0.0.1:{cluster[0].port}", PATIENT) as store:
        store.register(FINGERPRINT)
        for number in range(2):
            store.update(everyone, append((0, 0, number)))
        assert [entries(store, each) for each in everyone] == [[(0, 0, 0), (0, 0, 1)]] * 200
        assert set(store.users(FINGERPRINT)) == set(everyone)
        assert store.forget(everyone[:100]) == [1] * 100
        assert store.retire(FINGERPRINT) == 100
        assert store.registered() == frozenset()
        assert list(store.users(FINGERPRINT)) == []
    counts = []
    for node in cluster:
        with node.client() as client:
            counts.append(client.info("commandstats")["cmdstat_evalsha"]["calls"])
    assert min(counts) > 100
    with (
        open_store(cluster[0].address, PATIENT) as store,
        pytest.raises(StoreConfigError, match=r"expected redis\+cluster"),
    ):
        store.read(everyone, FINGERPRINT)


def test_cluster_that_does_not_answer_is_unavailable(make_redis):
    server = make_redis()
    with open_store(f"redis+cluster://127.0.0.1:{server.port}", PATIENT) as store:
        with pytest.raises(UnavailableError, match=rf"^redis\+cluster://127.0.0.1:{server.port}: "):
            store.read([ALICE], FINGERPRINT)
        server.start()
        with pytest.raises(StoreConfigError, match="it is no cluster; expected redis:// or rediss://"):
            store.read([ALICE], FINGERPRINT)
