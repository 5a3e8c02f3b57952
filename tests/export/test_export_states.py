"""Users' states on real servers: observed, used by every model, forgotten; and what happens if the store fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from deadlines import GUARD_S
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.parity import TOLERANCE, ranking_difference
from ebbtide.export.repository import ExportReport
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import StateStatus
from ebbtide.interest.keys import item_keys, user_key, user_keys
from ebbtide.interest.parameters import CONFIG_FILE
from ebbtide.serve import ModelLoadError, ServerConfig, TritonServer
from ebbtide.store import open_store
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.reference import ReferenceScores, score_request
from redis_servers import HOW_TO_GET, RedisServer, redis_program
from servers import only, serving
from stores import PATIENT

from .conftest import Door

NOW = 1_700_000_000_000
DAY_MS = 86_400_000
ITEMS = 60
"""Items of the logs, so that an answer has unseen ones."""
STATUS, COUNTS, SCORE = contract.STATE_STATUS.name, contract.EVENT_COUNTS.name, contract.SCORE.name


@pytest.fixture(scope="module")
def bundle(tiny_bundle: InterestBundle) -> InterestBundle:
    return tiny_bundle


@pytest.fixture(scope="module")
def repository(tiny_export: ExportReport) -> Path:
    return tiny_export.folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"embedded:{tmp_path_factory.mktemp('states') / 'store'}"


@pytest.fixture(scope="module")
def states_server(repository: Path, store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    log = tmp_path_factory.mktemp("log") / "tritonserver.log"
    with serving(ServerConfig(repository, log_file=log, state=store)) as server:
        yield server


@pytest.fixture(scope="module")
def with_states(states_server: TritonServer) -> Iterator[Door]:
    with triton.InferenceServerClient(states_server.grpc_url) as client:
        yield Door(client)


@pytest.fixture(scope="module")
def beside(repository: Path, store: str) -> Iterator[Door]:
    """Another server process with the same store."""
    config = ServerConfig(repository, state=store)
    with serving(config) as server, triton.InferenceServerClient(server.grpc_url) as client:
        yield Door(client)


class Log:
    """Events of one user, oldest first."""

    def __init__(self, bundle: InterestBundle, count: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.item = random.integers(0, ITEMS, count)
        self.key = item_keys(bundle.catalog.item_id)[self.item]
        self.time_ms = np.sort(NOW - random.integers(1, 300 * DAY_MS, count))
        self.weight = random.uniform(0.5, 3, count).astype(np.float32)

    def reference(self, bundle: InterestBundle, last: int = 0) -> ReferenceScores:
        """The answer from all events but the last ones, by the formulas in double precision."""
        stop = len(self.item) - last
        return score_request(
            bundle.model,
            bundle.prior_columns,
            item=self.item[:stop].tolist(),
            time_ms=self.time_ms[:stop].tolist(),
            now_ms=NOW,
            weight=self.weight[:stop].tolist(),
        )


def observed(user: str, log: Log, part: slice | np.ndarray, **tensors: np.ndarray) -> dict[str, Any]:
    """The tensors of a request to `observe`."""
    return {
        "user": user_keys([user]),
        "event_item": log.key[part][None],
        "event_time": log.time_ms[part][None],
        "event_weight": log.weight[part][None],
        **tensors,
    }


def observe(door: Door, user: str, log: Log, part: slice | np.ndarray, **tensors: np.ndarray) -> list[int]:
    answer = door.call(served_models.OBSERVE.name, observed(user, log, part, **tensors))
    found: list[int] = answer[contract.OBSERVED.name].ravel().tolist()
    return found


def asking(user: str | None, log: Log | None = None, part: slice = slice(0, 0), **tensors: Any) -> dict[str, Any]:
    """The tensors of a request to a model that batches."""
    empty = np.zeros((1, 0), np.int64)
    return {
        **({} if user is None else {"user": user_keys([user])}),
        "event_item": empty if log is None else log.key[part][None],
        "event_time": empty if log is None else log.time_ms[part][None],
        **({} if log is None else {"event_weight": log.weight[part][None]}),
        "now": np.array([[NOW]]),
        **tensors,
    }


def recommend(door: Door, user: str | None, log: Log | None = None, part: slice = slice(0, 0), **tensors: Any) -> Any:
    return door.call(served_models.RECOMMEND.name, asking(user, log, part, **tensors))


def require_like(bundle: InterestBundle, answer: dict[str, np.ndarray], expected: ReferenceScores) -> None:
    ids = [item.decode() for item in answer["item_id"].ravel().tolist()]
    assert ranking_difference(ids, answer[SCORE].ravel(), expected.scores, bundle.catalog.index) <= TOLERANCE
    assert answer[COUNTS].ravel().tolist() == [
        expected.events - expected.current_events,
        expected.current_events,
        0,
    ]
    np.testing.assert_allclose(answer["alpha_used"].item(), expected.alpha, atol=TOLERANCE)


@pytest.mark.parametrize("count", [3, 60, 900])
def test_recommend_by_user_equals_the_formula_on_all_events_when_they_were_observed(
    with_states: Door, beside: Door, bundle: InterestBundle, count: int
) -> None:
    """900 events are more than a request can carry."""
    log, user = Log(bundle, count, seed=count), f"user of {count}"
    doors = (with_states, beside)
    for turn, start in enumerate(range(0, count - 1, 290)):
        part = slice(start, min(start + 290, count - 1))
        # Whichever server observes: they share the store.
        assert observe(doors[turn % 2], user, log, part) == [part.stop - part.start, 0, 0, 0]
    with_last = recommend(with_states, user, log, slice(count - 1, count))
    require_like(bundle, with_last, log.reference(bundle))
    require_like(bundle, recommend(beside, user), log.reference(bundle, last=1))
    assert observe(beside, user, log, slice(count - 1, count)) == [1, 0, 0, 0]
    of_state = recommend(with_states, user)
    require_like(bundle, of_state, log.reference(bundle))
    assert with_last[STATUS].item() == of_state[STATUS].item() == StateStatus.USED
    # Reading writes nothing, and the same events again change nothing.
    assert observe(with_states, user, log, slice(count - 10 if count > 10 else 0, count))[0] == 0
    again = recommend(with_states, user)
    for name in (SCORE, "item_id", COUNTS):
        np.testing.assert_array_equal(again[name], of_state[name])


def test_events_count_once_when_they_are_sent_again_with_their_ids(with_states: Door, bundle: InterestBundle) -> None:
    log = Log(bundle, 6)
    ids = np.arange(6)[None]
    assert observe(with_states, "with ids", log, slice(0, 6), event_id=ids) == [6, 0, 0, 0]
    expected = recommend(with_states, "with ids")
    # Another time, the same id: the same event.
    log.time_ms += 5
    assert observe(with_states, "with ids", log, slice(2, 6), event_id=ids[:, 2:6]) == [0, 4, 0, 0]
    np.testing.assert_array_equal(recommend(with_states, "with ids")[SCORE], expected[SCORE])
    assert observe(with_states, "with ids", log, slice(5, 6), event_id=ids[:, :1] + 9) == [1, 0, 0, 0]


def test_no_event_is_lost_when_many_callers_observe_one_user_in_any_order(
    with_states: Door, beside: Door, bundle: InterestBundle
) -> None:
    log = Log(bundle, 120, seed=7)
    # A state has the newest events raw, so those may come in any order.
    observe(with_states, "busy", log, slice(0, 108))
    errors: list[BaseException] = []

    def send(door: Door, part: np.ndarray) -> None:
        try:
            for event in part.tolist():
                assert observe(door, "busy", log, np.array([event])) == [1, 0, 0, 0]
        except BaseException as error:
            errors.append(error)

    parts = np.array_split(np.random.default_rng(0).permutation(np.arange(108, 120)), 6)
    threads = [
        threading.Thread(target=send, args=((with_states, beside)[index % 2], part)) for index, part in enumerate(parts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    require_like(bundle, recommend(beside, "busy"), log.reference(bundle))


def test_every_model_gives_the_answer_from_all_events_when_it_is_asked_by_user(
    with_states: Door, repository: Path, bundle: InterestBundle
) -> None:
    in_process = InProcessPipeline(repository)
    log = Log(bundle, 50, seed=9)
    observe(with_states, "ann", log, slice(0, 45))
    candidates = item_keys(bundle.catalog.item_id)[np.r_[log.item[:3], log.item[-2:], 100:110]][None]
    text = np.array([b"a film about the sea"], np.object_)
    for model in (
        served_models.RANK,
        served_models.RECOMMEND_TEXT,
        served_models.RANK_TEXT,
        served_models.EXPLAIN,
        served_models.EXPLAIN_TEXT,
    ):
        has_text = contract.TEXT in model.inputs
        times, weight = (
            np.r_[column[45:], value] for column, value in ((log.time_ms, NOW - 5), (log.weight, np.float32(1)))
        )
        events = 6 if has_text else 5
        request = {
            "event_item": log.key[45:],
            "event_time": times[:events],
            "event_weight": weight[:events],
            "now": np.array([NOW]),
            "user": user_keys(["ann"])[0],
        }
        if model.batching:
            request = {name: value[None] for name, value in request.items()}
        request["candidate_item"] = candidates
        if has_text:
            request["text"] = text
        whole = {
            **request,
            **{
                name: value[None] if model.batching else value
                for name, value in (
                    ("event_item", log.key),
                    ("event_time", np.r_[log.time_ms[:45], times[:events]]),
                    ("event_weight", np.r_[log.weight[:45], weight[:events]]),
                )
            },
        }
        del whole["user"]
        given = {tensor.name for tensor in model.inputs}
        answer = with_states.call(model.name, {name: value for name, value in request.items() if name in given})
        expected = in_process.run(model.name, {name: value for name, value in whole.items() if name in given})
        assert isinstance(expected, dict), expected
        assert answer[STATUS].item() == StateStatus.USED
        names = (SCORE, "candidate_score", "alpha_used", COUNTS, "dimension_share", "prior_share", "adjustment_share")
        for name in set(names) & answer.keys():
            np.testing.assert_allclose(answer[name], expected[name], atol=TOLERANCE, err_msg=f"{model.name}.{name}")
        if model in (served_models.EXPLAIN, served_models.EXPLAIN_TEXT):
            own = expected["event_share"][:, 45:]
            np.testing.assert_allclose(answer["event_share"], own, atol=TOLERANCE)
            of_state = answer["state_event_share"].sum(axis=1) + answer["folded_share"]
            np.testing.assert_allclose(of_state, expected["event_share"][:, :45].sum(axis=1), atol=TOLERANCE)
            ids = [bundle.catalog.item_id[index].encode() for index in log.item[:45][::-1]]
            assert answer["state_event_item"].tolist() == ids[: answer["state_event_item"].size]


def test_interest_tells_the_newest_events_when_a_user_is_known(with_states: Door, bundle: InterestBundle) -> None:
    log = Log(bundle, 40, seed=2)
    observe(with_states, "curious", log, slice(0, 40))
    request = {"user": user_keys(["curious"])[0], "now": np.array([NOW])}
    answer = with_states.call(served_models.INTEREST_STATE.name, request)
    expected = log.reference(bundle)
    d = bundle.model.config.dimensions
    np.testing.assert_allclose(answer["interest_energy"], expected.interest[:d] ** 2, rtol=1e-3, atol=TOLERANCE)
    raw = answer["state_event_time"].size
    assert answer["state_event_time"].tolist() == log.time_ms[::-1][:raw].tolist()
    assert answer["state_counts"].ravel().tolist() == [40 - raw, raw, 0, 0]
    assert (answer["half_life_days"] > 0).all()
    unknown = with_states.call(served_models.INTEREST_STATE.name, {**request, "user": user_keys(["nobody"])[0]})
    assert unknown[STATUS].item() == StateStatus.UNKNOWN_USER


def test_user_is_unknown_to_all_servers_when_forgotten(with_states: Door, beside: Door, bundle: InterestBundle) -> None:
    log = Log(bundle, 30, seed=3)
    for user in ("gone", "stays"):
        observe(with_states, user, log, slice(0, 30))
    keys = user_keys(["gone", "never here"])
    answer = beside.call(served_models.FORGET.name, {"user": keys})
    assert answer[contract.FORGOTTEN.name].tolist() == [[1], [0]]
    for door in (with_states, beside):
        assert recommend(door, "gone")[STATUS].item() == StateStatus.UNKNOWN_USER
        assert recommend(door, "stays")[STATUS].item() == StateStatus.USED
    # As if the user had never been here; and it may come again.
    np.testing.assert_array_equal(recommend(with_states, "gone")[SCORE], recommend(beside, None)[SCORE])
    assert observe(with_states, "gone", log, slice(29, 30)) == [1, 0, 0, 0]


def test_neither_id_nor_hash_is_in_files_log_or_metrics_when_a_user_came_and_was_forgotten(
    states_server: TritonServer, with_states: Door, store: str, bundle: InterestBundle
) -> None:
    user, log = "somebody whom only this test knows", Log(bundle, 30, seed=5)
    observe(with_states, user, log, slice(0, 30))
    recommend(with_states, user, log, slice(28, 30))
    with_states.call(served_models.INTEREST_STATE.name, {"user": user_keys([user])[0], "now": np.array([NOW])})
    with pytest.raises(InferenceServerException, match="event_time") as refused:
        recommend(with_states, user, log, slice(0, 30), now=np.array([[1]]))
    with_states.call(served_models.FORGET.name, {"user": user_keys([user])})
    key = user_key(user)
    forms = [user, key.hex(), key[::-1].hex(), *map(str, user_keys([user])[0].tolist())]
    with urllib.request.urlopen(states_server.metrics_url) as answer:  # noqa: S310 - an address of this machine
        texts = {"metrics": answer.read().decode()}
    texts |= {"log": states_server.log_path.read_text(), "error": str(refused.value)}
    assert served_models.OBSERVER.name in texts["metrics"]
    assert [(name, form) for name, text in texts.items() for form in forms if form in text] == []
    files = [path for path in Path(store.removeprefix("embedded:")).rglob("*") if path.is_file()]
    assert len(files) > 1
    assert [path for path in files for form in (user.encode(), key) if form in path.read_bytes()] == []


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    program = redis_program()
    assert program is not None, HOW_TO_GET
    # Every write reaches the disk before its answer.
    server = RedisServer(program, tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always")
    try:
        yield server
    finally:
        server.stop()


def test_store_failures_are_unavailable_or_flagged_and_end_with_the_failure(
    repository: Path, redis_server: RedisServer, bundle: InterestBundle
) -> None:
    """The server starts before its store; the store comes, is killed, and comes back."""
    log = Log(bundle, 20, seed=4)
    config = ServerConfig(repository, state=redis_server.address, **only("recommend", "observe", "forget"))
    with serving(config) as server, triton.InferenceServerClient(server.grpc_url) as client:
        door = Door(client)

        def require_down() -> None:
            for call in (
                lambda: recommend(door, "ann", log, slice(0, 3)),
                lambda: observe(door, "ann", log, slice(0, 3)),
                lambda: door.call(served_models.FORGET.name, {"user": user_keys(["ann"])}),
            ):
                with pytest.raises(InferenceServerException, match=redis_server.address) as raised:
                    call()
                assert raised.value.status() == "StatusCode.UNAVAILABLE"
            without = recommend(door, "ann", log, slice(0, 3), allow_stateless=np.array([[True]]))
            assert without[STATUS].item() == StateStatus.UNAVAILABLE
            alone = recommend(door, None, log, slice(0, 3))
            assert alone[STATUS].item() == StateStatus.NO_USER
            np.testing.assert_array_equal(without[SCORE], alone[SCORE])

        require_down()
        redis_server.start()
        assert eventually(lambda: observe(door, "ann", log, slice(0, 20))) == [20, 0, 0, 0]
        require_like(bundle, recommend(door, "ann"), log.reference(bundle))
        with open_store(redis_server.address, PATIENT) as store:
            assert store.registered() == {InProcessPipeline(repository).users.fingerprint}
        redis_server.kill()
        require_down()
        redis_server.start()
        require_like(bundle, eventually(lambda: recommend(door, "ann")), log.reference(bundle))


def eventually(call: Callable[[], Any]) -> Any:
    """The first answer that is not UNAVAILABLE: a client may have to connect anew."""
    deadline = time.monotonic() + GUARD_S
    while True:
        try:
            return call()
        except InferenceServerException as error:
            if error.status() != "StatusCode.UNAVAILABLE" or time.monotonic() > deadline:
                raise


def test_model_is_refused_when_the_address_of_the_store_is_not_usable(repository: Path) -> None:
    config = ServerConfig(repository, model_control="explicit", load_models=("forget",), state="memcached://localhost")
    with pytest.raises(ModelLoadError, match="address of the state store: got memcached:") as raised:
        TritonServer(config).start()
    assert "forgetter" in raised.value.failures


def test_states_are_in_the_named_folder_whatever_its_path(
    repository: Path, bundle: InterestBundle, tmp_path: Path
) -> None:
    store, log = f"embedded:{tmp_path / 'états des 用户'}", Log(bundle, 3)
    only = ("observe", "observer")
    config = ServerConfig(repository, model_control="explicit", load_models=only, state=store)
    with TritonServer(config) as server, triton.InferenceServerClient(server.grpc_url) as client:
        assert observe(Door(client), "u", log, slice(None))[:2] == [3, 0]
        # The folder that a backfill or `ebbtide states` opens meanwhile.
        with open_store(store, PATIENT) as opened:
            answer = InProcessPipeline(repository, store=opened).run(served_models.RECOMMEND.name, asking("u"))
    assert isinstance(answer, dict), answer
    assert answer[COUNTS].sum() == 3


@pytest.mark.slow
def test_no_acknowledged_event_is_lost_when_the_server_is_killed_while_observing(
    repository: Path, bundle: InterestBundle, tmp_path: Path
) -> None:
    store = f"embedded:{tmp_path / 'store'}"
    log = Log(bundle, 3000, seed=5)
    users = [f"user {index}" for index in range(8)]
    acknowledged: dict[str, list[int]] = {user: [] for user in users}
    with TritonServer(ServerConfig(repository, state=store)) as server:
        enough = threading.Event()

        def send(user: str, number: int) -> None:
            with triton.InferenceServerClient(server.grpc_url) as client:
                for event in range(number, 3000, len(users)):
                    try:
                        assert observe(Door(client), user, log, np.array([event]))[:2] == [1, 0]
                    except InferenceServerException:
                        return
                    acknowledged[user].append(event)
                    if sum(map(len, acknowledged.values())) > 400:
                        enough.set()

        threads = [threading.Thread(target=send, args=pair) for pair in zip(users, range(len(users)), strict=True)]
        for thread in threads:
            thread.start()
        assert enough.wait(120)
        os.kill(server.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
    # What the server wrote is there, whoever opens it.
    with open_store(store, PATIENT) as opened:
        in_process = InProcessPipeline(repository, store=opened)
        for user, events in acknowledged.items():
            answer = in_process.run(served_models.RECOMMEND.name, asking(user))
            assert isinstance(answer, dict), answer
            # The event in flight may be there or not. Sent again, those with an answer are duplicates.
            assert answer[COUNTS].sum() - len(events) in (0, 1)
            again = in_process.run(served_models.OBSERVE.name, observed(user, log, np.array(events[-8:])))
            assert isinstance(again, dict), again
            assert again[contract.OBSERVED.name][0, :2].tolist() == [0, min(8, len(events))]


@pytest.mark.slow
def test_server_learns_online_from_what_was_shown_when_the_export_says_so(
    repository: Path, bundle: InterestBundle, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(repository, tmp_path / "repository"))
    settings = folder / served_models.OBSERVER.name / "1" / CONFIG_FILE
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "online_learning_rate": 5.0}))
    log, shown = Log(bundle, 40), item_keys(bundle.catalog.item_id)[70:90]
    now = np.array([NOW])
    # Some of the past is the session.
    log.time_ms[-4:] = NOW - 60_000 * np.arange(4, 0, -1)
    new = {"user": user_keys(["u"]), "event_item": shown[None, :1], "event_time": now[None], "shown_item": shown[None]}
    asked = {"user": user_keys(["u"])[0], "now": now}
    config = ServerConfig(folder, state=f"embedded:{tmp_path / 'store'}")
    with TritonServer(config) as server, triton.InferenceServerClient(server.grpc_url) as client:
        door = Door(client)
        door.call(served_models.OBSERVE.name, observed("u", log, slice(None)))
        before = door.call(served_models.INTEREST_STATE.name, asked)
        assert door.call(served_models.OBSERVE.name, new)[contract.OBSERVED.name].tolist() == [[1, 0, 0, 0]]
        after = door.call(served_models.INTEREST_STATE.name, asked)
        reset = {"user": user_keys(["u"]), "event_item": shown[None, :0], "event_time": now[None, :0]}
        door.call(served_models.OBSERVE.name, {**reset, "reset_learning": np.array([[True]])})
        again = door.call(served_models.INTEREST_STATE.name, asked)
    offsets = [answer[contract.ALPHA_OFFSET.name].item() for answer in (before, after, again)]
    assert offsets[0] == offsets[2] == 0 != offsets[1]
