"""Versions are switched and rolled back on a running server under a steady load: no request fails, none is mixed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deadlines import PATIENT
from ebbtide.client import InterestClient, event
from ebbtide.deploy import (
    CandidateError,
    DeployError,
    LoadRefusedError,
    ModelControl,
    ModelControlError,
    OtherRepositoryError,
    deploy,
    roll_back,
)
from ebbtide.deploy.switch import require_parity
from ebbtide.export import versions
from ebbtide.export.errors import VersionError
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.interest import contract, served_models
from ebbtide.interest.modelfile import write_fingerprint
from ebbtide.serve import ServerConfig, TritonServer, hangs
from ebbtide.train.bundle import InterestBundle
from ebbtide.v1 import RecommendRequest
from servers import look_for_hangs, serving
from steady_load import NOW, SteadyLoad, requests_of

MakeBundle = Callable[..., InterestBundle]


@pytest.fixture
def folder(two_versions: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_versions, tmp_path / "repository"))


@pytest.fixture
def running(folder: Path) -> Iterator[TritonServer]:
    with serving(ServerConfig(folder, model_control="explicit", load_models=("*",))) as server:
        yield server


@pytest.fixture(scope="module")
def kept_folder(two_versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of which version 1 alone answers, after each test that shares it too."""
    return Path(shutil.copytree(two_versions, tmp_path_factory.mktemp("kept") / "repository"))


@pytest.fixture(scope="module")
def kept_server(kept_folder: Path) -> Iterator[TritonServer]:
    log = kept_folder.parent / "log"
    with serving(ServerConfig(kept_folder, model_control="explicit", load_models=("*",), log_file=log)) as server:
        yield server


def put_back(folder: Path, server: TritonServer) -> None:
    """Lets version 1 alone answer."""
    deploy(folder, [server.grpc_url], 1, keep_previous=False)
    assert versions.loaded_versions(folder) == (1,)


def steps_of(rounds: int) -> list[str]:
    """Deployments that keep the version before or drop it, and a roll-back after each pair."""
    return ["drop", "keep", "roll back"] if rounds == 1 else ["keep", "drop", "keep", "keep", "roll back"] * rounds


@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_no_request_fails_when_versions_are_deployed_and_rolled_back_under_load(
    kept_folder: Path, kept_server: TritonServer, tiny_bundle: InterestBundle, rounds: int
) -> None:
    folder, running, requests = kept_folder, kept_server, requests_of(tiny_bundle)
    log = folder.parent / "log"
    earlier = len(log.read_text(encoding="utf-8"))
    pause = {} if rounds == 1 else {"pause_s": 0}
    with SteadyLoad(running.grpc_url, folder, requests, **pause) as load:
        load.wait_for(1)
        for step in steps_of(rounds):
            current = versions.served_version(folder)
            if step == "roll back":
                result = roll_back(folder, [running.grpc_url])
            else:
                parts: list[str] = []
                result = deploy(
                    *(folder, [running.grpc_url], 3 - current),
                    requests=requests,
                    keep_previous=step == "keep",
                    report=parts.append,
                )
                assert parts == ["load", "check", "switch", *(["unload"] if step == "drop" else [])]
                assert result.comparison is not None
                assert result.comparison.requests == len(requests)
                # Random parameters: the versions have little in common.
                assert 0 < result.comparison.mean_overlap_at_10 < 0.9
            assert (result.version, result.previous) == (3 - current, current)
            assert result.fingerprint == versions.version_fingerprint(folder, result.version)
            assert versions.served_version(folder) == result.version
            assert versions.loaded_versions(folder) == ((1, 2) if step != "drop" else (result.version,))
            # Whoever asks after a deployment has returned sees only the new version.
            with InterestClient(running.grpc_url, config=PATIENT) as client:
                assert {client.recommend(request).model_version for request in requests} == {str(result.version)}
                assert client.embed(["a quiet film"]).shape == (1, 16)
            load.wait_for(result.version)
    assert load.failed == []
    assert min(load.answered["1"], load.answered["2"]) > 20 * rounds
    # Each ensemble that is loaded anew may end Triton on a busy machine.
    models = {model.name: model for model in versions.ensembles(folder)}
    loaded = re.findall(r'"loading: (\w+?)(?:_candidate)?:\d+"', log.read_text(encoding="utf-8")[earlier:])
    assert len([name for name in loaded if name in models]) < 150 * (len(steps_of(rounds)) + 1)
    require_unloads_when_asked_later(folder, running)
    put_back(folder, running)


