"""Brings a version of an exported repository into service on a running Triton, with no request failed, and back.

The models that compute are loaded beside those of the version that answers; candidate ensembles, which no client knows,
show how the new version answers; then the ensembles are loaded anew with their steps pinned to it. Requests under way
end with the version they began with. Files first, then the server: one that restarts at any time serves what the
files say.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ebbtide.deploy.answers import Comparison, compare_answers
from ebbtide.deploy.control import ModelControl, Served
from ebbtide.deploy.errors import CandidateError, DeployError, OtherRepositoryError
from ebbtide.deploy.states import StatesFound, find_states, require_states
from ebbtide.export import versions
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.manifest import read_manifest
from ebbtide.interest import contract, served_models
from ebbtide.store import StateStore
from ebbtide.v1 import RecommendRequest
from ebbtide.verify import VerifyError, compare_server, first_failure, random_requests

_CANDIDATE_SUFFIX = "_candidate"

_RANDOM_REQUESTS = 50


@dataclass(frozen=True)
class Deployment:
    """What a deployment or a roll-back did."""

    version: int
    """That answers now."""
    previous: int
    """That answered before."""
    fingerprint: str
    comparison: Comparison | None
    """Of the answers before and after; None for a roll-back."""
    previous_states: str
    """Fingerprint of the states of the version that answered before."""
    states: StatesFound | None = None
    """Of the new version; None where no store was looked at."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each stage took."""


def deploy(
    repository: Path,
    addresses: Sequence[str],
    version: int | None = None,
    *,
    requests: Sequence[RecommendRequest] | None = None,
    min_overlap: float = 0.0,
    keep_previous: bool = True,
    store: StateStore | None = None,
    without_states: bool = False,
    report: Callable[[str], None] = lambda _stage: None,
) -> Deployment:
    """Brings a version into service.

    Args:
        repository: The folder that the servers read, here or on a disk that all see.
        addresses: Host and gRPC port of every server that reads it.
        version: None takes the newest in the folder.
        requests: Sent to the new version, to the same files in this process, and to the version in service before the
            switch. None takes random ones over the new version's catalog.
        min_overlap: Share of the first ten items, mean over the requests, that both versions must name.
        keep_previous: Whether the version before stays loaded, so that a roll-back takes no time. False unloads it,
            also where the version is in service already.
        store: Of the users' states, as the servers use it: most users whom the version in service knows must have a
            state of the new version. None does not look.
        without_states: Deploys a version that does not know the users all the same.
        report: Called with the name of each stage as it begins.

    Raises:
        DeployError: The old version goes on answering; the message says what to do.
        ExportError: The folder is no sound export, or has no such version.
        StoreError: The store failed; nothing was changed.
    """
    stages = _Stages(report)
    with _alone(repository), _controls(addresses) as servers:
        current = _require_same(servers, repository)
        target = max(versions.available_versions(repository)) if version is None else version
        versions.require_versions(repository, [target])
        before = versions.loaded_versions(repository)
        if {target} == set(versions.ensemble_versions(repository).values()):
            others = set(before) - {target}
            if keep_previous or not others:
                raise DeployError(
                    f"version {target}: got the one that answers already; expected another of "
                    f"{list(versions.available_versions(repository))}: write one with `ebbtide export --version`"
                )
            with stages("unload"):
                _load(servers, repository, {target})
            return Deployment(
                target,
                max(others),
                current.fingerprint,
                None,
                versions.version_states(repository, max(others)),
                seconds=stages.seconds,
            )
        states = None
        if store is not None:
            states = find_states(
                store,
                versions.version_states(repository, current.version),
                versions.version_states(repository, target),
            )
            if not without_states:
                require_states(states, target, store)
        asked = random_requests(repository, target, _RANDOM_REQUESTS) if requests is None else requests
        comparisons: list[Comparison] = []
        with _undone(lambda: _load(servers, repository, before)):
            with stages("load"):
                _load(servers, repository, {current.version, target})
            with stages("check"):
                for server in servers:
                    with _candidates(server, repository, target) as candidates:
                        require_parity(InProcessPipeline(repository, target), server, asked, candidates)
                        comparisons.append(compare_answers(server, asked, candidates, _now_ms()))
                        _require_alike(comparisons[-1], min_overlap)
            with stages("switch"), _undone(lambda: _switch(servers, repository, current.version)):
                _switch(servers, repository, target)
        if not keep_previous:
            with stages("unload"):
                _load(servers, repository, {target})
        return Deployment(
            target,
            current.version,
            servers[0].served().fingerprint,
            comparisons[0],
            versions.version_states(repository, current.version),
            states,
            stages.seconds,
        )


def roll_back(
    repository: Path, addresses: Sequence[str], *, report: Callable[[str], None] = lambda _stage: None
) -> Deployment:
    """Brings the version back that answered before; it is still loaded, so this takes no time.

    Raises:
        DeployError: No other version is loaded.
        ExportError: The folder is no sound export.
    """
    stages = _Stages(report)
    with _alone(repository), _controls(addresses) as servers:
        current = _require_same(servers, repository)
        others = [other for other in versions.loaded_versions(repository) if other != current.version]
        if len(others) != 1:
            raise DeployError(
                f"roll-back: got {others or 'no version'} loaded beside {current.version}; expected one: name it with "
                "`ebbtide deploy --version`"
            )
        with stages("switch"), _undone(lambda: _switch(servers, repository, current.version)):
            _switch(servers, repository, others[0])
        return Deployment(
            others[0],
            current.version,
            servers[0].served().fingerprint,
            None,
            versions.version_states(repository, current.version),
            seconds=stages.seconds,
        )


