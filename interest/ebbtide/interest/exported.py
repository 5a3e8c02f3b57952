"""Reads the files of one export and refuses files of another; the served Python models call this at load."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract, served_models
from ebbtide.interest.attributes import AttributeIndex
from ebbtide.interest.candidates import CandidateScorer
from ebbtide.interest.explanation import Explainer
from ebbtide.interest.feedback import Feedback
from ebbtide.interest.interest_reader import InterestReader
from ebbtide.interest.item_ids import ItemIds
from ebbtide.interest.item_keeper import KeeperTables, TextProjections
from ebbtide.interest.lookup import KeyIndex
from ebbtide.interest.modelfile import FINGERPRINT_FILE, MODEL_FILE, read_fingerprint
from ebbtide.interest.online import OnlineLearning
from ebbtide.interest.parameters import CONFIG_FILE, TENSORS_FILE, InterestConfig, InterestParameters
from ebbtide.interest.pipeline import InterestPipeline
from ebbtide.interest.popularity import CountedPopularity
from ebbtide.interest.rules import RuleTables
from ebbtide.interest.served_models import Kind, Model
from ebbtide.interest.slate_composer import SlateComposer, SlateTables
from ebbtide.interest.slate_values import ItemValues
from ebbtide.interest.tensorfile import read_tensors
from ebbtide.interest.textproto import parse_text

CATALOG_FILE = "catalog.safetensors"
SORTED_KEY = "sorted_key"
"""int64 ``[items]``: the catalog's keys, ascending."""
CATALOG_INDEX = "catalog_index"
"""int64 ``[items]``: the catalog index of each sorted key."""
EVENT_VECTORS = "event_vectors"
"""float32 ``[items, d]``, in catalog order."""

FACTORS_FILE = "factors.safetensors"
ITEM_FACTORS = "item_factors"
"""float32 ``[items, d + p]``, in catalog order: gamma (x) a, then the columns of the popularity prior."""

PROJECTIONS_FILE = "text_projections.safetensors"
EVENT_PROJECTION, FACTOR_PROJECTION, REPEAT_PROJECTION = "event", "factor", "repeat"
"""Of `TextProjections`."""

BLOCKS_FILE = "blocks.safetensors"
"""The items' feature blocks: what each adds to the item factors, float32 ``[items, d]`` by name, in catalog order. That
of the learned residuals is left out: it is the rest. No tensors for a bundle without vectors of items."""

POPULARITY_FILE = "popularity.safetensors"
"""The counts of the popularity prior, see `CountedPopularity`; no tensors without them."""

ATTRIBUTES_FILE = "attributes.safetensors"
ITEM_WORDS = "item_words"
"""int64 ``[items, words]``, in catalog order: the bits of each item's attribute values."""
COLUMN_WORD = "column_word"
"""int64 ``[columns + 1]``: the first word of each attribute column; the last entry is the number of words.

Without attributes it is ``[0, 1]``: one unnamed column of one word.
"""
ATTRIBUTE_KEY = "attribute_key"
"""int64 ``[values]``: the keys of the attribute values, ascending."""
ATTRIBUTE_COLUMN = "attribute_column"
"""int64 ``[values]``: the column of each key, as an index into `COLUMN_WORD`."""
ATTRIBUTE_BIT = "attribute_bit"
"""int64 ``[values]``: the bit of each key within its column, 64 to a word; never 0, since every item has bit 0."""

NUMBER_COLUMN = "number_column"
"""int64 ``[numeric columns]``: the columns that hold numbers, as indices into `COLUMN_WORD`; see `AttributeIndex` for
their words. Only in an export with such columns, as `NUMBER_KEY`."""
NUMBER_KEY = "number_key"
"""int64 ``[numeric columns]``: the keys of their names."""

ATTRIBUTE_COLUMNS = "attribute_columns"
"""Metadata of the file: the names of the columns without the numeric ones, a JSON list."""
ATTRIBUTE_VALUES = "attribute_values"
"""Metadata of the file: the values of each of these columns in the order of their bits, a JSON object of lists."""

ITEM_IDS_FILE = "item_ids.safetensors"
"""The item ids, in catalog order; see `ItemIds`."""

CATALOG_ID = "catalog_id"
"""Initializer of an exact scoring head's graph: string ``[items]``, the items' ids in catalog order."""

