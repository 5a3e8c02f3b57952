"""The embedded store: its files, what forgetting leaves in them, crashes at any step, errors of one line."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ebbtide.store import FullError, StoreConfigError, StoreError, UnavailableError, open_store
from ebbtide.store.bucket_keys import BUCKETS, KEY_BYTES, BucketCipher, bucket_of
from stores import FINGERPRINT, PATIENT, put, user

ALICE, BOB = user("alice"), user("bob")
BESIDE_ALICE = ALICE[:2] + b"the same bucket"[:14]
NO_KEY = bytes(KEY_BYTES)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "states"


@pytest.fixture
def store(folder):
    with open_store(f"embedded:{folder}", PATIENT) as opened:
        yield opened


def run(script: str, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """Runs a script that may import what this module imports from `stores` and `ebbtide.store`."""
    start = "from stores import *\nfrom ebbtide.store import *\nimport os, signal, sys\n"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "fixtures")}
    return subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        **options,
    )


def files(folder: Path) -> bytes:
    """The bytes of all files of a store."""
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def bucket_keys(folder: Path, bucket: int) -> list[bytes]:
    """The two slots of a bucket in the file of keys."""
    content = (folder / "keys").read_bytes()
    start = len(content) - (BUCKETS - bucket) * 2 * KEY_BYTES
    return [content[start : start + KEY_BYTES], content[start + KEY_BYTES : start + 2 * KEY_BYTES]]


def present_key(folder: Path, bucket: int) -> bytes:
    [key] = [key for key in bucket_keys(folder, bucket) if key != NO_KEY]
    return key


def test_files_are_for_the_owner_only_whatever_the_umask(folder):
    done = run(
        """
        os.umask(0)
        with open_store(sys.argv[1], PATIENT) as store:
            store.update([user("alice")], put(b"1"))
        """,
        f"embedded:{folder}",
    )
    assert done.stderr == ""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}
    assert modes == {"states": 0o700, "data.mdb": 0o600, "lock.mdb": 0o600, "keys": 0o600}


def test_no_file_holds_users_or_records_in_clear(store, folder):
    record = b"what Alice did, at length " * 50
    store.register(FINGERPRINT)
    store.update([ALICE], put(record))
    content = files(folder)
    assert FINGERPRINT in content
    for secret in (ALICE, ALICE.hex().encode(), b"alice", record[:16], record[-16:]):
        assert secret not in content


def test_forget_leaves_nothing_that_can_be_decrypted(store, folder):
    """All versions of a user's record are encrypted with the key of its bucket: that key must be gone everywhere."""
    store.update([BESIDE_ALICE, BOB], put(b"beside", b"bob"))
    # Many versions of the record, in pages that LMDB has not used again, beside users that stay.
    for number in range(300):
        store.update([ALICE], put(b"%d " % number * 300))
        store.update([user(number)], put(b"others" * 100))
    key = present_key(folder, bucket_of(ALICE))
    name = BucketCipher(bucket_of(ALICE), key).name(ALICE)
    # The search finds what it looks for while it is there: the key, and the name that only the key gives.
    assert key in files(folder)
    assert name in files(folder)

    assert store.forget([ALICE]) == [1]
    assert key not in files(folder)
    assert BucketCipher(bucket_of(ALICE), present_key(folder, bucket_of(ALICE))).name(ALICE) not in files(folder)
    assert ALICE not in files(folder)
    assert store.read([ALICE, BESIDE_ALICE, BOB], FINGERPRINT) == [None, b"beside", b"bob"]


def test_forget_leaves_no_old_key_of_any_bucket(store, folder):
    everyone = [user(number) for number in range(500)]
    store.update(everyone, put(*[b"r"] * 500))
    before = {bucket_of(each): present_key(folder, bucket_of(each)) for each in everyone}
    assert store.forget(everyone[:250]) == [1] * 250
    content = (folder / "keys").read_bytes()
    for each in everyone[:250]:
        assert before[bucket_of(each)] not in content
    untouched = {bucket_of(each) for each in everyone} - {bucket_of(each) for each in everyone[:250]}
    assert untouched
    assert all(present_key(folder, bucket) == before[bucket] for bucket in untouched)
    assert store.read(everyone, FINGERPRINT) == [None] * 250 + [b"r"] * 250


def test_forget_erases_even_when_the_user_has_no_records_any_more(store, folder):
    store.update([ALICE], put(b"1"))
    store.update([ALICE], lambda _: [{FINGERPRINT: None}])
    key = present_key(folder, bucket_of(ALICE))
    assert store.forget([ALICE]) == [0]
    assert key not in files(folder)