def _load(servers: Sequence[ModelControl], repository: Path, chosen: Iterable[int]) -> None:
    versions.load_only(repository, chosen)
    for server in servers:
        for model in versions.computing_models(repository):
            server.load(model.name)


def _switch(servers: Sequence[ModelControl], repository: Path, version: int) -> None:
    versions.serve(repository, version)
    for server in servers:
        for model in versions.ensembles(repository):
            server.load(model.name)


@contextlib.contextmanager
def _controls(addresses: Sequence[str]) -> Iterator[list[ModelControl]]:
    if not addresses:
        raise DeployError("addresses: got none; expected the gRPC address of every server that reads the folder")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ModelControl(address)) for address in addresses]


@contextlib.contextmanager
def _candidates(control: ModelControl, repository: Path, version: int) -> Iterator[dict[str, str]]:
    """Ensembles of the new version under names that no client asks for, while the context lasts."""
    fingerprint = versions.version_fingerprint(repository, version)
    names = {model.name: f"{model.name}{_CANDIDATE_SUFFIX}" for model in versions.ensembles(repository)}
    loaded: list[str] = []
    try:
        for name, candidate in names.items():
            config = versions.read_model_config(repository, name)
            config.name = candidate
            versions.pin(config, version, fingerprint)
            control.load_ensemble(config)
            loaded.append(candidate)
        yield names
    finally:
        for candidate in loaded:
            control.unload(candidate)


def _require_same(servers: Sequence[ModelControl], repository: Path) -> Served:
    """What the servers answer with, which must be what the folder says.

    Raises:
        OtherRepositoryError: It is not.
        ModelControlError: A server does not let models be loaded.
    """
    # Of this one ensemble: where a deployment was cut off, the next one brings the others along.
    version = versions.ensemble_versions(repository)[served_models.RECOMMEND.name]
    expected = Served(version, versions.version_fingerprint(repository, version))
    for server in servers:
        served = server.served()
        if served != expected:
            raise OtherRepositoryError(
                f"{server.address}: got a server that answers with version {served.version} ({served.fingerprint}); "
                f"expected version {expected.version} ({expected.fingerprint}) as in {repository}: give the folder "
                "that this server reads, and all servers that read it, or restart it"
            )
        # It is loaded as it is: nothing changes, and where models can't be loaded it fails before anything is written.
        server.load(served_models.RECOMMEND.name)
    return expected


def require_parity(
    pipeline: InProcessPipeline, server: ModelControl, requests: Sequence[RecommendRequest], candidates: dict[str, str]
) -> None:
    """Passes a server that answers as the files do, read in this process.

    Args:
        pipeline: The files.
        server: Serves them.
        requests: To compare the answers to.
        candidates: Names under which ensembles are loaded there, where they differ.

    Raises:
        CandidateError: Naming the first stage that differs, or why nothing could be compared.
    """
    try:
        failure = first_failure(compare_server(pipeline, server.address, requests, models=candidates))
    except VerifyError as error:
        raise CandidateError(f"check: {error}") from error
    if failure is not None:
        raise CandidateError(
            f"check: {server.address}: got a largest difference of {failure.difference:.3g} at {failure.stage}, "
            f"{failure.field} between the server and the same files in this process (request {failure.request}); "
            f"expected at most {failure.tolerance:.3g}. {failure.detail}"
        )


def _require_alike(comparison: Comparison, min_overlap: float) -> None:
    if comparison.newly_refused:
        raise CandidateError(
            f"check: got {len(comparison.newly_refused)} of {comparison.requests} requests refused that the version in "
            f"service answers; expected none. The first: {comparison.newly_refused[0]}"
        )
    if comparison.mean_overlap_at_10 < min_overlap:
        raise CandidateError(
            f"check: got a mean overlap of {comparison.mean_overlap_at_10:.2f} between the first ten items of both "
            f"versions; expected at least {min_overlap:.2f}: look at the new version, or lower --min-overlap"
        )


@contextlib.contextmanager
def _undone(undo: Callable[[], None]) -> Iterator[None]:
    """Undoes what was begun when it fails; what the undoing says comes second."""
    try:
        yield
    except BaseException as error:
        try:
            undo()
        except Exception as second:
            raise DeployError(f"{error}; and putting it back failed too: {second}") from error
        raise


@contextlib.contextmanager
def _alone(repository: Path) -> Iterator[None]:
    """Keeps a second deployment of the same folder out.

    Raises:
        DeployError: One is under way.
        RepositoryError: It is no export.
    """
    read_manifest(repository)
    # Locks over NFS want a file that may be written.
    handle = os.open(repository / contract.MANIFEST_FILE, os.O_RDWR)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DeployError(f"{repository}: got a deployment under way; expected none: wait for its end") from None
        yield
    finally:
        os.close(handle)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class _Stages:
    """Reports each stage as it begins, and notes how long it took."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._report(name)
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began