_WEIGHTS_FILES = (CONFIG_FILE, TENSORS_FILE, CATALOG_FILE, ATTRIBUTES_FILE, FACTORS_FILE, POPULARITY_FILE)
MODEL_FILES: dict[str, tuple[str, ...]] = {
    served_models.TOKENIZER.name: (CONFIG_FILE,),
    served_models.ADAPTIVE_WEIGHTS.name: (*_WEIGHTS_FILES, ITEM_IDS_FILE),
    served_models.ADAPTIVE_WEIGHTS_TEXT.name: (*_WEIGHTS_FILES, ITEM_IDS_FILE),
    served_models.CANDIDATE_HEAD.name: (CONFIG_FILE, TENSORS_FILE, CATALOG_FILE, FACTORS_FILE, POPULARITY_FILE),
    served_models.SLATE_COMPOSER.name: (*_WEIGHTS_FILES, ITEM_IDS_FILE),
    served_models.EXPLAINER.name: (
        CONFIG_FILE,
        TENSORS_FILE,
        CATALOG_FILE,
        FACTORS_FILE,
        ITEM_IDS_FILE,
        POPULARITY_FILE,
        BLOCKS_FILE,
    ),
    served_models.OBSERVER.name: (CONFIG_FILE, TENSORS_FILE, CATALOG_FILE, FACTORS_FILE, POPULARITY_FILE),
    served_models.INTEREST_READER.name: (CONFIG_FILE, TENSORS_FILE, CATALOG_FILE, ITEM_IDS_FILE),
    served_models.FORGETTER.name: (CONFIG_FILE,),
    served_models.ITEM_KEEPER.name: (CONFIG_FILE, CATALOG_FILE, PROJECTIONS_FILE, ATTRIBUTES_FILE),
}
"""The data files in the version folder of each Python model."""

MODEL_CONFIG_FILE = "config.pbtxt"


def read_interest_config(folder: Path) -> InterestConfig:
    """The settings in the version folder of a Python model; their fingerprint identifies the export.

    Raises:
        ValueError: The file is damaged.
    """
    return InterestConfig.from_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))


def read_interest_parameters(folder: Path) -> InterestParameters:
    """The settings and learned parameters in the version folder of an `adaptive_weights` model.

    Args:
        folder: Holds `CONFIG_FILE` and `TENSORS_FILE`.

    Raises:
        ValueError: The files belong to different exports, or one is damaged.
    """
    config = read_interest_config(folder)
    return InterestParameters.from_tensors(config, _read_of(config, folder / TENSORS_FILE))


def read_pipeline(folder: Path) -> InterestPipeline:
    """The pipeline in the version folder of an `adaptive_weights` model; its tables are memory-mapped.

    Raises:
        ValueError: The files belong to different exports, or one is damaged; the message names both ids.
    """
    parameters = read_interest_parameters(folder)
    catalog = _read_of(parameters.config, folder / CATALOG_FILE)
    attributes, _ = read_attributes(folder, parameters.config)
    factors = None
    repeat = parameters.repeat
    if parameters.related is not None or (repeat is not None and repeat.interest_share is not None):
        factors = read_factors(folder, parameters.config)
    return InterestPipeline(parameters, _key_index(catalog), catalog[EVENT_VECTORS], attributes, factors)


def read_attributes(folder: Path, config: InterestConfig) -> tuple[AttributeIndex, npt.NDArray[np.int64]]:
    """The attribute values in the version folder of a Python model, and the words of the items, ``[items, words]``.

    Returns:
        Without attributes, words of no items.

    Raises:
        ValueError: The file belongs to another export, or is damaged.
    """
    found = _read_of(config, folder / ATTRIBUTES_FILE)
    no_value = np.empty(0, dtype=np.int64)
    keys = found.get(ATTRIBUTE_KEY, no_value)
    attributes = AttributeIndex(
        np.asarray(found[COLUMN_WORD]),
        KeyIndex(keys, np.arange(keys.size)),
        np.asarray(found.get(ATTRIBUTE_COLUMN, no_value)),
        np.asarray(found.get(ATTRIBUTE_BIT, no_value)),
        np.asarray(found.get(NUMBER_COLUMN, no_value)),
        np.asarray(found.get(NUMBER_KEY, no_value)),
    )
    return attributes, np.asarray(found.get(ITEM_WORDS, np.empty((0, attributes.words), dtype=np.int64)))


def read_rule_tables(folder: Path) -> RuleTables:
    """What rules need, from the version folder of an `adaptive_weights` model.

    Raises:
        ValueError: The files belong to different exports, or one is damaged.
    """
    config = read_interest_config(folder)
    _, words = read_attributes(folder, config)
    ids = ItemIds.from_tensors(_read_of(config, folder / ITEM_IDS_FILE))
    return RuleTables(words, read_factors(folder, config), ids)


