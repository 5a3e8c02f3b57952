"""Checks that two servers give the same recommendations, before their speed is compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferenceServerClient

from benchmarks.serving.inputs import infer_inputs
from benchmarks.serving.users import Requests
from ebbtide.interest import contract, served_models

REQUESTS, BEST, TOLERANCE = 50, 10, 1e-4


class DisagreementError(RuntimeError):
    """A system gives other recommendations, so its speed cannot be compared."""


@dataclass(frozen=True)
class Recommended:
    """The best items of several requests."""

    item_id: npt.NDArray[np.object_]
    """``[requests, BEST]``."""
    score: npt.NDArray[np.float32]
    """``[requests, BEST]``."""


def ask(url: str, requests: Requests) -> Recommended:
    """The recommendations of a server for the first `REQUESTS` requests."""
    with InferenceServerClient(url) as client:
        answers = [
            client.infer(served_models.RECOMMEND.name, infer_inputs(tensors), client_timeout=30)
            for tensors, _ in zip(requests, range(REQUESTS), strict=False)
        ]
    ids, scores = (
        np.concatenate([answer.as_numpy(tensor.name)[:, :BEST] for answer in answers])
        for tensor in (contract.ITEM_ID, contract.SCORE)
    )
    return Recommended(ids, scores)


def require_agreement(name: str, found: Recommended, expected: Recommended) -> float:
    """Compares the recommendations of two systems and returns the largest difference between scores.

    Raises:
        DisagreementError: Ids differ, or scores differ by more than `TOLERANCE`.
    """
    difference = float(np.abs(found.score - expected.score).max())
    # Items with almost equal scores may be in either order.
    other = (found.item_id != expected.item_id) & (np.abs(found.score - expected.score) > TOLERANCE / 100)
    if difference > TOLERANCE or other.any():
        row = int(np.argmax(other.any(axis=1)))
        raise DisagreementError(
            f"{name}, request {row}: got {found.item_id[row].tolist()}, scores that differ by up to {difference:.2e}; "
            f"expected {expected.item_id[row].tolist()}, scores within {TOLERANCE:.0e}"
        )
    return difference
