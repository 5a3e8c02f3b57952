"""A version in shadow gets the requests that the gateway answers: it is compared, and no answer is another for it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from commands import ebbtide, run
from deadlines import PATIENT
from ebbtide.client import ClientConfig, InterestClient
from ebbtide.deploy import DeployError, ModelControl, deploy, roll_back
from ebbtide.deploy.transaction import candidate_of
from ebbtide.export import transition, versions
from ebbtide.export.attributes import read_attributes
from ebbtide.export.earlier import attributes_in_service
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import export_repository
from ebbtide.gateway import Gateway, GatewayConfig
from ebbtide.gateway.shadow import AT_ONCE, LOOK_AGAIN_S
from ebbtide.interest import contract, served_models
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.v1 import AttributeFilter, RecommendRequest, RecommendResponse, interest_pb2_grpc
from ports import free_port
from servers import serving
from steady_load import CLIENTS, SteadyLoad, requests_of

TROUBLED = """

import time
from pathlib import Path

plain = TritonPythonModel.execute


def execute(self, requests):
    while Path("{folder}/hang").exists():
        time.sleep(0.02)
    if Path("{folder}/fail").exists():
        raise RuntimeError("told to fail")
    return plain(self, requests)


TritonPythonModel.execute = execute
"""
"""Follows the code of a model, to hang or fail while a file exists."""
OTHER_TRAINING, SAME_MODEL, OTHER_FILTERS = 2, 3, 4
SHADOW = "ebbtide_gateway_shadow"


@pytest.fixture(scope="module")
def folder(two_versions: Path, tiny_bundle: InterestBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1, which answers at the start and the end of each test, and others."""
    out = Path(shutil.copytree(two_versions, tmp_path_factory.mktemp("shadow") / "repository"))
    filters = attributes_in_service(out, tiny_bundle)
    export_repository(tiny_bundle, out, ExportOptions(top_n=20), attributes=filters, version=SAME_MODEL)
    model = out / served_models.ADAPTIVE_WEIGHTS.name / str(OTHER_TRAINING) / "model.py"
    code = model.read_text()
    # Not appended: the file may have the name of another version too.
    model.unlink()
    model.write_text(code + TROUBLED.format(folder=out.parent))
    genres = out.parent / "genres.parquet"
    items = tiny_bundle.catalog.item_id
    pl.DataFrame({"item": items, "genres": ["film"] * len(items)}).write_parquet(genres)
    attributes = read_attributes(genres, ["genres"], items, item_column="item")
    export_repository(tiny_bundle, out, ExportOptions(top_n=20), version=OTHER_FILTERS, attributes=attributes)
    return out


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[TritonServer]:
    with serving(ServerConfig(folder, model_control="explicit", load_models=("*",))) as running:
        yield running


@pytest.fixture
def in_shadow(folder: Path, server: TritonServer) -> Iterator[Callable[[int], None]]:
    """Brings a version into shadow, which ends with the test."""

    def bring(version: int) -> None:
        done = deploy(folder, [server.grpc_url], version, shadow=True)
        assert (done.version, done.previous, done.shadow) == (1, 1, version)

    yield bring
    if transition.read(folder) is not None:
        roll_back(folder, [server.grpc_url])
    assert set(versions.ensemble_versions(folder).values()) == {1}
    assert candidate_versions(folder, server) == {1}


def candidate_versions(folder: Path, server: TritonServer) -> set[int]:
    """That the candidate ensembles on the server answer with: in shadow, other than the one in service."""
    with ModelControl(server.grpc_url) as control:
        candidates = filter(control.is_ready, [candidate_of(model.name) for model in versions.ensembles(folder)])
        return {control.served(name).version for name in candidates}


class Counted:
    """The metrics about shadow on a gateway's page."""

    def __init__(self, http_url: str) -> None:
        with urllib.request.urlopen(f"{http_url}/metrics") as page:  # noqa: S310 - http only
            families = text_string_to_metric_families(page.read().decode())
        self._samples = [sample for family in families for sample in family.samples]

    def of(self, outcome: str) -> int:
        return int(self._sum("requests_total", {"outcome": outcome}))

    def compared(self, live: int, shadow: int) -> int:
        return int(self._sum("overlap_at_10_count", {"live": str(live), "shadow": str(shadow)}))

    def overlap(self, live: int, shadow: int) -> float:
        """The mean."""
        pair = {"live": str(live), "shadow": str(shadow)}
        return self._sum("overlap_at_10_sum", pair) / self._sum("overlap_at_10_count", pair)

    def timed(self, live: int, shadow: int, of: str) -> int:
        return int(self._sum("duration_seconds_count", {"live": str(live), "shadow": str(shadow), "of": of}))

    def _sum(self, name: str, labels: dict[str, str]) -> float:
        return sum(one.value for one in self._samples if one.name == f"{SHADOW}_{name}" and one.labels == labels)