def read_plain_pipeline(folder: Path, *, with_factors: bool = False) -> InterestPipeline:
    """The pipeline in the version folder of a model that filters by no attribute; its tables are memory-mapped.

    Args:
        folder: Of the version.
        with_factors: Whether the model has the item factors.

    Raises:
        ValueError: The files belong to different exports, or one is damaged; the message names both ids.
    """
    parameters = read_interest_parameters(folder)
    catalog = _read_of(parameters.config, folder / CATALOG_FILE)
    factors = read_factors(folder, parameters.config) if with_factors else None
    return InterestPipeline(parameters, _key_index(catalog), catalog[EVENT_VECTORS], factors=factors)


def read_item_ids(folder: Path, config: InterestConfig) -> ItemIds | None:
    """The item ids in the version folder of a Python model; None in an export from before models had them.

    Raises:
        ValueError: The file belongs to another export, or is damaged.
    """
    path = folder / ITEM_IDS_FILE
    return ItemIds.from_tensors(_read_of(config, path)) if path.is_file() else None


def read_factors(folder: Path, config: InterestConfig) -> npt.NDArray[np.float32]:
    """The item factors in the version folder of a Python model, ``[items, d + p]``, memory-mapped.

    Raises:
        ValueError: The file belongs to another export, or is damaged.
    """
    return np.asarray(_read_of(config, folder / FACTORS_FILE)[ITEM_FACTORS])


def _read_blocks(folder: Path, config: InterestConfig) -> Mapping[str, npt.NDArray[np.float32]]:
    """What the feature blocks add to the item factors, memory-mapped; empty in an export from before there were some.

    Raises:
        ValueError: The file belongs to another export, or is damaged.
    """
    path = folder / BLOCKS_FILE
    return _read_of(config, path) if path.is_file() else {}


def read_popularity(folder: Path, config: InterestConfig) -> CountedPopularity | None:
    """The counts of the prior in the version folder of a Python model; None in an export without them.

    Raises:
        ValueError: The file belongs to another export, or is damaged.
    """
    path = folder / POPULARITY_FILE
    return CountedPopularity.from_tensors(_read_of(config, path)) if path.is_file() else None


def read_candidate_scorer(folder: Path) -> CandidateScorer:
    """The scorer in the version folder of `candidate_head`; its tables are memory-mapped.

    Raises:
        ValueError: The files belong to different exports, or one is damaged; the message names both ids.
    """
    pipeline = read_plain_pipeline(folder)
    return CandidateScorer(pipeline, read_factors(folder, pipeline.parameters.config))


def read_slate_composer(folder: Path) -> SlateComposer:
    """The composer in the version folder of `slate_composer`; its tables are memory-mapped.

    Raises:
        ValueError: The files belong to different exports, or one is damaged; the message names both ids.
    """
    pipeline = read_pipeline(folder)
    config = pipeline.parameters.config
    index, words = read_attributes(folder, config)
    _, metadata = read_tensors(folder / ATTRIBUTES_FILE)
    texts: dict[str, list[str]] = json.loads(metadata.get(ATTRIBUTE_VALUES, "{}"))
    columns = {name: texts.get(name, []) for name in json.loads(metadata.get(ATTRIBUTE_COLUMNS, "[]"))}
    ids = ItemIds.from_tensors(_read_of(config, folder / ITEM_IDS_FILE))
    tables = SlateTables(read_factors(folder, config), ItemValues(index, words, columns), ids)
    return SlateComposer(pipeline, tables)


def read_explainer(folder: Path) -> Explainer:
    """The explainer in the version folder of `explainer`; its tables are memory-mapped.

    Raises:
        ValueError: The files belong to different exports, or one is damaged; the message names both ids.
    """
    pipeline = read_plain_pipeline(folder, with_factors=True)
    config = pipeline.parameters.config
    return Explainer(
        pipeline, read_factors(folder, config), read_item_ids(folder, config), _read_blocks(folder, config)
    )


def read_observer(folder: Path) -> tuple[InterestPipeline, Feedback | None]:
    """What the observer needs, from its version folder: the pipeline, and what learns online if the export does.

    Raises:
        ValueError: The files belong to different exports, or one is damaged; the message names both ids.
    """
    pipeline = read_plain_pipeline(folder)
    config = pipeline.parameters.config
    if not config.online_learning_rate or pipeline.parameters.gate is None:
        return pipeline, None
    factors = _read_of(config, folder / FACTORS_FILE)
    return pipeline, Feedback(pipeline, factors[ITEM_FACTORS], OnlineLearning(config.online_learning_rate))


def read_interest_reader(folder: Path) -> InterestReader:
    """The reader of states in the version folder of `interest_reader`; its tables are memory-mapped.

    Raises:
        ValueError: The files belong to different exports, or one is damaged; the message names both ids.
    """
    pipeline = read_plain_pipeline(folder)
    return InterestReader(pipeline, read_item_ids(folder, pipeline.parameters.config))


