"""Opens a written scoring head that answers from an approximate index, without Triton and without torch."""

from __future__ import annotations

import sys
from functools import cache
from importlib import util
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from ebbtide.export.errors import RepositoryError
from ebbtide.export.sources import model_sources
from ebbtide.interest import contract, exported
from ebbtide.interest.tensorfile import read_tensors

_MODULE = "ebbtide_served_approximate"


def read_item_ids(folder: Path) -> list[str]:
    """The ids of a written index, in catalog order.

    Raises:
        ValueError: The file is damaged.
    """
    tables, _ = read_tensors(folder / exported.RETRIEVAL_FILE)
    start, content = tables[exported.ID_START].tolist(), tables[exported.ID_BYTES].tobytes()
    return [content[begin:end].decode() for begin, end in pairwise(start)]


def open_head(folder: Path, fingerprint: str) -> Any:  # noqa: ANN401 - loaded from the served model's source
    """The served head of a version folder, in this process; it is run as an ONNX Runtime session is.

    Raises:
        RepositoryError: faiss is not installed.
        ValueError: A file is damaged, or of another export.
    """
    try:
        return _served_module().ApproximateHead(folder, fingerprint)
    except ImportError as error:
        raise RepositoryError(
            f"{folder}: got an export with an approximate index, but no faiss here ({error}); expected it: "
            "pip install faiss-cpu"
        ) from error


@cache
def _served_module() -> ModuleType:
    """The served head's code; from this installation, so that reading an export runs none of its code."""
    path = model_sources() / contract.SCORING_HEAD.name / "approximate.py"
    spec = util.spec_from_file_location(_MODULE, path)
    assert spec is not None  # noqa: S101 - the file is part of the package
    assert spec.loader is not None  # noqa: S101 - as above
    module = util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module
