"""A small real catalog with an untrained model, its export, copies of it with one part spoilt, and servers of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from tokenizers import Tokenizer

from ebbtide.export.attributes import read_attributes
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import export_repository
from ebbtide.interest import served_models
from ebbtide.interest.contract import Limits
from ebbtide.interest.modelfile import MODEL_FILE, read_fingerprint, write_fingerprint
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.v1 import RecommendRequest
from ebbtide.verify import random_requests
from servers import serving

MOVIES = Path(__file__).parents[3] / "examples" / "movielens-small" / "movies.parquet"
TOP_N, MAX_EVENTS = 12, 80


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., InterestBundle]) -> InterestBundle:
    return make_bundle(gate_hidden=6)


@pytest.fixture(scope="session")
def repository(bundle: InterestBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ExportOptions(top_n=TOP_N, limits=Limits(max_events=MAX_EVENTS, max_exclude_items=20))
    attributes = read_attributes(MOVIES, ["genres"], bundle.catalog.item_id, item_column="movieId", numeric=["year"])
    folder = tmp_path_factory.mktemp("verify") / "repository"
    return export_repository(bundle, folder, options, attributes=attributes).folder


@pytest.fixture(scope="session")
def pipeline(repository: Path) -> InProcessPipeline:
    return InProcessPipeline(repository)


@pytest.fixture(scope="session")
def requests(repository: Path) -> list[RecommendRequest]:
    return random_requests(repository, 1, 30, seed=4)


@pytest.fixture(scope="session")
def with_other_head(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One column of the item factors is another, under the right fingerprint."""
    folder = tmp_path_factory.mktemp("verify") / "other_head"
    shutil.copytree(repository, folder)
    change_head(folder)
    return folder


@pytest.fixture(scope="session")
def with_other_tokenizer(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts are cut earlier."""
    folder = tmp_path_factory.mktemp("verify") / "other_tokenizer"
    shutil.copytree(repository, folder)
    change_tokenizer(folder)
    return folder


def change_head(folder: Path) -> None:
    path = folder / served_models.SCORING_HEAD.name / "1" / MODEL_FILE
    graph = onnx.load(str(path))
    (factors,) = (weight for weight in graph.graph.initializer if weight.name == "factors")
    changed = numpy_helper.to_array(factors).copy()
    changed[:, 5] += 0.01
    factors.CopyFrom(numpy_helper.from_array(changed, "factors"))
    onnx.save_model(graph, str(path))
    exported_so(path.parent)


def change_tokenizer(folder: Path) -> None:
    path = folder / served_models.TOKENIZER.name / "1" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(8)
    tokenizer.save(str(path))
    exported_so(path.parent)


def exported_so(folder: Path) -> None:
    """Makes the changed files of a version folder look as if they had been exported so."""
    write_fingerprint(folder, read_fingerprint(folder, hash_files=False))


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """It keeps states."""
    folder = tmp_path_factory.mktemp("server")
    config = ServerConfig(
        repository,
        log_file=folder / "tritonserver.log",
        state=f"embedded:{folder / 'states'}",
    )
    with serving(config) as running:
        yield running


@pytest.fixture(scope="session")
def spoilt_server(with_other_head: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Serves another tokenizer and another scoring head than the repository holds, under the same fingerprint.

    It keeps no states.
    """
    folder = tmp_path_factory.mktemp("verify") / "spoilt"
    shutil.copytree(with_other_head, folder)
    change_tokenizer(folder)
    with serving(ServerConfig(folder, log_file=folder.with_suffix(".log"))) as running:
        yield running
