"""A small real catalog with an untrained model, its export, and one running server for this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch
import tritonclient.grpc as triton

from ebbtide.data.catalog import Catalog, fill_template
from ebbtide.data.dataset import DataReference
from ebbtide.export.attributes import read_attributes
from ebbtide.export.encoder.check import EncoderReport
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import ExportReport, export_repository
from ebbtide.export.tokenizer import write_tokenizer
from ebbtide.export.writer import RepositoryWriter
from ebbtide.interest import contract
from ebbtide.interest.checks import Request
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import BundleConfig, EncoderReference, InterestBundle, fingerprint_of
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.encoder import PACKAGED, embed_texts, encoder_fingerprint, encoder_folder
from ebbtide.train.model import InterestModel

ITEMS = 200
TOP_N = 20
MOVIES = Path(__file__).parents[2] / "examples" / "movielens-small" / "movies.parquet"

MakeBundle = Callable[..., InterestBundle]


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    movies = pl.read_parquet(MOVIES).head(ITEMS)
    texts = fill_template("{title} ({year}). {genres}", movies).to_list()
    return Catalog(movies["movieId"].cast(pl.String).to_list(), texts, movies["title"].to_list())


@pytest.fixture(scope="session")
def text_vectors(catalog: Catalog) -> npt.NDArray[np.float32]:
    return embed_texts(encoder_folder(PACKAGED), catalog.text)


@pytest.fixture(scope="session")
def make_bundle(catalog: Catalog, text_vectors: npt.NDArray[np.float32]) -> MakeBundle:
    """A bundle as training leaves it, but with random parameters."""

    def make(seed: int = 0, **settings: object) -> InterestBundle:
        torch.manual_seed(seed)
        config = ModelConfig.model_validate({"dimensions": 16, "gate_hidden": 8, **settings})
        model = InterestModel(config, torch.from_numpy(text_vectors)).eval()
        if model.repeat is not None:
            for started_at_zero in (model.repeat.text_weight, model.repeat.item_bias, model.repeat.output.weight):
                torch.nn.init.normal_(started_at_zero)
        columns = len(config.effective_prior_half_life_days)
        prior = np.random.default_rng(seed).random((len(catalog), columns), dtype=np.float32)
        encoder = EncoderReference(source=PACKAGED, fingerprint=encoder_fingerprint(encoder_folder(PACKAGED)))
        bundle_config = BundleConfig(
            fingerprint=fingerprint_of(model, prior, catalog, encoder),
            model=config,
            training=TrainConfig(),
            encoder=encoder,
            data=DataReference(
                events="ratings.parquet",
                catalog="movies.parquet",
                user_column="userId",
                item_column="movieId",
                time_column="timestamp",
                weight_column=None,
                catalog_item_column="movieId",
                text_template="{title} ({year}). {genres}",
                title_template=None,
                max_bad_rows=0.01,
                holdout="none",
            ),
            prior_counted_at_ms=0,
            best_epoch=1,
            validation_ndcg_at_10=0.0,
        )
        return InterestBundle(bundle_config, catalog, model, prior)

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle: MakeBundle) -> InterestBundle:
    return make_bundle()


@pytest.fixture(scope="session")
def export_report(bundle: InterestBundle, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    genres = read_attributes(MOVIES, ["genres"], bundle.catalog.item_id, item_column="movieId")
    folder = tmp_path_factory.mktemp("export") / "model_repository"
    return export_repository(bundle, folder, ExportOptions(top_n=TOP_N), attributes=genres)


@pytest.fixture(scope="session")
def repository(export_report: ExportReport) -> Path:
    return export_report.folder


@pytest.fixture
def without_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports write no encoder, which takes most of their time and has its own tests; its tokenizer they do write."""

    def write_tokenizer_alone(writer: RepositoryWriter) -> None:
        folder = writer.folder / contract.TOKENIZER.name / str(writer.version)
        write_tokenizer(encoder_folder(PACKAGED), 256, folder)

    monkeypatch.setattr(RepositoryWriter, "write_encoder", write_tokenizer_alone)
    nothing = EncoderReport("fp32", {}, None, difference=0.0, tolerance=0.0, least_cosine=1.0, fidelity=None)
    monkeypatch.setattr(RepositoryWriter, "check", lambda *_: (nothing, 0.0, 0.0))


@pytest.fixture(scope="session")
def in_process(repository: Path) -> InProcessPipeline:
    return InProcessPipeline(repository)


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    log = tmp_path_factory.mktemp("log") / "tritonserver.log"
    with TritonServer(ServerConfig(repository, log_file=log)) as running:
        yield running


@pytest.fixture(scope="session")
def write_without_encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A repository that answers `recommend` alone, written at once; for bundles of every kind."""

    def write(bundle: InterestBundle, top_n: int = TOP_N, version: int = 1, **options: object) -> Path:
        folder = tmp_path_factory.mktemp("partial")
        RepositoryWriter(bundle, folder, ExportOptions(top_n=top_n, **options), version).write_interest()
        return folder

    return write


class Door:
    """Calls the models of a server with plain arrays or whole requests."""

    def __init__(self, client: triton.InferenceServerClient) -> None:
        self.client = client

    def arrays(self, name: str, request: Request) -> dict[str, np.ndarray]:
        """A request's tensors by name, with a batch dimension of 1 where the model batches."""
        found = {field.name: getattr(request, field.name) for field in fields(request)}
        arrays = {key: array for key, array in found.items() if array is not None}
        return {key: array[None] for key, array in arrays.items()} if contract.MODELS[name].batching else arrays

    def inputs(self, name: str, arrays: Mapping[str, np.ndarray]) -> list[triton.InferInput]:
        inputs = []
        for tensor in contract.MODELS[name].inputs:
            if tensor.name in arrays:
                array = arrays[tensor.name]
                entry = triton.InferInput(tensor.name, array.shape, tensor.dtype.value)
                entry.set_data_from_numpy(array)
                inputs.append(entry)
        return inputs

    def call(self, name: str, arrays: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> dict[str, np.ndarray]:
        wanted = [triton.InferRequestedOutput(output) for output in outputs] or None
        result = self.client.infer(name, self.inputs(name, arrays), outputs=wanted, client_timeout=60)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


@pytest.fixture(scope="session")
def door(server: TritonServer) -> Iterator[Door]:
    with triton.InferenceServerClient(server.grpc_url) as client:
        yield Door(client)
