"""Exports with compressed encoders give the same answers on the server as in the in-process pipeline."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton

from ebbtide.data.catalog import Catalog
from ebbtide.export import writer
from ebbtide.export.encoder.build import BuiltEncoder
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.manifest import read_manifest
from ebbtide.export.options import ExportOptions
from ebbtide.export.parity import TOLERANCE
from ebbtide.export.repository import ExportReport, export_repository
from ebbtide.interest import contract, served_models
from ebbtide.serve import ServerConfig
from ebbtide.train.bundle import InterestBundle
from ebbtide.verify import compare_fidelity
from ebbtide.verify.tolerances import Tolerances
from servers import serving

TEXTS = ["a", "space opera with robots", "Ünïcødé – 東京物語 🎬", "word " * 400]


@dataclass(frozen=True)
class Served:
    """One export, in this process and on a server."""

    report: ExportReport
    in_process: InProcessPipeline
    client: triton.InferenceServerClient
    address: str

    def embed(self, texts: list[str]) -> np.ndarray:
        array = np.array([text.encode() for text in texts], dtype=object)
        tensor = triton.InferInput(contract.TEXT.name, array.shape, contract.TEXT.dtype.value)
        tensor.set_data_from_numpy(array)
        vectors = self.client.infer(served_models.EMBED.name, [tensor], client_timeout=60).as_numpy(
            contract.TEXT_VECTOR.name
        )
        assert vectors is not None
        return vectors


@pytest.fixture(scope="module")
def served(
    bundle: InterestBundle, int8_encoder: BuiltEncoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    options = ExportOptions(top_n=20, encoder=int8_encoder.options)
    folder = tmp_path_factory.mktemp("export") / "repository"
    # Built from the same bundle with the same options, once for all tests.
    with mock.patch.object(writer, "build_encoder", return_value=int8_encoder):
        report = export_repository(bundle, folder, options)
    log = tmp_path_factory.mktemp("log") / "tritonserver.log"
    with (
        serving(ServerConfig(report.folder, log_file=log)) as running,
        triton.InferenceServerClient(running.grpc_url) as client,
    ):
        yield Served(report, InProcessPipeline(report.folder), client, running.grpc_url)


def test_embed_equals_its_twin_when_the_encoder_is_compressed(served: Served, catalog: Catalog) -> None:
    for texts in ([TEXTS[0]], TEXTS, catalog.text[:50]):
        np.testing.assert_allclose(served.embed(texts), served.in_process.embed(texts), atol=TOLERANCE, rtol=0)


def test_embed_stays_within_the_stated_tolerance_when_the_encoder_is_compressed(
    served: Served, bundle: InterestBundle
) -> None:
    texts = bundle.catalog.text[:50]
    expected = (bundle.model.text_vectors[:50] @ bundle.model.event_projection).detach().numpy()
    stated = read_manifest(served.report.folder)["1"]
    assert stated["encoder_tolerance"] == served.report.encoder_tolerance > TOLERANCE
    np.testing.assert_allclose(served.embed(texts), expected, atol=stated["encoder_tolerance"], rtol=0)


def test_served_vectors_pass_the_gate_when_verified_against_torch(served: Served, bundle: InterestBundle) -> None:
    found = compare_fidelity(bundle, served.in_process, served.address)
    assert found.passed
    assert (found.between, found.stage, found.compared) == ("torch, Triton", "embed", 200)
    assert found.tolerance == pytest.approx(0.01)
    assert 1e-5 < found.difference < 0.005


def test_served_vectors_are_refused_when_their_cosine_is_below_the_gate(served: Served, bundle: InterestBundle) -> None:
    found = compare_fidelity(bundle, served.in_process, served.address, tolerances=Tolerances(least_cosine=0.99995))
    assert not found.passed
    assert "mean cosine of 200 catalog texts: got 0.99" in found.detail
    # What the server answers counts, not the files here: another projection than its own.
    turned = copy.deepcopy(bundle.model)
    with torch.no_grad():
        turned.event_projection.neg_()
    assert compare_fidelity(replace(bundle, model=turned), served.in_process, served.address).difference > 1.99


def test_manifest_tells_of_the_encoder_when_it_is_compressed(served: Served) -> None:
    stated = read_manifest(served.report.folder)["1"]["encoder"]
    assert stated["precision"] == "int8"
    assert stated["kept_plain"] is None
    assert stated["least_cosine"] == 0.99
    machine = stated["fidelity"]["machine"]
    assert machine["processor"]
    assert ("avx2" in machine["vector_units"]) == ("avx2" in Path("/proc/cpuinfo").read_text().split())
    assert stated["fidelity"]["cosine_mean"] == served.report.encoder.fidelity.cosine_mean  # type: ignore[union-attr]
    assert stated["fidelity"]["ndcg_not_measured"] == "ratings.parquet does not exist any more"
    assert read_manifest(served.report.folder)["1"]["options"]["encoder"]["precision"] == "int8"


def test_encoder_is_near_the_full_one_when_compressed(served: Served) -> None:
    fidelity = served.report.encoder.fidelity
    assert fidelity is not None
    assert fidelity.cosine_mean > 0.995