@pytest.mark.parametrize("step", ["stage", "erase_old"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("durability", ["crash", "power-loss"])
def test_next_process_finishes_or_undoes_a_forget_that_a_crash_interrupted(folder, step, when, durability):
    address = f"embedded:{folder}"
    config = replace(PATIENT, durability=durability)
    with open_store(address, config) as store:
        store.update([ALICE, BESIDE_ALICE, BOB], put(b"alice", b"beside", b"bob"))
    old = present_key(folder, bucket_of(ALICE))
    done = run(
        """
        from ebbtide.store.bucket_keys import KeyFile
        address, durability, step, when = sys.argv[1:]
        original = getattr(KeyFile, step)
        def interrupted(*arguments):
            if when == "after":
                original(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        store = open_store(address, StoreConfig(durability=durability, timeout_ms=60_000))
        setattr(KeyFile, step, interrupted)
        store.forget([user("alice")])
        """,
        address,
        durability,
        step,
        when,
    )
    assert (done.returncode, done.stderr) == (-9, "")
    is_forgotten = step == "erase_old"
    assert (old in (folder / "keys").read_bytes()) == ((step, when) != ("erase_old", "after"))
    with open_store(address, config) as store:
        # Neither the old key of a forget that happened nor the new key of one that did not.
        slots = bucket_keys(folder, bucket_of(ALICE))
        assert slots.count(NO_KEY) == 1
        assert (old in slots) == (not is_forgotten)
        alice = None if is_forgotten else b"alice"
        assert store.read([ALICE, BESIDE_ALICE, BOB], FINGERPRINT) == [alice, b"beside", b"bob"]
        assert store.forget([ALICE]) == [int(not is_forgotten)]
        assert store.read([ALICE, BESIDE_ALICE, BOB], FINGERPRINT) == [None, b"beside", b"bob"]


def test_expired_records_are_removed_from_the_database(folder):
    with open_store(f"embedded:{folder}", replace(PATIENT, ttl_days=1e-9)) as store:
        store.update([user(number) for number in range(200)], put(*[b"r"] * 200))
        for number in range(900):
            store.update([BOB], put(b"%d" % number))
    with open_store(f"embedded:{folder}", PATIENT) as store:
        assert set(store.users(FINGERPRINT)) <= {BOB}


def test_killed_readers_do_not_let_the_file_grow(folder):
    address = f"embedded:{folder}"
    with open_store(address, PATIENT) as store:
        store.update([ALICE], put(bytes(2000)))
        done = run(
            """
            from ebbtide.store.lmdb_folder import View
            View.registered = lambda view: os.kill(os.getpid(), signal.SIGKILL)
            open_store(sys.argv[1], PATIENT).registered()
            """,
            address,
        )
        assert done.returncode == -9
        for _ in range(3000):
            store.update([ALICE], put(bytes(2000)))
        # If the dead reader's view were kept, each update would take new pages: over 12 MB even at one page each.
        assert (folder / "data.mdb").stat().st_size < 6_000_000


def test_two_openings_share_the_folder_until_the_last_is_closed(folder):
    first = open_store(f"embedded:{folder}", PATIENT)
    second = open_store(f"embedded:{folder}/../{folder.name}", PATIENT)
    first.update([ALICE], put(b"1"))
    first.close()
    assert second.read([ALICE], FINGERPRINT) == [b"1"]
    second.close()
    with open_store(f"embedded:{folder}", replace(PATIENT, durability="power-loss")) as third:
        assert third.read([ALICE], FINGERPRINT) == [b"1"]


@pytest.mark.usefixtures("store")
def test_other_settings_in_the_same_process_are_refused(folder):
    with pytest.raises(StoreConfigError, match="has it open with durability crash and at most 64 GiB; got power-loss"):
        open_store(f"embedded:{folder}", replace(PATIENT, durability="power-loss"))


def test_full_store_says_so_and_goes_on_after_the_limit_was_raised(folder):
    address = f"embedded:{folder}"
    with open_store(address, replace(PATIENT, max_gib=1 / 1024)) as store:
        store.update([ALICE], put(b"small"))
        with pytest.raises(FullError, match=r"^embedded:\S+: full at 0.000976562 GiB; raise EBBTIDE_STATE_MAX_GIB"):
            store.update([BOB], put(bytes(2_000_000)))
        assert store.read([ALICE, BOB], FINGERPRINT) == [b"small", None]
        store.update([ALICE], put(b"still writes"))
    with open_store(address, PATIENT) as store:
        store.update([BOB], put(bytes(2_000_000)))
        assert store.read([ALICE, BOB], FINGERPRINT) == [b"still writes", bytes(2_000_000)]


def test_full_disk_is_an_error_of_one_line_and_loses_nothing(folder):
    address = f"embedded:{folder}"
    with open_store(address, PATIENT) as store:
        store.update([ALICE], put(b"small"))
    limit = (folder / "data.mdb").stat().st_size + 300_000
    done = run(
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with open_store(sys.argv[1], PATIENT) as store:
            try:
                store.update([user("bob")], put(bytes(2_000_000)))
            except FullError as error:
                print(error)
            print(store.read([user("alice"), user("bob")], FINGERPRINT))
            store.update([user("alice")], put(b"still writes"))
        """,
        address,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.stderr == ""
    message, read = done.stdout.splitlines()
    assert message.startswith(f"{address}: no space left on the disk of {folder}, or it fails (")
    assert read == "[b'small', None]"
    with open_store(address, PATIENT) as store:
        assert store.read([ALICE, BOB], FINGERPRINT) == [b"still writes", None]


def test_folder_without_permission_is_an_error_of_one_line(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    done = run(
        """
        import ebbtide.store.embedded
        if os.geteuid() == 0:
            # Root may write everywhere: another user may not.
            os.setuid(65534)
        try:
            open_store(sys.argv[1])
        except StoreConfigError as error:
            print(error)
        """,
        f"embedded:{closed / 'states'}",
    )
    assert done.stderr == ""
    assert done.stdout.startswith(f"embedded:{closed / 'states'}: no permission to write ")
    assert done.stdout.count("\n") == 1


def test_file_in_place_of_the_folder_is_an_error_of_one_line(tmp_path):
    (tmp_path / "states").write_text("x", encoding="utf-8")
    with pytest.raises(StoreError, match=r"^embedded:\S+states: File exists$"):
        open_store(f"embedded:{tmp_path / 'states'}")


@pytest.mark.parametrize("name", ["data.mdb", "keys"])
def test_file_of_another_kind_is_an_error_of_one_line(folder, name):
    with open_store(f"embedded:{folder}", PATIENT) as store:
        store.update([ALICE], put(b"1"))
    (folder / name).write_bytes(b"not what was there" * 1000)
    with pytest.raises(StoreConfigError, match=r"^embedded:\S+: the files in \S+ are damaged or of another program"):
        open_store(f"embedded:{folder}", PATIENT)


def test_missing_keys_are_an_error_of_one_line(folder):
    with open_store(f"embedded:{folder}", PATIENT) as store:
        store.update([ALICE], put(b"1"))
    (folder / "keys").unlink()
    with pytest.raises(StoreConfigError, match=r"^embedded:\S+: the keys in \S+ are not those of data.mdb beside it"):
        open_store(f"embedded:{folder}", PATIENT)
    assert not (folder / "keys").exists()


def test_keys_of_another_store_are_an_error_of_one_line(folder, tmp_path):
    for each in (folder, tmp_path / "other"):
        with open_store(f"embedded:{each}", PATIENT) as store:
            store.update([ALICE], put(b"1"))
    shutil.copy(tmp_path / "other" / "keys", folder / "keys")
    with pytest.raises(StoreConfigError, match=r"^embedded:\S+: the keys in \S+ are not those of data.mdb beside it"):
        open_store(f"embedded:{folder}", PATIENT)


def test_copy_of_a_closed_store_is_a_backup(store, folder, tmp_path):
    store.update([ALICE, BOB], put(b"1", b"2"))
    store.close()
    shutil.copytree(folder, tmp_path / "copy")
    with open_store(f"embedded:{tmp_path / 'copy'}", PATIENT) as copy:
        assert copy.read([ALICE, BOB], FINGERPRINT) == [b"1", b"2"]


def test_writer_that_waits_for_too_long_is_told(folder):
    address = f"embedded:{folder}"
    writes, may_end = threading.Event(), threading.Event()
    with open_store(address, PATIENT) as slow, open_store(address, replace(PATIENT, timeout_ms=1)) as hasty:

        def hold(_):
            writes.set()
            may_end.wait()

        thread = threading.Thread(target=slow._folder.write, args=[hold])
        thread.start()
        writes.wait()
        try:
            with pytest.raises(UnavailableError, match=r"^embedded:\S+states: earlier writes took longer than 1 ms$"):
                hasty.update([ALICE], put(b"1"))
            assert hasty.read([ALICE], FINGERPRINT) == [None]
        finally:
            may_end.set()
            thread.join()
        slow.update([ALICE], put(b"1"))
        assert hasty.read([ALICE], FINGERPRINT) == [b"1"]


@pytest.mark.parametrize(
    "address", ["", "states", "embedded:", "lmdb:states", "http://localhost", "postgres://u:pw@host"]
)
def test_addresses_of_other_kinds_are_refused(address):
    with pytest.raises(StoreConfigError, match="expected embedded:FOLDER, redis://HOST:PORT/NUMBER") as refusal:
        open_store(address)
    assert "pw" not in str(refusal.value)