class Calls:
    """A gateway and what to ask it."""

    def __init__(self, gateway: Gateway, stub: Any) -> None:
        self._gateway, self.stub = gateway, stub

    async def ask(self, requests: list[RecommendRequest]) -> list[bytes]:
        return [(await self.stub.Recommend(request)).SerializeToString(deterministic=True) for request in requests]

    async def counted(self) -> Counted:
        return await asyncio.to_thread(Counted, self._gateway.http_url or "")

    async def until(self, holds: Callable[[Counted], bool]) -> Counted:
        while not holds(counted := await self.counted()):
            await asyncio.sleep(0.05)
        return counted


@asynccontextmanager
async def gateway_of(server: TritonServer, share: float, **settings: Any) -> AsyncIterator[Calls]:
    config = GatewayConfig(triton=server.grpc_url, http_port=0, shadow_share=share, **{"client": PATIENT, **settings})
    async with Gateway(config) as gateway, grpc.aio.insecure_channel(gateway.url) as channel:
        yield Calls(gateway, interest_pb2_grpc.InterestServiceStub(channel))


def test_answers_are_the_same_bytes_and_overlap_tells_versions_apart_when_requests_are_mirrored(
    folder: Path, server: TritonServer, tiny_bundle: InterestBundle, in_shadow: Callable[[int], None]
) -> None:
    requests = requests_of(tiny_bundle)
    titled = RecommendRequest(top_n=10)
    titled.events.add(text="a quiet film about the sea").time.FromSeconds(1_600_000_000)
    titled.now.FromSeconds(1_600_100_000)
    requests.append(titled)

    async def answers_beside(version: int) -> float:
        async with gateway_of(server, 0) as plain, gateway_of(server, 1) as mirroring:
            expected = await plain.ask(requests)
            await asyncio.to_thread(in_shadow, version)
            assert await mirroring.ask(requests) == expected
            counted = await mirroring.until(lambda counted: counted.of("compared") == len(requests))
            assert counted.compared(1, version) == len(requests)
            assert counted.timed(1, version, "live") == counted.timed(1, version, "shadow") == len(requests)
            assert [counted.of(other) for other in ("refused", "failed", "dropped", "absent")] == [0] * 4
            assert (await plain.counted()).compared(1, version) == 0
            return counted.overlap(1, version)

    assert asyncio.run(answers_beside(SAME_MODEL)) == 1
    # The shadow of another version ends this one.
    assert 0 < asyncio.run(answers_beside(OTHER_TRAINING)) < 0.9
    assert versions.loaded_versions(folder) == (1, OTHER_TRAINING)


@pytest.mark.slow
def test_share_of_the_requests_is_mirrored_also_those_of_streams(
    server: TritonServer, tiny_bundle: InterestBundle, in_shadow: Callable[[int], None]
) -> None:
    in_shadow(SAME_MODEL)
    requests = requests_of(tiny_bundle, 8)

    async def mirrored() -> tuple[int, int]:
        async with gateway_of(server, 0.5) as half:
            for _ in range(25):
                await half.ask(requests)
            await asyncio.sleep(0.5)
            counted = await half.counted()
        async with gateway_of(server, 1) as whole:
            stream = whole.stub.RecommendStream()
            for request in requests:
                await stream.write(stream_request(request))
                assert (await stream.read()).HasField("response")
            await stream.done_writing()
            await whole.until(lambda counted: counted.of("compared") == len(requests))
        return counted.of("compared") + counted.of("dropped"), counted.of("failed")

    chosen, failed = asyncio.run(mirrored())
    assert 50 < chosen < 150
    assert failed == 0


def stream_request(request: RecommendRequest) -> Any:
    from ebbtide.v1.interest_pb2 import RecommendStreamRequest

    return RecommendStreamRequest(request=request)


