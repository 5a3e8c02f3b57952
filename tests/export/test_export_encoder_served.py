"""Compressed encoders on the embedded server: whole exports answer as the in-process pipeline does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from ebbtide.data.catalog import Catalog
from ebbtide.export.encoder.build import EncoderSource
from ebbtide.export.encoder.options import EncoderOptions
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.manifest import read_manifest
from ebbtide.export.options import ExportOptions
from ebbtide.export.parity import TOLERANCE
from ebbtide.export.repository import ExportReport, export_repository
from ebbtide.interest import contract
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import PACKAGED, encoder_folder

VARIANTS = {"int8": EncoderOptions(precision="int8"), "static": EncoderOptions("static", allow_fidelity_loss=True)}
TEXTS = ["a", "space opera with robots", "Ünïcødé – 東京物語 🎬", "word " * 400]


@dataclass(frozen=True)
class Served:
    """One export, in this process and on a server."""

    report: ExportReport
    in_process: InProcessPipeline
    client: triton.InferenceServerClient

    def embed(self, texts: list[str]) -> np.ndarray:
        array = np.array([text.encode() for text in texts], dtype=object)
        tensor = triton.InferInput(contract.TEXT.name, array.shape, contract.TEXT.dtype.value)
        tensor.set_data_from_numpy(array)
        vectors = self.client.infer(contract.EMBED.name, [tensor], client_timeout=60).as_numpy(
            contract.TEXT_VECTOR.name
        )
        assert vectors is not None
        return vectors


@pytest.fixture(scope="module")
def source(bundle: InterestBundle) -> EncoderSource:
    return EncoderSource.read(bundle, encoder_folder(PACKAGED))


@pytest.fixture(scope="module", params=VARIANTS)
def served(
    request: Any, bundle: InterestBundle, source: EncoderSource, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        # Traced once for both.
        patch.setattr(EncoderSource, "read", lambda *_: source)
        options = ExportOptions(top_n=20, encoder=VARIANTS[request.param])
        report = export_repository(bundle, tmp_path_factory.mktemp("export") / "repository", options)
    log = tmp_path_factory.mktemp("log") / "tritonserver.log"
    with (
        TritonServer(ServerConfig(report.folder, log_file=log)) as running,
        triton.InferenceServerClient(running.grpc_url) as client,
    ):
        yield Served(report, InProcessPipeline(report.folder), client)


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


def test_manifest_tells_of_the_encoder_when_it_is_compressed(served: Served) -> None:
    stated = read_manifest(served.report.folder)["1"]["encoder"]
    label = served.report.encoder.label
    assert stated["label"] == label
    assert len(stated["layers"]) == (0 if label == "static" else 6)
    assert stated["kept_plain"] is None
    assert stated["fidelity"]["cosine_mean"] == served.report.encoder.fidelity.cosine_mean  # type: ignore[union-attr]
    assert stated["fidelity"]["ndcg_not_measured"] == "ratings.parquet is not there any more"
    assert read_manifest(served.report.folder)["1"]["options"]["encoder"]["precision"] in ("int8", "fp32")


def test_encoder_is_near_the_full_one_when_compressed(served: Served) -> None:
    fidelity = served.report.encoder.fidelity
    assert fidelity is not None
    # Two hundred texts teach a static encoder little: docs/encoder.md has the figures of a whole catalog.
    assert fidelity.cosine_mean > (0.995 if served.report.encoder.label == "int8" else 0.75)