def require_unloads_when_asked_later(folder: Path, server: TritonServer) -> None:
    """Version 1, which a deployment has kept beside 2, is unloaded when the next one says so."""
    dropped = deploy(folder, [server.grpc_url], keep_previous=False)
    assert (dropped.version, dropped.previous, dropped.comparison) == (2, 1, None)
    assert versions.loaded_versions(folder) == (2,)
    with InterestClient(server.grpc_url, config=PATIENT) as client:
        assert client.recommend(now=NOW).model_version == "2"
    with pytest.raises(DeployError, match="roll-back: got no version loaded beside 2"):
        roll_back(folder, [server.grpc_url])
    with pytest.raises(DeployError, match="version 2: got the one that answers already"):
        deploy(folder, [server.grpc_url], keep_previous=False)


@pytest.mark.slow
def test_keeper_leaves_the_server_alone_while_versions_are_deployed_and_rolled_back(
    folder: Path, running: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody else asks, so that nothing but the canary is answered while models load.
    monkeypatch.setattr(hangs, "_LOOK_S", 0.3)

    def switch() -> None:
        deploy(folder, [running.grpc_url], keep_previous=False)
        deploy(folder, [running.grpc_url], 1)
        roll_back(folder, [running.grpc_url])

    look_for_hangs(running, switch)
    assert versions.served_version(folder) == 2


@pytest.mark.slow
def test_server_answers_with_the_deployed_version_when_it_starts_again(folder: Path, running: TritonServer) -> None:
    deploy(folder, [running.grpc_url])
    with TritonServer(ServerConfig(folder)) as again, InterestClient(again.grpc_url, config=PATIENT) as client:
        assert client.recommend(now=NOW).model_version == "2"


@contextmanager
def spoilt(path: Path) -> Iterator[None]:
    """Cuts a file short for the block."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    yield
    path.write_bytes(whole)


@pytest.mark.parametrize(
    "name",
    [
        f"{served_models.ADAPTIVE_WEIGHTS.name}/2/catalog.safetensors",
        pytest.param(f"{served_models.SCORING_HEAD.name}/2/model.onnx", marks=pytest.mark.slow),
        pytest.param(f"{served_models.TOKENIZER.name}/2/tokenizer.json", marks=pytest.mark.slow),
    ],
)
def test_old_version_goes_on_answering_when_the_server_refuses_the_new_one(
    kept_folder: Path, kept_server: TritonServer, tiny_bundle: InterestBundle, name: str
) -> None:
    with SteadyLoad(kept_server.grpc_url, kept_folder, requests_of(tiny_bundle)) as load:
        with spoilt(kept_folder / name), pytest.raises(LoadRefusedError, match=name.split("/")[0]):
            deploy(kept_folder, [kept_server.grpc_url], requests=requests_of(tiny_bundle))
        load.wait_for(1)
    assert load.failed == []
    assert load.answered.keys() == {"1"}
    assert versions.loaded_versions(kept_folder) == (1,)
    assert versions.served_version(kept_folder) == 1


def test_old_version_answers_when_the_warm_up_of_the_new_one_fails(
    folder: Path, running: TritonServer, tiny_bundle: InterestBundle
) -> None:
    with (folder / served_models.ADAPTIVE_WEIGHTS.name / "2" / "model.py").open("a") as model:
        model.write("\n\ndef fail(self, requests):\n    raise RuntimeError('boom')\n")
        model.write("\n\nTritonPythonModel.execute = fail\n")
    with pytest.raises(DeployError):
        deploy(folder, [running.grpc_url], requests=requests_of(tiny_bundle))
    # Triton 2.51 may die of it; `ebbtide serve` starts it again, as here.
    running.stop()
    running.start()
    with InterestClient(running.grpc_url, config=PATIENT) as client:
        assert client.recommend(now=NOW).model_version == "1"


def test_old_version_goes_on_answering_when_the_check_of_the_new_one_fails(
    kept_folder: Path, kept_server: TritonServer, tiny_bundle: InterestBundle
) -> None:
    with pytest.raises(CandidateError, match=r"got a mean overlap of 0\.\d\d .*; expected at least 1\.00"):
        deploy(kept_folder, [kept_server.grpc_url], requests=requests_of(tiny_bundle), min_overlap=1.0)

    unknown = RecommendRequest(events=[event(item_id="no such item", time=NOW)])
    with pytest.raises(CandidateError, match="got none that the export serves"):
        deploy(kept_folder, [kept_server.grpc_url], requests=[unknown])
    with InterestClient(kept_server.grpc_url, config=PATIENT) as client:
        assert client.recommend(now=NOW).model_version == "1"
    assert versions.loaded_versions(kept_folder) == (1,)


def test_check_fails_when_the_server_answers_otherwise_than_the_files(
    kept_folder: Path, kept_server: TritonServer, tiny_bundle: InterestBundle, tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(kept_folder, tmp_path / "changed"))
    path = changed / served_models.SCORING_HEAD.name / "1" / "model.onnx"
    graph = onnx.load(path)
    factors = next(weight for weight in graph.graph.initializer if weight.name == "factors")
    factors.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(factors) * np.float32(1.01), factors.name))
    path.unlink()
    onnx.save_model(graph, path)
    write_fingerprint(path.parent, versions.version_fingerprint(changed, 1))
    with ModelControl(kept_server.grpc_url) as control:
        require_parity(InProcessPipeline(kept_folder), control, requests_of(tiny_bundle), {})
        with pytest.raises(CandidateError, match=r"got a largest difference of .* at scoring_head, score"):
            require_parity(InProcessPipeline(changed), control, requests_of(tiny_bundle), {})


@pytest.mark.slow
def test_deployment_is_finished_when_an_earlier_one_was_cut_off(folder: Path, running: TritonServer) -> None:
    deploy(folder, [running.grpc_url], 2)
    versions.rewrite_configs(
        folder / served_models.EMBED.name,
        lambda config: versions.pin(config, 1, versions.version_fingerprint(folder, 1)),
    )
    assert deploy(folder, [running.grpc_url], 2).version == 2
    assert set(versions.ensemble_versions(folder).values()) == {2}


@pytest.mark.slow
def test_every_server_is_switched_when_several_read_the_folder(folder: Path, running: TritonServer) -> None:
    with TritonServer(ServerConfig(folder, model_control="explicit", load_models=("*",))) as second:
        addresses = [running.grpc_url, second.grpc_url]
        deploy(folder, addresses)
        for address in addresses:
            with InterestClient(address, config=PATIENT) as client:
                assert client.recommend(now=NOW).model_version == "2"
        roll_back(folder, addresses)
    with pytest.raises(DeployError, match="addresses: got none"):
        deploy(folder, [])


def test_deployment_is_refused_when_there_is_nothing_to_do(kept_folder: Path, kept_server: TritonServer) -> None:
    with pytest.raises(DeployError, match=r"version 1: got the one that answers already; expected another of \[1, 2\]"):
        deploy(kept_folder, [kept_server.grpc_url], 1)
    with pytest.raises(VersionError, match="version 9"):
        deploy(kept_folder, [kept_server.grpc_url], 9)
    with pytest.raises(DeployError, match="roll-back: got no version loaded beside 1"):
        roll_back(kept_folder, [kept_server.grpc_url])


def test_deployment_is_refused_when_the_server_reads_another_folder(
    kept_folder: Path, kept_server: TritonServer, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(kept_folder, tmp_path / "other"))
    versions.load_only(other, [1, 2])
    versions.serve(other, 2)
    with pytest.raises(OtherRepositoryError, match=r"got a server that answers with version 1 .*; expected version 2"):
        deploy(other, [kept_server.grpc_url], 1)


def test_deployment_is_refused_when_requests_could_no_longer_filter(
    kept_folder: Path, kept_server: TritonServer, tmp_path: Path
) -> None:
    unfiltered = Path(shutil.copytree(kept_folder, tmp_path / "unfiltered"))
    path = unfiltered / contract.MANIFEST_FILE
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["versions"]["2"]["attributes"] = {}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DeployError, match=r"got no filters by genres, which version 1 .* --attribute-col genres"):
        deploy(unfiltered, [kept_server.grpc_url])
    manifest["versions"]["1"]["numbers"] = {"genres": [1, 2]}
    manifest["versions"]["2"]["attributes"] = manifest["versions"]["1"]["attributes"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DeployError, match=r"got no filters by genres, which version 1 .* --numeric-col genres"):
        deploy(unfiltered, [kept_server.grpc_url])
    assert versions.loaded_versions(unfiltered) == (1,)


def test_deployment_is_refused_when_the_server_has_no_model_control(folder: Path) -> None:
    with TritonServer(ServerConfig(folder)) as server:
        with pytest.raises(ModelControlError, match=r"model control: got .* `ebbtide serve --allow-deploy`"):
            deploy(folder, [server.grpc_url])
        address = server.grpc_url
        assert versions.loaded_versions(folder) == (1,)
    with pytest.raises(ModelControlError, match=r"got no answer .*; expected Triton's gRPC port"):
        deploy(folder, [address])


def test_log_is_named_when_the_server_ends_while_it_is_asked(folder: Path) -> None:
    with TritonServer(ServerConfig(folder)) as server, ModelControl(server.grpc_url) as control:
        control.served()
        server.stop()
        with pytest.raises(ModelControlError, match=r"asking for its version: got no answer .*: its log says why"):
            control.server_version()