def test_refusals_of_the_new_version_are_counted_when_the_old_one_answers(
    server: TritonServer,
    tiny_bundle: InterestBundle,
    in_shadow: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    in_shadow(OTHER_FILTERS)
    requests = requests_of(tiny_bundle, 4)
    for request in requests[:2]:
        request.allow.append(AttributeFilter(column="genres", values=["Comedy"]))

    async def ask() -> None:
        async with gateway_of(server, 1) as calls:
            assert all(RecommendResponse.FromString(answer).items for answer in await calls.ask(requests))
            await calls.until(lambda counted: (counted.of("refused"), counted.of("compared")) == (2, 2))

    with caplog.at_level("INFO", "ebbtide.gateway.shadow"):
        asyncio.run(ask())
    (line,) = [json.loads(record.message) for record in caplog.records if record.name == "ebbtide.gateway.shadow"]
    assert line["shadow"] == {"compared": 2, "refused": 2, "failed": 0, "dropped": 0, "absent": 0}
    assert line["versions"][0]["mean_overlap_at_10"] == 1
    assert line["first_refusal"].startswith("InvalidArgumentError at allow[0]")
    assert "Comedy" not in json.dumps(line)


@contextmanager
def sign(path: Path) -> Iterator[None]:
    """A file that tells `TROUBLED` what to do, for the block."""
    path.touch()
    try:
        yield
    finally:
        path.unlink()


@pytest.mark.slow
def test_answers_are_given_when_the_new_version_hangs_or_fails(
    folder: Path, server: TritonServer, tiny_bundle: InterestBundle, in_shadow: Callable[[int], None]
) -> None:
    in_shadow(OTHER_TRAINING)
    requests = requests_of(tiny_bundle)

    async def ask() -> None:
        async with gateway_of(server, 0) as plain, gateway_of(server, 1, client=ClientConfig(timeout_s=10)) as calls:
            expected = await plain.ask(requests)
            with sign(folder.parent / "hang"):
                while not (await calls.counted()).of("dropped"):
                    assert await calls.ask(requests) == expected
                late = await calls.until(lambda counted: counted.of("failed") > 0)
                assert late.of("compared") == 0
            with sign(folder.parent / "fail"):
                assert await calls.ask(requests) == expected
                await calls.until(lambda counted: counted.of("failed") > late.of("failed") + 10)
            while not (await calls.counted()).compared(1, OTHER_TRAINING):
                assert await calls.ask(requests) == expected

    asyncio.run(ask())


class Caller:
    """A caller of a gateway, with stubs only."""

    def __init__(self, url: str) -> None:
        self._channel = grpc.insecure_channel(url)
        self._stub = interest_pb2_grpc.InterestServiceStub(self._channel)

    def recommend(self, request: RecommendRequest, /) -> RecommendResponse:
        return self._stub.Recommend(request, timeout=PATIENT.timeout_s)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()


@contextmanager
def gateway_process(server: TritonServer) -> Iterator[tuple[str, str, list[str]]]:
    """The command, which mirrors all requests: its gRPC and HTTP addresses, and what it says on standard error."""
    ports = free_port(), free_port()
    command = [
        sys.executable,
        "-u",
        "-c",
        "from ebbtide.cli.main import main; main()",
        "gateway",
        server.grpc_url,
        "--shadow",
        "1",
    ]
    command += ["--port", str(ports[0]), "--http-port", str(ports[1]), "--timeout-s", "60"]
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        reader = threading.Thread(target=lambda: said.extend(process.stderr))  # type: ignore[arg-type]
        reader.start()
        try:
            assert "gateway at" in process.stdout.readline(), said
            yield f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", said
        finally:
            process.terminate()
            process.wait(30)
            reader.join()


def wait_until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.05)