def read_item_keeper(folder: Path) -> KeeperTables:
    """What `ItemKeeper` needs of an export, from the version folder of `item_keeper`.

    Raises:
        ValueError: The files belong to different exports, or one is damaged; the message names both ids.
    """
    config = read_interest_config(folder)
    found = {name: np.asarray(array) for name, array in _read_of(config, folder / PROJECTIONS_FILE).items()}
    projections = TextProjections(found[EVENT_PROJECTION], found[FACTOR_PROJECTION], found[REPEAT_PROJECTION])
    index = _key_index(_read_of(config, folder / CATALOG_FILE))
    return KeeperTables(config, index, projections, *read_attributes(folder, config))


def require_one_export(
    repository: Path, version: int, fingerprint: str, *, hashed: Collection[str] | None = None
) -> None:
    """Refuses a version whose models come from different exports, or whose files have changed since the export.

    Only models in the same repository folder can be compared: Triton downloads each model of a cloud repository into a
    separate folder.

    Args:
        repository: The folder that holds one folder for each model.
        version: The version to check in every model.
        fingerprint: The expected export id.
        hashed: Models whose files are hashed, see `read_fingerprint`; None for all.

    Raises:
        ValueError: A model differs; the message names its file and both ids, or both hashes.
    """
    for model in served_models.MODELS.values():
        path = _carrier(repository, model, version)
        if not path.is_file():
            continue
        metadata: dict[str, str] = {}
        is_hashed = hashed is None or model.name in hashed
        if path.name == CONFIG_FILE:
            metadata["fingerprint"] = read_interest_config(path.parent).fingerprint
            # Earlier exports have hashes of their ONNX files only.
            if is_hashed and (path.parent / FINGERPRINT_FILE).is_file():
                metadata["fingerprint"] = read_fingerprint(path.parent)
        elif path.name == MODEL_FILE:
            metadata["fingerprint"] = read_fingerprint(path.parent, hash_files=is_hashed)
        else:
            ensemble = read_ensemble(path)
            if ensemble.version != version:
                continue
            metadata["fingerprint"] = ensemble.fingerprint
        require_fingerprint(fingerprint, metadata, path)


@dataclass(frozen=True)
class EnsembleConfig:
    """The version and export id in the ``config.pbtxt`` of an ensemble."""

    version: int | None
    """The version of all steps; None if they differ or name none."""
    fingerprint: str
    """The export id of that version; ``none`` if the config has none."""


def read_ensemble(path: Path) -> EnsembleConfig:
    """Reads the ``config.pbtxt`` of an ensemble.

    Raises:
        ValueError: It is damaged.
    """
    try:
        config = parse_text(path.read_text(encoding="utf-8"))
        steps = [step for scheduling in config.get("ensemble_scheduling", []) for step in scheduling.get("step", [])]
        versions = {int(version) for step in steps for version in step.get("model_version", [])}
        parameters = {
            entry["key"][0]: value.get("string_value", [""])[0]
            for entry in config.get("parameters", [])
            for value in entry.get("value", [])
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: got {error}; expected a config written by `ebbtide export`") from error
    version = versions.pop() if len(versions) == 1 else None
    return EnsembleConfig(version, parameters.get(contract.FINGERPRINT_PARAMETER, "none"))


def require_fingerprint(expected: str, metadata: dict[str, str], source: Path) -> None:
    """Refuses a file of another export.

    Raises:
        ValueError: The fingerprints differ; the message names both.
    """
    found = metadata.get("fingerprint", "none")
    if found != expected:
        raise ValueError(f"{source}: got fingerprint {found}; expected {expected}: files of two exports are mixed")


def _read_of(config: InterestConfig, path: Path) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a file, which must belong to the same export as the settings."""
    tensors, metadata = read_tensors(path)
    require_fingerprint(config.fingerprint, metadata, path)
    return tensors


def _key_index(catalog: dict[str, npt.NDArray[Any]]) -> KeyIndex:
    return KeyIndex(catalog[SORTED_KEY], catalog[CATALOG_INDEX])


def _carrier(repository: Path, model: Model, version: int) -> Path:
    """The file of a model version that identifies its export. An ensemble has one config for all versions."""
    if model.kind is Kind.ENSEMBLE:
        return repository / model.name / MODEL_CONFIG_FILE
    folder = repository / model.name / str(version)
    # The contract's scoring head is an ONNX model; one that answers from an index is a Python model.
    return folder / (MODEL_FILE if (folder / MODEL_FILE).is_file() else CONFIG_FILE)
