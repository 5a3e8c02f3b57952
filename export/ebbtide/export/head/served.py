"""Reads an exported scoring head without Triton and torch: its item ids, and a head that answers from an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from ebbtide.export.errors import RepositoryError
from ebbtide.export.sources import load_source
from ebbtide.interest import exported, served_models
from ebbtide.interest.modelfile import MODEL_FILE
from ebbtide.interest.retrieval import RETRIEVAL_FILE, RetrievalTables
from ebbtide.interest.tensorfile import read_tensors


def read_item_ids(folder: Path) -> list[str]:
    """The item ids of an exported scoring head, exact or with an index, in catalog order.

    Raises:
        RepositoryError: The file is missing or damaged.
    """
    path = folder / RETRIEVAL_FILE
    try:
        if path.is_file():
            return RetrievalTables.from_tensors(*read_tensors(path)).ids.all()
        path = folder / MODEL_FILE
        graph = onnx.load(str(path), load_external_data=False).graph
        ids = next(weight for weight in graph.initializer if weight.name == exported.CATALOG_ID)
    except Exception as error:
        # onnx raises protobuf's own errors, which share no base class with other errors.
        raise RepositoryError(f"{path}: got {error!r}; expected a scoring head written by `ebbtide export`") from error
    return [value.decode() for value in ids.string_data]


def open_head(folder: Path, fingerprint: str) -> Any:  # noqa: ANN401 - loaded from the served model's source
    """Loads the served head of a version folder in this process; it has the `run` method of an ONNX Runtime session.

    Raises:
        RepositoryError: faiss is not installed.
        ValueError: A file is damaged or belongs to another export.
    """
    try:
        return load_source(served_models.SCORING_HEAD.name, "approximate").ApproximateHead(folder, fingerprint)
    except ImportError as error:
        raise RepositoryError(
            f"{folder}: got an approximate index, but faiss is not installed ({error}); install it: "
            "pip install faiss-cpu"
        ) from error
