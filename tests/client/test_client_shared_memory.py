"""Tensors in shared memory with a real Triton: who may, what is left behind, and what an unfinished call keeps."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ebbtide.client import (
    AsyncInterestClient,
    ClientConfig,
    DeadlineExceededError,
    EbbtideError,
    Hooks,
    InterestClient,
    InvalidArgumentError,
    Status,
    event,
    recommend_request,
)
from ebbtide.client._shared_memory import MOST_REGIONS, REGION_BYTES
from ebbtide.serve import ServerConfig, TritonServer
from servers import serving

SHARED = ClientConfig(shared_memory=True, timeout_s=60)
NOW = datetime(2024, 5, 1, tzinfo=timezone.utc)
REQUEST = recommend_request(events=[event(item_id="1", time=NOW)], now=NOW, top_n=3)


@pytest.fixture(scope="module")
def small(small_repository):
    with serving(ServerConfig(small_repository)) as running:
        yield running


def regions_of(url):
    """Names of the regions that the server knows."""
    with InferenceServerClient(url) as plain:
        return set(plain.get_system_shared_memory_status().regions)


def forget(url):
    """Has the server forget all regions, as a restart does; just after a call its region is in use for a moment."""
    with InferenceServerClient(url) as plain:
        while regions_of(url):
            with suppress(InferenceServerException):
                plain.unregister_system_shared_memory()


def own_files():
    return list(Path("/dev/shm").glob(f"ebbtide-{os.getpid()}-*"))  # noqa: S108


def test_tensors_lie_in_regions_and_nothing_is_left_when_the_client_closes(connect, triton):
    with connect(triton.grpc_url) as plain, connect(triton.grpc_url, config=SHARED) as shared:
        for _ in range(3):
            assert shared.recommend(REQUEST) == plain.recommend(REQUEST)
        texts = ["space opera with robots", "heist"]
        assert shared.embed(texts, timeout_s=60).tolist() == plain.embed(texts, timeout_s=60).tolist()
        # One after the other, calls need one region; its name is taken away as soon as the server has it open.
        assert len(regions_of(triton.grpc_url)) == 1
        assert own_files() == []
    assert regions_of(triton.grpc_url) == set()


def test_each_call_has_a_region_to_itself_when_many_run_at_once(triton):
    async def run():
        async with AsyncInterestClient(triton.grpc_url, config=SHARED) as client:
            calls = [client.recommend(REQUEST, timeout_s=60) for _ in range(3 * MOST_REGIONS)]
            answers = await asyncio.gather(*calls)
            return answers, regions_of(triton.grpc_url)

    answers, regions = asyncio.run(run())
    assert [[item.item_id for item in answer.items] for answer in answers] == [
        [item.item_id for item in answers[0].items]
    ] * len(answers)
    assert 1 < len(regions) <= MOST_REGIONS
    with InterestClient(triton.grpc_url, config=SHARED) as client:
        results = client.recommend_many([REQUEST] * 64, max_concurrency=8, users_per_request=4, timeout_s=60)
    assert all(result.error is None for result in results)
    assert regions_of(triton.grpc_url) == set()


def test_request_travels_as_usual_when_it_does_not_fit(connect, small):
    with connect(small.grpc_url, config=SHARED) as client:
        assert client.embed(["x" * REGION_BYTES]).tolist() == [[REGION_BYTES, 0]]
        assert client.embed(["quick"]).tolist() == [[5, 0]]


def test_region_is_not_used_again_when_its_call_ended_without_an_answer(connect, small, small_repository):
    with connect(small.grpc_url, config=SHARED) as client:
        client.embed(["quick"])
        with pytest.raises(DeadlineExceededError):
            client.embed(["slow"], timeout_s=0.5)
        (left,) = regions_of(small.grpc_url)
        assert client.embed(["quick"]).tolist() == [[5, 0]]
        assert regions_of(small.grpc_url) - {left}
    for name in ("started", "cancelled"):
        (small_repository / "embed" / name).unlink(missing_ok=True)


def test_calls_go_on_when_the_server_has_forgotten_the_regions(connect, triton):
    methods = []
    hooks = Hooks(before_call=lambda call: methods.append(call.method))
    with connect(triton.grpc_url, config=ClientConfig(shared_memory=True, hooks=(hooks,))) as client:
        expected = client.recommend(REQUEST)
        forget(triton.grpc_url)
        assert client.recommend(REQUEST) == client.recommend(REQUEST) == expected
    assert methods.count("register_shared_memory") == 2


def test_region_is_used_again_when_the_server_refused_the_request(connect, triton):
    with connect(triton.grpc_url, config=SHARED) as client:
        with pytest.raises(InvalidArgumentError, match="alpha"):
            client.recommend(alpha=3)
        before = regions_of(triton.grpc_url)
        client.recommend(REQUEST)
        assert regions_of(triton.grpc_url) == before
        assert len(before) == 1


@pytest.mark.parametrize("url", ["10.0.0.1:8001", "dns:///triton:8001", ["127.0.0.1:1", "127.0.0.1:2"]])
def test_client_is_refused_when_its_server_is_not_one_on_this_machine(connect, url):
    with pytest.raises(InvalidArgumentError, match="one server on this machine") as caught:
        connect(url, config=SHARED)
    assert caught.value.field == "shared_memory"


def test_call_says_why_when_the_server_does_not_share_the_memory(connect, small, tmp_path, monkeypatch):
    monkeypatch.setattr("ebbtide.client._shared_memory._FOLDER", tmp_path)
    with connect(small.grpc_url, config=SHARED) as client, pytest.raises(EbbtideError) as caught:
        client.embed(["quick"])
    assert caught.value.status is Status.FAILED_PRECONDITION
    assert str(caught.value).startswith("shared_memory: got ")
    assert "expected a server that shares this machine's memory" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_client_closes_at_once_when_its_server_is_gone(connect, small_repository):
    with TritonServer(ServerConfig(small_repository)) as server, connect(server.grpc_url, config=SHARED) as client:
        with ThreadPoolExecutor(4) as pool:
            assert [len(vectors) for vectors in pool.map(lambda _: client.embed(["quick"]), range(8))] == [1] * 8
        server.stop()
        client.close()