def test_no_request_fails_when_a_version_is_mirrored_deployed_and_rolled_back_under_load(
    folder: Path, server: TritonServer, tiny_bundle: InterestBundle
) -> None:
    servers = [server.grpc_url]
    with (
        gateway_process(server) as (url, http_url, said),
        SteadyLoad(url, folder, requests_of(tiny_bundle), connect=Caller) as load,
    ):

        def wait_for_absence(goal: int = 20) -> int:
            """Waits until nothing is mirrored; how many requests the new version was compared on."""
            before = Counted(http_url).of("absent")
            wait_until(lambda: Counted(http_url).of("absent") > before + goal)
            return Counted(http_url).compared(1, 2)

        load.wait_for(1)
        assert wait_for_absence() == 0

        shadow = deploy(folder, servers, 2, shadow=True)
        assert (shadow.version, shadow.previous, shadow.shadow) == (1, 1, 2)
        assert versions.loaded_versions(folder) == (1, 2)
        wait_until(lambda: Counted(http_url).compared(1, 2) > 20)
        assert 0 < Counted(http_url).overlap(1, 2) < 0.9
        assert load.answered.keys() == {"1"}

        # It is the one in shadow, not the newest.
        switched = deploy(folder, servers)
        assert (switched.version, switched.previous, switched.is_recovery) == (2, 1, False)
        load.wait_for(2)
        wait_for_absence()

        back = roll_back(folder, servers)
        assert (back.version, back.previous, back.has_ended_shadow) == (1, 2, False)
        # Otherwise the version that was rolled back would be in shadow.
        assert candidate_versions(folder, server) == {1}
        load.wait_for(1)
        compared = wait_for_absence()
        # The gateway looks again for a version in shadow.
        time.sleep(2 * LOOK_AGAIN_S)
        assert wait_for_absence() <= compared + AT_ONCE
        after = Counted(http_url)
        # Answers of the version that was rolled back that were under way when its candidate went.
        assert after.compared(2, 1) <= CLIENTS + AT_ONCE
    assert load.failed == []
    lines = [json.loads(line) for line in said if line.startswith("{")]
    assert sum(line["shadow"]["compared"] for line in lines) == after.of("compared")
    assert not (folder / contract.JOURNAL_FILE).exists()


@pytest.mark.slow
def test_version_for_a_roll_back_is_kept_when_a_shadow_ends(folder: Path, server: TritonServer) -> None:
    servers = [server.grpc_url]
    deploy(folder, servers, 2)
    assert versions.loaded_versions(folder) == (1, 2)
    said = ebbtide("deploy", folder, "--server", server.grpc_url, "--version", "3", "--shadow")
    assert "version 3 is in shadow" in said
    assert "version 2" in said
    assert versions.loaded_versions(folder) == (2, 3)
    assert "deployment-unfinished" in ebbtide("check", folder)

    ended = ebbtide("deploy", folder, "--server", server.grpc_url, "--roll-back")
    assert "version 3 was in shadow and no longer is; nothing else was done" in ended
    assert versions.loaded_versions(folder) == (1, 2)
    assert versions.served_version(folder) == 2
    back = roll_back(folder, servers)
    assert (back.version, back.is_recovery) == (1, False)


def said_before_the_start(folder: Path) -> str:
    """The first line of the command that starts a server for a folder; it is ended then."""
    command = [sys.executable, "-u", "-c", "from ebbtide.cli.main import main; main()", "serve", str(folder)]
    with subprocess.Popen([*command, "--state", "none"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.terminate()
    return said


@pytest.mark.slow
def test_server_that_starts_again_forgets_the_shadow_and_the_deployment_goes_on(
    folder: Path, server: TritonServer, tmp_path: Path
) -> None:
    before = versions.loaded_versions(folder)
    deploy(folder, [server.grpc_url], 3, shadow=True)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    said = said_before_the_start(copy)
    assert re.search(r"Version 3 was in shadow: it is not loaded again,\s+and version 1 is served", said)
    assert versions.loaded_versions(copy) == before

    server.stop()
    server.start()
    again = deploy(folder, [server.grpc_url], shadow=True)
    assert (again.version, again.shadow) == (1, 3)
    with InterestClient(server.grpc_url, config=PATIENT) as client:
        assert client.recommend().model_version == "1"
    whole = deploy(folder, [server.grpc_url], keep_previous=False)
    assert (whole.version, whole.previous) == (3, 1)
    assert versions.loaded_versions(folder) == (3,)
    deploy(folder, [server.grpc_url], 1, keep_previous=False)


def test_shadow_is_refused_when_the_version_answers_already(folder: Path, server: TritonServer) -> None:
    with pytest.raises(DeployError, match="version 1: got the one that answers already"):
        deploy(folder, [server.grpc_url], 1, shadow=True)
    done = run("deploy", folder, "--server", server.grpc_url, "--shadow", "--drop-previous")
    assert done.returncode == 2
    assert "--shadow leaves the version in service" in re.sub(r"[│\s]+", " ", done.stderr)
