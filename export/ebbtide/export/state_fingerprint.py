"""The id of the users' states: equal for exports that read and write the same states in the same way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ebbtide.interest.record import FORMAT
from ebbtide.train.bundle import InterestBundle


def state_fingerprint(bundle: InterestBundle) -> str:
    """The id of the states of a bundle's exports.

    It follows from the format of a record, the items in catalog order, the session gap, the decay rates, those of the
    repeat score, the event types with their weights, and the features and projections that event vectors are made from.
    The parameters themselves count, not the products of them, whose last digits depend on the machine. So a bundle with
    a new popularity prior (`ebbtide refresh`), another gate or other export options keeps its states.

    Args:
        bundle: That is exported.
    """
    digest = hashlib.sha256(f"{FORMAT}\n{bundle.model.config.session_gap_ms}\n".encode())
    digest.update("\0".join(bundle.catalog.item_id).encode())
    if bundle.model.config.event_types:
        digest.update("\0".join(("", *bundle.model.config.event_types)).encode())
    for name, values in _parameters(bundle):
        digest.update(f"\n{name}{values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[: len(bundle.fingerprint)]


def _parameters(bundle: InterestBundle) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    named = dict(bundle.model.named_parameters())
    for name in ("log_decay_rate", "log_rank_decay_rate", "repeat.log_decay_rate", "event_type_raw"):
        if name in named:
            yield name, _array(named[name])
    if bundle.model.repeat is not None:
        # Without decay it has one rate, 0, and no parameter for it.
        yield "repeat", np.zeros(len(bundle.model.repeat.decay_rate_per_day), dtype=np.float32)
    for name, block in bundle.model.blocks.items():
        yield f"{name}.event_projection", _array(block.event_projection)
        if block.features is not None:
            yield f"{name}.features", _array(block.features)


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.detach().numpy()
    return array
