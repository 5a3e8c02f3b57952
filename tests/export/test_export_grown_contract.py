"""A new model or ensemble needs only a contract entry and its own code; earlier exports stay usable."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ebbtide.export import inprocess, sources, versions
from ebbtide.export.errors import VersionError
from ebbtide.export.inprocess import InProcessPipeline, Tensors
from ebbtide.export.manifest import read_models
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Dtype, Size, Tensor
from ebbtide.interest.served_models import Kind, Model
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.verify import StageDifference, compare_server, first_failure, random_requests

from .conftest import Export

PASSED_SCORE = Tensor("passed_score", Dtype.FP32, (Size.TOP_N,), "the scores as they came", rows=1)
PASS_THROUGH = Model("pass_through", Kind.PYTHON, True, (contract.SCORE,), (PASSED_SCORE,))
STEPS = (*served_models.RECOMMEND.steps, PASS_THROUGH.name)
ENSEMBLE = Model(
    "recommend_passed",
    Kind.ENSEMBLE,
    True,
    served_models.RECOMMEND.inputs,
    (contract.ITEM_ID, contract.SCORE, contract.ITEM_INDEX, PASSED_SCORE),
    steps=STEPS,
)
MODELS_WITH_STATES = (
    served_models.OBSERVER,
    served_models.INTEREST_READER,
    served_models.FORGETTER,
    served_models.OBSERVE,
    served_models.INTEREST_STATE,
    served_models.FORGET,
    served_models.ITEM_KEEPER,
    served_models.ADD_ITEMS,
    served_models.ITEMS,
    served_models.STOCK,
    served_models.RULES,
)
MODELS_OF_SLATES = (
    served_models.SLATE_COMPOSER,
    served_models.RECOMMEND_SLATE,
    served_models.RECOMMEND_SLATE_TEXT,
)
NEW_TENSORS = (
    contract.USER,
    contract.ALLOW_STATELESS,
    contract.AS_EXPORTED,
    contract.STATE_STATUS,
    contract.CANDIDATE_IN_STOCK,
    contract.NEW_ITEM_ID,
    contract.NEW_ITEM_SCORE,
    contract.APPLIED_RULES,
    contract.SEEN_ITEM,
    contract.SEEN_WEIGHT,
    contract.TEXT_FEATURES,
    contract.REPEAT_SHARE,
    contract.BLOCK_NAME,
    contract.BLOCK_SHARE,
    contract.FOLDED_SHARE,
    contract.STATE_EVENT_SHARE,
    contract.STATE_EVENT_ITEM,
    contract.STATE_EVENT_TIME,
    contract.STATE_EVENT_CURRENT,
    contract.STATE_EVENT_DECAY,
)
SERVED_CODE = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        scores = [pb_utils.get_input_tensor_by_name(request, "score").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("passed_score", score)]) for score in scores]
"""


def before_states(model: Model) -> Model:
    """A model as it was before users had states."""

    def older(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in tensors if tensor not in NEW_TENSORS)

    return replace(model, inputs=older(model.inputs), outputs=older(model.outputs))


@pytest.fixture
def grow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Adds a model that does nothing, and an ensemble with it.

    That is all a model needs: its entries in the contract, its code for Triton, its code in this process.
    """

    def pass_on(tensors: Tensors) -> Tensors:
        return {PASSED_SCORE.name: tensors[contract.SCORE.name]}

    def grow() -> None:
        folder = tmp_path / "model_repository"
        shutil.copytree(sources.model_sources(), folder)
        (folder / PASS_THROUGH.name).mkdir()
        (folder / PASS_THROUGH.name / "model.py").write_text(SERVED_CODE, encoding="utf-8")
        monkeypatch.setattr(sources, "model_sources", lambda: folder)
        monkeypatch.setitem(served_models.MODELS, PASS_THROUGH.name, PASS_THROUGH)
        monkeypatch.setitem(served_models.MODELS, ENSEMBLE.name, ENSEMBLE)
        monkeypatch.setitem(inprocess.PYTHON_MODELS, PASS_THROUGH.name, lambda _pipeline, _model: pass_on)

    return grow


def verify(repository: Path) -> list[StageDifference]:
    """A server of the repository against the same files in this process."""
    with TritonServer(ServerConfig(repository)) as server:
        requests = random_requests(repository, 1, 25, seed=3)
        return compare_server(InProcessPipeline(repository), server.grpc_url, requests)


def test_new_model_is_exported_warmed_up_served_and_verified_when_the_contract_has_it(
    export: Export, tiny_bundle: InterestBundle, tmp_path: Path, grow: Callable[[], None]
) -> None:
    grow()
    out = export(tiny_bundle, tmp_path / "out").folder
    assert [entry.name for entry in versions.read_model_config(out, PASS_THROUGH.name).model_warmup] == [
        "no_events",
        "typical",
        "longest",
    ]
    found = verify(out)
    assert first_failure(found) is None
    assert {one.stage for one in found} == set(served_models.MODELS) - {model.name for model in MODELS_WITH_STATES}
    compared = {(one.stage, one.field): one.compared for one in found}
    assert compared[ENSEMBLE.name, PASSED_SCORE.name] == compared[PASS_THROUGH.name, PASSED_SCORE.name] > 5
    assert (
        compared[ENSEMBLE.name, contract.ITEM_INDEX.name] == compared[served_models.RECOMMEND.name, contract.SCORE.name]
    )


def test_older_export_is_served_and_verified_and_takes_versions_when_the_contract_has_grown(
    export: Export,
    tiny_bundle: InterestBundle,
    tmp_path: Path,
    grow: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.MonkeyPatch.context() as earlier:
        # As if the states of users, and the parts of repeat scores, were new since.
        for model in (*MODELS_WITH_STATES, *MODELS_OF_SLATES):
            earlier.delitem(served_models.MODELS, model.name)
        for model in list(served_models.MODELS.values()):
            earlier.setitem(served_models.MODELS, model.name, before_states(model))
        out = export(tiny_bundle, tmp_path / "out").folder
        before = dict(served_models.MODELS)
    grow()
    # As if `recommend` itself had a new step since.
    monkeypatch.setitem(
        served_models.MODELS, served_models.RECOMMEND.name, replace(served_models.RECOMMEND, steps=STEPS)
    )
    assert read_models(out) == before
    export(tiny_bundle, out, version=2)
    assert read_models(out) == before
    assert versions.available_versions(out) == (1, 2)
    versions.load_only(out, [1, 2])
    versions.serve(out, 2)
    found = verify(out)
    assert first_failure(found) is None
    assert {one.stage for one in found} == set(before)


def test_version_is_refused_when_the_folder_has_a_model_that_is_not_written_any_more(
    export: Export,
    tiny_bundle: InterestBundle,
    tmp_path: Path,
    grow: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grow()
    out = export(tiny_bundle, tmp_path / "out").folder
    monkeypatch.undo()
    assert {PASS_THROUGH.name, ENSEMBLE.name} <= set(read_models(out))
    assert versions.available_versions(out) == (1,)
    with pytest.raises(VersionError, match=r"got models pass_through, recommend_passed, which .* does not write"):
        export(tiny_bundle, out, version=2)
