"""Writes the interest bundle's parameters and catalog as the files that the served Python models read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from torch import Tensor, nn

from ebbtide.export.attributes import CatalogAttributes
from ebbtide.export.errors import KeyCollisionError, LimitError
from ebbtide.export.state_fingerprint import state_fingerprint
from ebbtide.interest import exported, parameters
from ebbtide.interest.contract import Limits
from ebbtide.interest.event_types import EventType
from ebbtide.interest.item_ids import ItemIds
from ebbtide.interest.keys import item_key, item_keys
from ebbtide.interest.lookup import KeyIndex
from ebbtide.interest.parameters import GateParameters, InterestConfig, InterestParameters
from ebbtide.interest.related import RelatedItems
from ebbtide.train.blocks import RESIDUAL
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.files import default_mode
from ebbtide.train.model import InterestModel

Floats = npt.NDArray[np.float32]


def interest_parameters(
    bundle: InterestBundle,
    fingerprint: str,
    limits: Limits,
    *,
    ignore_unknown: bool = False,
    online_learning_rate: float = 0,
    top_n: int = 0,
) -> InterestParameters:
    """The learned parameters in their served form, with the export's id and policies.

    Raises:
        LimitError: The export is to learn online, and the bundle's alpha is fixed.
    """
    model = bundle.model
    settings = model.config
    if online_learning_rate and settings.fixed_alpha is not None:
        raise LimitError(
            f"online_learning_rate: got {online_learning_rate} and a bundle with alpha fixed at "
            f"{settings.fixed_alpha}; expected a bundle with a learned alpha, which learning online can move"
        )
    gate = None
    if settings.fixed_alpha is None:
        gate = GateParameters(*_linear(model.gate_hidden), *_linear(model.gate_output))
    config = InterestConfig(
        fingerprint=fingerprint,
        session_gap_ms=settings.session_gap_ms,
        fixed_alpha=settings.fixed_alpha,
        exclude_seen=settings.exclude_seen,
        ignore_unknown=ignore_unknown,
        limits=limits,
        state_fingerprint=state_fingerprint(bundle),
        online_learning_rate=online_learning_rate,
        top_n=top_n,
        event_types=event_types(bundle),
    )
    return InterestParameters(
        config,
        decay_rate_per_day=_array(model.decay_rate_per_day),
        rank_decay_rate=_array(model.rank_decay_rate),
        gate=gate,
        prior_weight=_array(model.prior_weight),
        repeat=None
        if model.repeat is None
        else model.repeat.parameters_to_serve(model.repeat_item_bias(), bundle.prior_columns),
        related=None
        if model.related is None
        else RelatedItems(model.related_item.numpy(), _array(model.related_score)),
    )


def event_types(bundle: InterestBundle) -> tuple[EventType, ...]:
    """The event types of a bundle with their learned weights; none for one that was trained on events of one type."""
    names = bundle.config.model.event_types
    weights = bundle.model.event_type_weight.tolist()
    return tuple(
        EventType(name, item_key(name), weight, name in bundle.config.data.target_types)
        for name, weight in zip(names, weights, strict=True)
    )


def key_index(item_id: list[str]) -> KeyIndex:
    """The index from item keys to catalog indices.

    Raises:
        KeyCollisionError: Two ids share a key; the message names both.
    """
    keys = item_keys(item_id)
    try:
        return KeyIndex.build(keys)
    except ValueError as error:
        _, first, count = np.unique(keys, return_index=True, return_counts=True)
        index = first[np.argmax(count > 1)]
        ids = [item_id[other] for other in np.flatnonzero(keys == keys[index])]
        raise KeyCollisionError(
            f"item ids {ids[0]!r} and {ids[1]!r}: got the same key {keys[index]}; expected different keys: rename one"
        ) from error


def write_tables(
    values: InterestParameters,
    index: KeyIndex,
    event_vectors: Floats,
    factors: Floats,
    attributes: CatalogAttributes | None,
    bundle: InterestBundle,
    folders: Mapping[str, Path],
) -> None:
    """Writes the data files of the Python models; models that read the same file share it on the disk.

    Args:
        values: The learned parameters.
        index: Index of the catalog's keys.
        event_vectors: ``[items, d]``, in catalog order.
        factors: ``[items, d + p]``, the item factors of the scoring head.
        attributes: Attributes of the catalog; None without attribute filters.
        bundle: The exported bundle.
        folders: The version folder of each model of the export; other models are not written.
    """
    popularity = bundle.counted_popularity
    contents: dict[str, dict[str, npt.NDArray[Any]]] = {
        parameters.TENSORS_FILE: values.tensors(),
        exported.CATALOG_FILE: {
            exported.SORTED_KEY: index.sorted_key,
            exported.CATALOG_INDEX: index.catalog_index,
            exported.EVENT_VECTORS: event_vectors,
        },
        exported.FACTORS_FILE: {exported.ITEM_FACTORS: factors},
        exported.ATTRIBUTES_FILE: _attribute_tables(attributes),
        exported.ITEM_IDS_FILE: ItemIds.of(bundle.catalog.item_id).to_tensors(),
        exported.PROJECTIONS_FILE: _projections(bundle.model),
        exported.BLOCKS_FILE: _blocks(bundle.model),
        exported.POPULARITY_FILE: {} if popularity is None else popularity.to_tensors(),
    }
    named = {} if attributes is None else attributes.values
    described = {
        exported.ATTRIBUTES_FILE: {
            exported.ATTRIBUTE_COLUMNS: json.dumps(list(named)),
            exported.ATTRIBUTE_VALUES: json.dumps(named),
        }
    }
    written: dict[str, Path] = {}
    for model, folder in folders.items():
        for name in exported.MODEL_FILES.get(model, ()):
            path = folder / name
            if name in written:
                share_file(written[name], path)
            elif name == parameters.CONFIG_FILE:
                path.write_text(values.config.to_json() + "\n", encoding="utf-8")
            else:
                _save(contents[name], path, {"fingerprint": values.config.fingerprint, **described.get(name, {})})
            written[name] = path


def share_file(source: Path, target: Path) -> None:
    """Hard-links a file, so that the disk and the page cache hold it once; copies it if links are not supported."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _attribute_tables(attributes: CatalogAttributes | None) -> dict[str, npt.NDArray[Any]]:
    if attributes is None:
        return {exported.COLUMN_WORD: np.array([0, 1], dtype=np.int64)}
    first = [first for first, _ in attributes.items.columns]
    numbers = {exported.NUMBER_COLUMN: attributes.number_column, exported.NUMBER_KEY: attributes.number_key}
    return {
        **(numbers if attributes.numbers else {}),
        exported.COLUMN_WORD: np.array([*first, attributes.items.words.shape[1]], dtype=np.int64),
        exported.ITEM_WORDS: attributes.items.words,
        exported.ATTRIBUTE_KEY: attributes.key,
        exported.ATTRIBUTE_COLUMN: attributes.column,
        exported.ATTRIBUTE_BIT: attributes.bit,
    }


