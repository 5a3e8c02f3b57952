"""A small export with the packaged encoder, faster exports, and one running server for this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from ebbtide.data.catalog import Catalog
from ebbtide.export.attributes import read_attributes
from ebbtide.export.encoder.build import BuiltEncoder, EncoderSource, build_encoder
from ebbtide.export.encoder.kept import KeptEncoder
from ebbtide.export.encoder.options import EncoderOptions
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import ExportReport, export_repository
from ebbtide.export.writer import RepositoryWriter
from ebbtide.interest import served_models
from ebbtide.interest.checks import Request
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import PACKAGED, encoder_folder
from servers import serving

TOP_N = 20
MOVIES = Path(__file__).parents[2] / "examples" / "movielens-small" / "movies.parquet"

MakeBundle = Callable[..., InterestBundle]
Export = Callable[..., ExportReport]


@pytest.fixture(scope="session")
def bundle(make_bundle: MakeBundle) -> InterestBundle:
    """With the packaged encoder, whose fidelity tests here measure."""
    return make_bundle(encoder=PACKAGED)


@pytest.fixture(scope="session")
def catalog(bundle: InterestBundle) -> Catalog:
    return bundle.catalog


@pytest.fixture(scope="session")
def export_report(bundle: InterestBundle, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    genres = read_attributes(MOVIES, ["genres"], bundle.catalog.item_id, item_column="movieId")
    folder = tmp_path_factory.mktemp("export") / "model_repository"
    return export_repository(bundle, folder, ExportOptions(top_n=TOP_N), attributes=genres)


@pytest.fixture(scope="session")
def repository(export_report: ExportReport) -> Path:
    return export_report.folder


@pytest.fixture(scope="session")
def int8_encoder(bundle: InterestBundle) -> BuiltEncoder:
    """The packaged encoder in int8: calibration takes most of such an export."""
    return build_encoder(EncoderSource.read(bundle, encoder_folder(PACKAGED)), EncoderOptions("int8"))


@pytest.fixture(scope="session")
def keep_encoder(
    bundle: InterestBundle,
    export_report: ExportReport,
    tiny_bundle: InterestBundle,
    tiny_export: ExportReport,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[InterestBundle], KeptEncoder]:
    """Exports a bundle's encoder once, for all exports of bundles that project texts alike."""

    def projection(bundle: InterestBundle) -> bytes:
        return bundle.model.event_projection.detach().numpy().tobytes()

    def of(report: ExportReport) -> KeptEncoder:
        return KeptEncoder(report.folder, report.version, report.encoder)

    kept = {projection(bundle): of(export_report), projection(tiny_bundle): of(tiny_export)}

    def keep(bundle: InterestBundle) -> KeptEncoder:
        key = projection(bundle)
        if key not in kept:
            kept[key] = of(export_repository(bundle, tmp_path_factory.mktemp("kept") / "repository"))
        return kept[key]

    return keep


@pytest.fixture(scope="session")
def export(keep_encoder: Callable[[InterestBundle], KeptEncoder]) -> Export:
    """`export_repository`, which takes the encoder over: building it takes most of the time, and has its own tests."""

    def run(bundle: InterestBundle, out: Path, options: ExportOptions | None = None, **settings: Any) -> ExportReport:
        return export_repository(bundle, out, options or ExportOptions(), encoder=keep_encoder(bundle), **settings)

    return run


@pytest.fixture(scope="session")
def in_process(repository: Path) -> InProcessPipeline:
    return InProcessPipeline(repository)


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    log = tmp_path_factory.mktemp("log") / "tritonserver.log"
    with serving(ServerConfig(repository, log_file=log)) as running:
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
        return {key: array[None] for key, array in arrays.items()} if served_models.MODELS[name].batching else arrays

    def inputs(self, name: str, arrays: Mapping[str, np.ndarray]) -> list[triton.InferInput]:
        inputs = []
        for tensor in served_models.MODELS[name].inputs:
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
