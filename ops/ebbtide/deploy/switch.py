"""Brings a version of an exported repository into service on a running Triton, with no request failed, and back.

The models that compute are loaded beside those of the version that answers; candidate ensembles, which no client knows,
show how the new version answers; then the ensembles are loaded anew with their steps pinned to it. Requests under way
end with the version they began with. Files first, then the server: one that restarts at any time serves what the
files say. A journal in the folder makes the whole a transaction (see `ebbtide.deploy.transaction`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebbtide.deploy.answers import Comparison, compare_answers
from ebbtide.deploy.control import ModelControl
from ebbtide.deploy.errors import CandidateError, DeployError
from ebbtide.deploy.states import StatesFound, find_states, require_states
from ebbtide.deploy.transaction import (
    Recovered,
    alone,
    load_candidate,
    load_models,
    load_versions,
    park_candidates,
    recover,
    require_same,
    shadow_of,
    transaction,
)
from ebbtide.export import versions
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.manifest import read_manifest
from ebbtide.export.transition import Goal, Transition
from ebbtide.store import StateStore
from ebbtide.v1 import RecommendRequest
from ebbtide.verify import VerifyError, compare_server, first_failure, random_requests

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
    is_recovery: bool = False
    """Whether an earlier deployment or roll-back, which was cut off, was finished or undone, and nothing else done."""
    shadow: int | None = None
    """Version that has passed its checks and stays loaded as candidate, not in service."""
    has_ended_shadow: bool = False
    """Whether `previous` was such a version and was put away, and nothing else done; `is_recovery` too."""


def deploy(
    repository: Path,
    addresses: Sequence[str],
    version: int | None = None,
    *,
    requests: Sequence[RecommendRequest] | None = None,
    min_overlap: float = 0.0,
    keep_previous: bool = True,
    shadow: bool = False,
    store: StateStore | None = None,
    without_states: bool = False,
    key: str | None = None,
    report: Callable[[str], None] = lambda _stage: None,
) -> Deployment:
    """Brings a version into service.

    Args:
        repository: The folder that the servers read, here or on a disk that all see.
        addresses: Host and gRPC port of every server that reads it.
        version: None takes the one that is in shadow, or else the newest in the folder.
        requests: Sent to the new version, to the same files in this process, and to the version in service before the
            switch. None takes random ones over the new version's catalog.
        min_overlap: Share of the first ten items, mean over the requests, that both versions must name.
        keep_previous: Whether the version before stays loaded, so that a roll-back takes no time. False unloads it,
            also where the version is in service already.
        shadow: Stops before the switch: the version stays loaded as candidate, for a gateway that mirrors requests to
            it (``--shadow``), until the next deployment or roll-back. A server that starts again forgets it.
        store: Of the users' states, as the servers use it: most users whom the version in service knows must have a
            state of the new version. None does not look.
        without_states: Deploys a version that does not know the users all the same.
        key: Of the servers' administration; None for servers that ask for none.
        report: Called with the name of each stage as it begins.

    Raises:
        DeployError: The old version goes on answering; the message says what to do.
        ExportError: The folder is no sound export, or has no such version.
        StoreError: The store failed; nothing was changed.
    """
    stages = _Stages(report)
    with alone(repository), _controls(addresses, key) as servers:
        begun_before = shadow_of(repository)
        if version is None and begun_before is not None:
            version = begun_before.after.version
        if begun_before is not None and begun_before.after.version != version:
            begun_before = None
        recovered = recover(servers, repository) if begun_before is None else None
        current = require_same(servers, repository)
        target = max(versions.available_versions(repository)) if version is None else version
        versions.require_versions(repository, [target])
        before = (
            Goal(current.version, versions.loaded_versions(repository)) if begun_before is None else begun_before.before
        )
        if {target} == set(versions.ensemble_versions(repository).values()):
            others = set(before.loaded) - {target}
            if recovered is None and (keep_previous or not others):
                raise DeployError(
                    f"version {target}: got the one that answers already; expected another of "
                    f"{list(versions.available_versions(repository))}: write one with `ebbtide export --version`"
                )
            if not keep_previous and others:
                with stages("unload"):
                    load_versions(servers, repository, {target})
            if recovered is not None:
                return _recovery(servers, repository, recovered, stages)
            return Deployment(
                target,
                max(others),
                current.fingerprint,
                None,
                versions.version_states(repository, max(others)),
                seconds=stages.seconds,
            )
        _require_filters(repository, current.version, target)
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
        after = Goal(target, tuple(sorted({target, current.version})) if keep_previous else (target,))
        with transaction(servers, repository, Transition(before, after, is_decided=False)) as begun:
            with stages("load"):
                park_candidates(servers, repository, current.version)
                load_versions(servers, repository, {current.version, target})
            with stages("check"):
                for server in servers:
                    pipeline = InProcessPipeline(repository, target)
                    candidates = _candidates(server, pipeline)
                    require_parity(pipeline, server, asked, candidates)
                    comparisons.append(compare_answers(server, asked, candidates, _now_ms()))
                    _require_alike(comparisons[-1], min_overlap)
            if shadow:
                begun.stay_in_shadow()
            else:
                begun.decide()
                with stages("switch"):
                    versions.serve(repository, target)
                    load_models(servers, repository)
                if not keep_previous:
                    with stages("unload"):
                        load_versions(servers, repository, {target})
        return Deployment(
            current.version if shadow else target,
            current.version,
            servers[0].served().fingerprint,
            comparisons[0],
            versions.version_states(repository, current.version),
            states,
            stages.seconds,
            shadow=target if shadow else None,
        )


def roll_back(
    repository: Path,
    addresses: Sequence[str],
    *,
    key: str | None = None,
    report: Callable[[str], None] = lambda _stage: None,
) -> Deployment:
    """Brings the version back that answered before; it is still loaded, so this takes no time.

    After a deployment that was cut off, the version back that answered before it, whatever it had done. A version in
    shadow is put away, and nothing else done.

    Args:
        repository: The folder that the servers read.
        addresses: Host and gRPC port of every server that reads it.
        key: Of the servers' administration; None for servers that ask for none.
        report: Called with the name of each stage as it begins.

    Raises:
        DeployError: No other version is loaded.
        ExportError: The folder is no sound export.
    """
    stages = _Stages(report)
    with alone(repository), _controls(addresses, key) as servers:
        recovered = recover(servers, repository, rolls_back=True)
        current = require_same(servers, repository)
        if recovered is not None and recovered.is_rolled_back:
            return _recovery(servers, repository, recovered, stages)
        loaded = versions.loaded_versions(repository)
        others = [other for other in loaded if other != current.version]
        if len(others) != 1:
            raise DeployError(
                f"roll-back: got {others or 'no version'} loaded beside {current.version}; expected one: name it with "
                "`ebbtide deploy --version`"
            )
        change = Transition(Goal(current.version, loaded), Goal(others[0], loaded), is_decided=True, is_roll_back=True)
        with transaction(servers, repository, change), stages("switch"):
            versions.serve(repository, others[0])
            load_models(servers, repository)
            # Otherwise gateways would mirror requests to the version that was rolled back.
            park_candidates(servers, repository, others[0])
        return Deployment(
            others[0],
            current.version,
            servers[0].served().fingerprint,
            None,
            versions.version_states(repository, current.version),
            seconds=stages.seconds,
        )


def _recovery(servers: Sequence[ModelControl], repository: Path, recovered: Recovered, stages: _Stages) -> Deployment:
    return Deployment(
        recovered.version,
        recovered.other,
        servers[0].served().fingerprint,
        None,
        versions.version_states(repository, recovered.other),
        seconds=stages.seconds,
        is_recovery=True,
        has_ended_shadow=recovered.was_shadow,
    )


def _require_filters(repository: Path, current: int, target: int) -> None:
    """Passes a version whose requests may filter by all that requests may filter by now."""
    manifest = read_manifest(repository)
    options = {version: _filter_options(manifest[str(version)]) for version in (current, target)}
    missing = [option for option in options[current] if option not in options[target]]
    if missing:
        names = ", ".join(name for _, name in missing)
        raise DeployError(
            f"version {target}: got no filters by {names}, which version {current} answers; expected them, or requests "
            f"with such a filter fail: export it with {' '.join(map(' '.join, options[current]))}, or serve it from a "
            "folder of its own if nobody filters by that any more"
        )


def _filter_options(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The options of an export by which requests may filter, from its entry in the manifest."""
    values = [("--attribute-col", name) for name in entry["attributes"]]
    return [*values, *(("--numeric-col", name) for name in entry.get("numbers", {}))]


@contextlib.contextmanager
def _controls(addresses: Sequence[str], key: str | None) -> Iterator[list[ModelControl]]:
    if not addresses:
        raise DeployError("addresses: got none; expected the gRPC address of every server that reads the folder")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ModelControl(address, key=key)) for address in addresses]


def _candidates(control: ModelControl, pipeline: InProcessPipeline) -> dict[str, str]:
    """Ensembles of the new version under names that no client asks for, by the ensemble's own name.

    All that are compared: those that need no store.
    """
    fingerprint = versions.version_fingerprint(pipeline.repository, pipeline.version)
    return {
        model.name: load_candidate(control, pipeline.repository, model.name, pipeline.version, fingerprint)
        for model in versions.ensembles(pipeline.repository)
        if not pipeline.needs_store(model)
    }


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
