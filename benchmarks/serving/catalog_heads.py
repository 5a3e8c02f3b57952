"""Scoring heads over one catalog, exact and with an index, in this process, and their requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from safetensors.numpy import save_file

from ebbtide.export.head.graph import head_graph
from ebbtide.export.head.index import RECALL_AT, Index
from ebbtide.export.head.retrieval import write_index
from ebbtide.export.head.served import open_head
from ebbtide.export.onnx_files import write_graph
from ebbtide.interest import contract, exported, served_models
from ebbtide.interest.contract import Limits, Size
from ebbtide.interest.modelfile import MODEL_FILE

Floats = npt.NDArray[np.float32]
Feeds = dict[str, npt.NDArray[Any]]

_EXCLUDED = 60
_FINGERPRINT = "benchmark"


def exact_heads(factors: Floats, folder: Path, threads: Sequence[int]) -> list[Any]:
    """Sessions of the exported graph, one for each number of threads; they return the best `RECALL_AT` items."""
    folder.mkdir()
    sizes = {
        Size.INTEREST: factors.shape[1],
        Size.TOP_N: RECALL_AT,
        Size.FILTER: 1,
    }
    write_graph(head_graph(factors, _ids(len(factors)), sizes), _FINGERPRINT, folder)
    sessions = []
    for count in threads:
        options = ort.SessionOptions()
        options.intra_op_num_threads = count
        # A session that spins between its turns would use the cores that other sessions need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = str(folder / MODEL_FILE)
        sessions.append(ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    return sessions


def indexed_head(index: Index, factors: Floats, folder: Path) -> Any:  # noqa: ANN401 - loaded from the served model's source
    """The served head with an index; it returns the best `RECALL_AT` items."""
    folder.mkdir()
    write_index(index, _ids(len(factors)), RECALL_AT, _FINGERPRINT, folder)
    metadata = {"fingerprint": _FINGERPRINT}
    save_file({exported.ITEM_FACTORS: factors}, str(folder / exported.FACTORS_FILE), metadata)
    save_file({exported.COLUMN_WORD: np.array([0, 1])}, str(folder / exported.ATTRIBUTES_FILE), metadata)
    return open_head(folder, _FINGERPRINT)


def requests_of(interests: Floats, items: int) -> list[Feeds]:
    """One request for each interest, with some items excluded."""
    random = np.random.default_rng(0)
    found = []
    for interest in interests:
        item = np.zeros((1, Limits().adjustments), dtype=np.int64)
        score = np.zeros(item.shape, dtype=np.float32)
        item[0, :_EXCLUDED] = random.integers(0, items, _EXCLUDED)
        score[0, :_EXCLUDED] = -np.inf
        inputs = (interest[None], item, score, np.ones((1, 1), dtype=np.int64))
        found.append(dict(zip((tensor.name for tensor in served_models.SCORING_HEAD.inputs), inputs, strict=True)))
    return found


def recall(head: Any, exact: Any, requests: Sequence[Feeds]) -> float:  # noqa: ANN401 - onnxruntime carries no types
    """Mean share of the exact head's items that the other head returns too."""
    shares = []
    for feeds in requests:
        (best,), (returned,) = (one.run([contract.ITEM_ID.name], feeds)[0] for one in (exact, head))
        shares.append(len({*best} & {*returned}) / len(best))
    return float(np.mean(shares))


def _ids(items: int) -> list[str]:
    return [str(item) for item in range(items)]
