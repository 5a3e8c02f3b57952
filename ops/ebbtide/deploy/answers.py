"""Asks the same requests of the version that answers now and of the one to come, and compares the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException

from ebbtide.client.codec import EncodedRequest, encode
from ebbtide.deploy.control import ModelControl
from ebbtide.interest import contract, served_models
from ebbtide.v1 import RecommendRequest

_TIMEOUT_S = 30.0
_COMPARED_INDICES = 10


@dataclass(frozen=True)
class Comparison:
    """How the answers of two versions go together."""

    requests: int
    mean_overlap_at_10: float
    """Share of the first ten items that both versions name, mean over the requests that both answer; 1 for none."""
    newly_refused: tuple[str, ...]
    """The new version's words on requests that the old one answers."""


def compare_answers(
    control: ModelControl, requests: Sequence[RecommendRequest], candidates: dict[str, str], now_ms: int
) -> Comparison:
    """Asks every request of both.

    Args:
        control: The server.
        requests: Recorded or random ones.
        candidates: The name under which each ensemble of the new version is loaded.
        now_ms: The clock of requests that carry none, Unix milliseconds.
    """
    overlaps: list[float] = []
    refused: list[str] = []
    for request in requests:
        encoded = encode(request, now_ms)
        inputs = _inputs(encoded)
        try:
            old = _items(control, encoded.model_name, inputs)
        except InferenceServerException:
            continue
        try:
            new = _items(control, candidates[encoded.model_name], inputs)
        except InferenceServerException as failure:
            refused.append(str(failure.message()))
            continue
        overlaps.append(len(old & new) / max(len(old), 1))
    return Comparison(len(requests), float(np.mean(overlaps)) if overlaps else 1.0, tuple(refused))


def _items(control: ModelControl, name: str, inputs: list[InferInput]) -> set[bytes]:
    answer = control.infer(name, inputs, _TIMEOUT_S)
    score = answer.as_numpy(contract.SCORE.name).ravel()[:_COMPARED_INDICES]
    item = answer.as_numpy(contract.ITEM_ID.name).ravel()[:_COMPARED_INDICES]
    return set(item[~np.isneginf(score)].tolist())


def _inputs(encoded: EncodedRequest) -> list[InferInput]:
    dtypes = {tensor.name: tensor.dtype.value for tensor in served_models.MODELS[encoded.model_name].inputs}
    inputs = []
    for key, array in encoded.tensors.items():
        entry = InferInput(key, array.shape, dtypes[key])
        entry.set_data_from_numpy(array)
        inputs.append(entry)
    return inputs
