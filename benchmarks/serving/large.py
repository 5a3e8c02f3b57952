"""Writes an export with any number of items: tables of a real export, enlarged. Its answers have no meaning."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import text_format
from safetensors.numpy import save_file
from tritonclient.grpc import model_config_pb2

from benchmarks.serving.floor import read_config, sizes_of
from ebbtide.export.head.graph import head_graph
from ebbtide.export.onnx_files import write_graph
from ebbtide.interest import exported, served_models
from ebbtide.interest.contract import Size
from ebbtide.interest.modelfile import MODEL_FILE
from ebbtide.interest.tensorfile import read_tensors

Ints = npt.NDArray[np.int64]


def write_large(repository: Path, out: Path, items: int) -> Ints:
    """Writes `recommend` and its steps over a synthetic catalog.

    Args:
        repository: A complete export.
        out: A new folder.
        items: N, the number of items.

    Returns:
        The keys of the N items, ascending.
    """
    random = np.random.default_rng(0)
    keys: Ints = np.unique(random.integers(np.iinfo(np.int64).min, np.iinfo(np.int64).max, items + items // 100))[
        :items
    ]
    for name in (*served_models.RECOMMEND.steps, served_models.RECOMMEND.name):
        shutil.copytree(repository / name, out / name, ignore=shutil.ignore_patterns("warmup", "configs"))
        config = read_config(repository, name)
        # Warm-up requests contain items of the real catalog.
        config.ClearField("model_warmup")
        write_config(config, out)
    weights, head = (out / name for name in served_models.RECOMMEND.steps)
    for path in weights.glob(f"*/*{Path(exported.CATALOG_FILE).suffix}"):
        _grow(path, items, keys, random)
    (version,) = (path.parent for path in head.glob(f"*/{MODEL_FILE}"))
    sizes = sizes_of(served_models.SCORING_HEAD, read_config(repository, head.name))
    factors = random.standard_normal((items, sizes[Size.INTEREST]), dtype=np.float32)
    fingerprint = exported.read_interest_config(next(weights.glob("*/interest.json")).parent).fingerprint
    write_graph(head_graph(factors, [str(item) for item in range(items)], sizes), fingerprint, version)
    return keys


def write_config(config: Any, repository: Path) -> None:  # noqa: ANN401 - tritonclient carries no types
    """Replaces the config of a model."""
    path = repository / config.name / exported.MODEL_CONFIG_FILE
    path.write_text(text_format.MessageToString(config), encoding="utf-8")


def with_instances(repository: Path, model: str, count: int) -> None:
    """Sets the number of instances of a model."""
    config = read_config(repository, model)
    del config.instance_group[1:]
    config.instance_group[0].count = count
    config.instance_group[0].kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    write_config(config, repository)


def _grow(path: Path, items: int, keys: Ints, random: np.random.Generator) -> None:
    """Enlarges the tables of a file that have one row per item to the new number of items."""
    tables, metadata = read_tensors(path)
    if exported.SORTED_KEY not in tables:
        return
    before = len(tables[exported.SORTED_KEY])
    grown = {
        name: np.resize(table, (items, *table.shape[1:])) if len(table) == before else np.array(table)
        for name, table in tables.items()
    }
    grown[exported.SORTED_KEY] = keys
    grown[exported.CATALOG_INDEX] = random.permutation(items)
    # A new file, because other models of the export may share the old one.
    path.unlink()
    save_file(grown, str(path), metadata=metadata)
