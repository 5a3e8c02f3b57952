"""The interest bundle's parameters and catalog as the files that `adaptive_weights` reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from torch import Tensor, nn

from ebbtide.export.errors import KeyCollisionError
from ebbtide.interest import exported, parameters
from ebbtide.interest.contract import Limits
from ebbtide.interest.keys import item_keys
from ebbtide.interest.lookup import KeyIndex
from ebbtide.interest.parameters import GateParameters, InterestConfig, InterestParameters
from ebbtide.train.bundle import InterestBundle

Floats = npt.NDArray[np.float32]
_READABLE = 0o644


def interest_parameters(bundle: InterestBundle, fingerprint: str, limits: Limits) -> InterestParameters:
    """What training learned, in the form that is served, with the id of the export."""
    model = bundle.model
    settings = model.config
    gate = None
    if settings.fixed_alpha is None:
        gate = GateParameters(*_linear(model.gate_hidden), *_linear(model.gate_output))
    config = InterestConfig(
        fingerprint=fingerprint,
        session_gap_ms=settings.session_gap_ms,
        fixed_alpha=settings.fixed_alpha,
        exclude_seen=settings.exclude_seen,
        limits=limits,
    )
    return InterestParameters(
        config,
        decay_rate_per_day=_array(model.decay_rate_per_day),
        rank_decay_rate=_array(model.rank_decay_rate),
        gate=gate,
        prior_weight=_array(model.prior_weight),
    )


def key_index(item_id: list[str]) -> KeyIndex:
    """The index from item keys to catalog indices.

    Raises:
        KeyCollisionError: Two ids share a key; both are named.
    """
    keys = item_keys(item_id)
    try:
        return KeyIndex.build(keys)
    except ValueError as error:
        _, first, count = np.unique(keys, return_index=True, return_counts=True)
        place = first[np.argmax(count > 1)]
        ids = [item_id[other] for other in np.flatnonzero(keys == keys[place])]
        raise KeyCollisionError(
            f"item ids {ids[0]!r} and {ids[1]!r}: got one key {keys[place]} for both; expected one for each: rename one"
        ) from error


def write_settings(values: InterestParameters, folder: Path) -> None:
    """Writes ``interest.json``, which the tokenizer reads too."""
    (folder / parameters.CONFIG_FILE).write_text(values.config.to_json() + "\n", encoding="utf-8")


def write_tables(values: InterestParameters, index: KeyIndex, event_vectors: Floats, folder: Path) -> None:
    """Writes ``interest.json``, ``interest.safetensors`` and ``catalog.safetensors``.

    Args:
        values: Learned parameters.
        index: The catalog's keys.
        event_vectors: ``[N, d]``, in catalog order.
        folder: The version folder of an `adaptive_weights` model.
    """
    metadata = {"fingerprint": values.config.fingerprint}
    catalog = {
        exported.SORTED_KEY: index.sorted_key,
        exported.CATALOG_INDEX: index.catalog_index,
        exported.EVENT_VECTORS: event_vectors,
    }
    write_settings(values, folder)
    for name, arrays in ((parameters.TENSORS_FILE, values.tensors()), (exported.CATALOG_FILE, catalog)):
        # safetensors writes an array's memory as it lies.
        contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        path = folder / name
        save_file(contiguous, str(path), metadata=metadata)
        # The library writes for the owner alone; servers run as another user.
        path.chmod(_READABLE)


def _linear(layer: nn.Linear) -> tuple[Floats, Floats]:
    """Weight ``[in, out]``, which torch keeps the other way round, and bias ``[out]``."""
    return np.ascontiguousarray(_array(layer.weight).T), _array(layer.bias)


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().numpy()
    return array
