"""Answers from users' states: torch on all events, the exported files and a running Triton with the events observed.

The events of each request are split in time. The earlier ones are observed for a user who exists for this comparison
only; the later ones stay in the request, which then names the user. At the end the users are forgotten.

Where the export learns online, the last of the observed events comes with items that were shown. What the answers say
then is compared with the formulas at the alpha that the learned offset gives.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ebbtide.export.inprocess import InProcessPipeline, tensors_of
from ebbtide.interest import contract, served_models
from ebbtide.interest.checks import Request
from ebbtide.interest.contract import StateStatus
from ebbtide.interest.errors import RequestError
from ebbtide.interest.keys import item_keys
from ebbtide.interest.lookup import UNKNOWN
from ebbtide.interest.online import shifted_alpha
from ebbtide.interest.served_models import Model
from ebbtide.store import StoreConfig, open_store
from ebbtide.v1 import RecommendRequest
from ebbtide.verify.cases import Case, Floats, Implementation, Ints, RefusedError, Tensors, read_cases
from ebbtide.verify.differences import Difference, Differences, Ranked, StageDifference, compare_outputs
from ebbtide.verify.errors import NoneByUserError, NoStatesError, VerifyError
from ebbtide.verify.filters import Filters
from ebbtide.verify.parity import Progress
from ebbtide.verify.recorded import catalog_ids
from ebbtide.verify.server import Server
from ebbtide.verify.tolerances import Tolerances

if TYPE_CHECKING:
    from ebbtide.train.bundle import InterestBundle

_LOCAL = "in process"
_BY_USER = "by user"
_ANSWERING = (served_models.RECOMMEND, served_models.RANK, served_models.EXPLAIN)
_CANDIDATES = 8
_SHOWN = 7
"""Items that were shown and not taken."""
_ROWS = 64
"""Users in one request to forget them."""
_STORE = StoreConfig(timeout_ms=60_000)


def compare_states(
    pipeline: InProcessPipeline,
    requests: Iterable[RecommendRequest],
    *,
    bundle: InterestBundle | None = None,
    server: str | None = None,
    models: Mapping[str, str] | None = None,
    tolerances: Tolerances | None = None,
    progress: Progress = lambda _done: None,
) -> list[StageDifference]:
    """Answers by user against torch on all events, and a running Triton's against the in-process pipeline's.

    Without a bundle, the in-process pipeline on all events takes the place of torch.

    Args:
        pipeline: One version of the repository; its own store, if any, is not used.
        requests: Recorded or random. Those with texts are left out, and so are events of unknown items, repeated
            events, flags of the session and the decay scale: states keep no texts, and treat the others in their way.
        bundle: That the export was made from.
        server: Host and gRPC port of a server that keeps states.
        models: See `compare_server`.
        tolerances: None takes those that the repository's manifest states of this version.
        progress: See `Progress`.

    Returns:
        The largest difference of every field, in the contract's order; empty for an export from before users had
        states.

    Raises:
        NoStatesError: The server keeps no states.
        ServerMismatchError: The server or its store cannot be reached, or it does not serve this export.
        NoneByUserError: No request could be compared.
    """
    if served_models.OBSERVE.name not in pipeline.models:
        return []
    with ExitStack() as stack:
        triton = None
        if server is not None:
            triton = stack.enter_context(Server(server, pipeline.version, models))
            triton.require_export(pipeline.fingerprint)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ebbtide-verify-"))
        store = stack.enter_context(open_store(f"embedded:{Path(folder) / 'states'}", _STORE))
        by_user = InProcessPipeline(pipeline.repository, pipeline.version, store)
        comparison = _Comparison(by_user, _expected(by_user, bundle), triton, tolerances)
        stack.callback(comparison.forget)
        return comparison.all(requests, progress)


def _expected(pipeline: InProcessPipeline, bundle: InterestBundle | None) -> Implementation:
    if bundle is None:
        return _AllEvents(pipeline)
    # Here, so that a server is compared where no torch is installed.
    from ebbtide.verify.torch_model import TorchModel

    return TorchModel(bundle, Filters.read(pipeline.repository, pipeline.version))


class _AllEvents:
    """The in-process pipeline, asked without states."""

    name = f"{_LOCAL} on all events"

    def __init__(self, pipeline: InProcessPipeline) -> None:
        self._pipeline = pipeline

    def run(self, _case: Case, model: Model, tensors: Tensors) -> Tensors | None:
        return _sound(self._pipeline.run(model.name, tensors))


@dataclass(frozen=True)
class _Split:
    """A request of which some events are observed before."""

    case: Case
    """With all events, oldest first."""
    observed: int
    """How many of them, the oldest, are observed."""
    user: Ints
    """``[2]``: the key of the user."""

    def of_observe(self, part: slice, shown: Ints | None = None) -> Tensors:
        """The tensors of a request to `observe` some of the events, after which a user took one of the shown items."""
        request = self.case.request
        optional = {
            contract.EVENT_WEIGHT.name: request.event_weight,
            contract.EVENT_TYPE.name: request.event_type,
        }
        return {
            contract.USER.name: self.user[None],
            contract.EVENT_ITEM.name: request.event_item[part][None],
            contract.EVENT_TIME.name: request.event_time[part][None],
            **{name: values[part][None] for name, values in optional.items() if values is not None},
            **({} if shown is None else {contract.SHOWN_ITEM.name: shown[None]}),
        }

    def by_user(self) -> Request:
        """The request with the other events, and the user."""
        request, part = self.case.request, slice(self.observed, None)
        return replace(
            request,
            event_item=request.event_item[part],
            event_time=request.event_time[part],
            event_weight=None if request.event_weight is None else request.event_weight[part],
            event_type=None if request.event_type is None else request.event_type[part],
            user=self.user,
        )


class _Comparison:
    """The state of one `compare_states`."""

    def __init__(
        self,
        pipeline: InProcessPipeline,
        expected: Implementation,
        triton: Server | None,
        tolerances: Tolerances | None,
    ) -> None:
        self._pipeline = pipeline
        self._expected = expected
        self._triton = triton
        item_ids = catalog_ids(pipeline.repository, pipeline.version)
        self._keys = item_keys(item_ids)
        gate, config = pipeline.weights.parameters.gate, pipeline.weights.parameters.config
        # A request can set one alpha, and not one for each dimension.
        self._learns = bool(config.online_learning_rate) and gate is not None and gate.output_bias.size == 1
        self._catalog = dict(zip(item_ids, range(len(item_ids)), strict=True))
        by_field = (tolerances or Tolerances.read(pipeline.repository, pipeline.version)).by_field(
            pipeline.models.values()
        )
        self._with_expected = Differences(f"{expected.name}, {_LOCAL} {_BY_USER}", by_field)
        self._with_triton = Differences(f"{_LOCAL}, Triton, {_BY_USER}", by_field)
        self._users: list[Ints] = []

    def all(self, requests: Iterable[RecommendRequest], progress: Progress) -> list[StageDifference]:
        compared = 0
        for case in read_cases(requests, time.time_ns() // 1_000_000):
            split = None if case.texts else self._split(case)
            if split is not None:
                self._compare(split)
                compared += 1
            progress(1)
        if not compared:
            raise NoneByUserError("requests: got none without texts that the export serves; expected at least one")
        return [*self._with_expected.all(), *self._with_triton.all()]

    def forget(self) -> None:
        """Erases the users of the comparison from the server's store."""
        while self._triton is not None and self._users:
            rows, self._users = np.stack(self._users[:_ROWS]), self._users[_ROWS:]
            self._triton.infer(served_models.FORGET, {contract.USER.name: rows})

    def _split(self, case: Case) -> _Split | None:
        """The request as states can know it; None for one that the export refuses."""
        request = case.request
        item = self._pipeline.weights.index.find(request.event_item)
        # Of the same item at the same time a state has one event.
        _, first = np.unique(np.stack([request.event_time, request.event_item]), axis=1, return_index=True)
        kept = np.sort(first[item[first] != UNKNOWN])
        kept = kept[np.argsort(request.event_time[kept], kind="stable")]
        plain = replace(
            request,
            event_item=request.event_item[kept],
            event_time=request.event_time[kept],
            event_weight=None if request.event_weight is None else request.event_weight[kept],
            event_type=None if request.event_type is None else request.event_type[kept],
            event_is_current=None,
            event_count=None,
            decay_scale=None,
        )
        whole = replace(case, request=plain)
        if isinstance(
            self._pipeline.run(served_models.RECOMMEND.name, tensors_of(plain, served_models.RECOMMEND)), RequestError
        ):
            return None
        # Every third request has no events of its own, and every other third many.
        observed = (kept.size, kept.size - min(3, kept.size), kept.size // 2)[case.number % 3]
        user: Ints = np.frombuffer(os.urandom(16), dtype="<i8").astype(np.int64)
        return _Split(whole, observed, user)

    def _compare(self, split: _Split) -> None:
        self._users.append(split.user)
        last = split.observed - 1
        if self._learns and last > 0:
            self._observe(split, slice(last))
            self._observe(
                split, slice(last, last + 1), self._shown(split.case.number, split.case.request.event_item[last])
            )
        else:
            self._observe(split, slice(split.observed))
        asked = {contract.USER.name: split.user, contract.NOW.name: split.case.request.now}
        state = _sound(self._pipeline.run(served_models.INTEREST_STATE.name, asked))
        self._ask_triton(served_models.INTEREST_STATE, split, asked, state)
        expected_case = self._with_learned_alpha(split.case, state[contract.ALPHA_OFFSET.name].reshape(1))
        candidates: Ints | None = None
        for model in _ANSWERING:
            by_user = self._inputs(model, split.by_user(), candidates)
            answer = _sound(self._pipeline.run(model.name, by_user))
            whole = self._inputs(model, expected_case.request, candidates)
            expected = self._expected.run(expected_case, model, whole)
            if expected is not None:
                self._add(self._with_expected, model, split, answer, _comparable(expected, split))
            self._ask_triton(model, split, by_user, answer)
            if candidates is None:
                ranked = Ranked.read(answer).item_id
                candidates = np.concatenate([item_keys(ranked[:_CANDIDATES]), split.case.request.event_item[-2:]])

    def _observe(self, split: _Split, part: slice, shown: Ints | None = None) -> None:
        inputs = split.of_observe(part, shown)
        local = _sound(self._pipeline.run(served_models.OBSERVE.name, inputs))
        counts = np.array([[part.stop - (part.start or 0), 0, 0, 0]], dtype=np.int32)
        self._add(self._with_expected, served_models.OBSERVE, split, local, {contract.OBSERVED.name: counts})
        self._ask_triton(served_models.OBSERVE, split, inputs, local)

    def _shown(self, number: int, taken: np.int64) -> Ints:
        """Keys of an item that was taken, and of others."""
        others = self._keys.take(number * _SHOWN + np.arange(_SHOWN), mode="wrap")
        shown: Ints = np.unique(np.append(others, taken))
        return shown

    def _with_learned_alpha(self, case: Case, offset: Floats) -> Case:
        """The request with the alpha that the gate gives to it and the offset shifts; as it is without an offset.

        Args:
            case: With all events.
            offset: ``[1]``, added to the logit of alpha.
        """
        if case.request.alpha is not None or not offset[0]:
            return case
        model = served_models.RECOMMEND
        answer = self._expected.run(case, model, self._inputs(model, case.request, None))
        assert answer is not None  # noqa: S101 - every implementation knows `recommend`
        alpha = shifted_alpha(answer[contract.ALPHA_USED.name].reshape(1, 1), offset)
        return replace(case, request=replace(case.request, alpha=alpha.reshape(1)))

    def _inputs(self, model: Model, request: Request, candidates: Ints | None) -> Tensors:
        tensors = dict(tensors_of(request, model))
        if candidates is not None:
            tensors[contract.CANDIDATE_ITEM.name] = candidates[None, : self._pipeline.limits.max_candidates]
        names = {tensor.name for tensor in model.inputs}
        return {name: value for name, value in tensors.items() if name in names}

    def _ask_triton(self, model: Model, split: _Split, inputs: Tensors, local: Tensors) -> None:
        if self._triton is None:
            return
        try:
            got = self._triton.infer(self._pipeline.models[model.name], inputs)
        except RefusedError as error:
            known = RequestError.parse(str(error))
            if known is not None and known.field == contract.USER.name and model is served_models.OBSERVE:
                self._users.clear()
                raise NoStatesError(f"{self._triton.address}: {error}") from error
            detail = f"{self._triton.name} refuses what {_LOCAL} serves: {error}"
            refusal = Difference(np.inf, detail=detail)
            self._with_triton.add(model.name, "refusal", refusal, split.case.number, _BY_USER)
            return
        self._add(self._with_triton, model, split, got, local)

    def _add(self, found: Differences, model: Model, split: _Split, got: Tensors, expected: Tensors) -> None:
        for field, difference in compare_outputs(got, expected, self._catalog):
            found.add(model.name, field, difference, split.case.number, _BY_USER)


def _comparable(expected: Tensors, split: _Split) -> dict[str, npt.NDArray[Any]]:
    """An answer on all events without what an answer by user has in another form."""
    of_events = (contract.EVENT_SHARE, contract.EVENT_CURRENT, contract.EVENT_DECAY)
    of_state = [tensor for tensor in served_models.EXPLAINER.outputs if contract.Axis.STATE_EVENTS in tensor.dims]
    other_form = {tensor.name for tensor in (*of_events, *of_state, contract.FOLDED_SHARE, contract.STATE_STATUS)}
    status = StateStatus.USED if split.observed else StateStatus.UNKNOWN_USER
    return {
        **{name: value for name, value in expected.items() if name not in other_form},
        contract.STATE_STATUS.name: np.array([[status]], dtype=np.int32),
    }


def _sound(answer: Tensors | RequestError) -> Tensors:
    if isinstance(answer, RequestError):
        raise VerifyError(f"{_LOCAL}: {answer}") from answer
    return answer