def _blocks(model: InterestModel) -> dict[str, npt.NDArray[Any]]:
    """What each feature block but the residual adds to the item factors; nothing for a model with these two alone."""
    if not model.added_blocks:
        return {}
    return {name: _array(block.term * model.gamma) for name, block in model.blocks.items() if name != RESIDUAL}


def _projections(model: InterestModel) -> dict[str, npt.NDArray[Any]]:
    """What makes vectors of the text of a new item, which has no residual."""
    text_width = model.text_vectors.shape[1]
    repeat = np.zeros(text_width, dtype=np.float32) if model.repeat is None else _array(model.repeat.text_weight)
    return {
        exported.EVENT_PROJECTION: _array(model.event_projection),
        exported.FACTOR_PROJECTION: _array(model.item_projection) * _array(model.gamma),
        exported.REPEAT_PROJECTION: repeat,
    }


def _save(arrays: dict[str, npt.NDArray[Any]], path: Path, metadata: dict[str, str]) -> None:
    # safetensors writes the memory of an array without regard to its strides.
    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    with default_mode(path):
        save_file(contiguous, str(path), metadata=metadata)


def _linear(layer: nn.Linear) -> tuple[Floats, Floats]:
    """Weight ``[in, out]`` (torch stores the transpose) and bias ``[out]``."""
    return np.ascontiguousarray(_array(layer.weight).T), _array(layer.bias)


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().numpy()
    return array
