"""One request in the form of the contract's tensors, and what every implementation gives for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ebbtide.client.codec import encode
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.interest import contract, served_models
from ebbtide.interest.checks import Request
from ebbtide.interest.served_models import Model
from ebbtide.v1 import RecommendRequest
from ebbtide.verify.errors import RecordedRequestError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Tensors = Mapping[str, npt.NDArray[Any]]
"""By name, in the shapes that Triton gives them: with a leading row for the user where the model has one."""

CATALOG_SCORE = "catalog_score"
"""Float64 ``[items]``, in catalog order: what an implementation can give instead of a ranking."""


class RefusedError(Exception):
    """An implementation refuses a request; its text is the reason, as Triton gives it."""


@dataclass(frozen=True)
class Case:
    """One request."""

    number: int
    """From 1, in the order given."""
    request: Request
    """Without the texts' vectors."""
    texts: tuple[bytes, ...]
    """Of the events with a text."""


class Implementation(Protocol):
    """What is compared with the in-process pipeline, model by model."""

    name: str

    def run(self, case: Case, model: Model, tensors: Tensors) -> Tensors | None:
        """The outputs of a model, as many as the implementation has; None where it has no such model.

        Args:
            case: The request that the model runs for.
            model: In the repository.
            tensors: The model's inputs. For an ensemble with texts they may hold `text_vector` as well: the vectors
                that an implementation takes which does not run the served encoder.

        Raises:
            RefusedError: The model refuses them.
        """


def read_cases(requests: Iterable[RecommendRequest], now_ms: int) -> Iterator[Case]:
    """The requests in the form of the contract's tensors.

    Args:
        requests: Recorded or random.
        now_ms: The clock of those that carry none, Unix milliseconds; one for all implementations.

    Raises:
        RecordedRequestError: A request that no client can send.
    """
    for number, request in enumerate(requests, start=1):
        try:
            encoded = encode(request, now_ms)
        except InvalidArgumentError as error:
            raise RecordedRequestError(f"request {number}: {error}") from error
        batching = served_models.MODELS[encoded.model_name].batching
        tensors = {name: array[0] if batching else array for name, array in encoded.tensors.items()}
        texts = tensors.pop(contract.TEXT.name, ())
        yield Case(number, Request(**tensors), tuple(texts))


def by_item(items: npt.NDArray[Any], scores: npt.NDArray[Any]) -> dict[int, float]:
    """Adjustments by catalog index, zeros left out; of several for one item minus infinity counts."""
    found: dict[int, float] = {}
    for item, score in zip(items.ravel().tolist(), scores.ravel().tolist(), strict=True):
        if score != 0:
            found[item] = min(score, found.get(item, score))
    return found
