"""What a caller writes by hand with tritonclient, and medians of calls that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput

from ebbtide.client.codec import EncodedRequest
from ebbtide.interest import served_models


def tensors_of(encoded: EncodedRequest) -> list[InferInput]:
    """What a hand-written caller makes of its arrays."""
    datatypes = {tensor.name: tensor.dtype.value for tensor in served_models.MODELS[encoded.model_name].inputs}
    inputs = []
    for name, array in encoded.tensors.items():
        inputs.append(InferInput(name, list(array.shape), datatypes[name]))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def outputs_of(result: Any) -> dict[str, npt.NDArray[Any]]:  # noqa: ANN401
    """What a hand-written caller reads."""
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def medians_ms(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each variant, the variants taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for variant in variants.values():
        variant()
    for _ in range(rounds):
        for name, variant in variants.items():
            began = time.perf_counter()
            variant()
            seconds[name].append(time.perf_counter() - began)
    return {name: round(float(np.median(times)) * 1e3, 4) for name, times in seconds.items()}
