"""Writes the models of one export, part by part, and checks them against torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ebbtide.export import checks
from ebbtide.export.configs import ConfigSettings, render_config
from ebbtide.export.encoder_onnx import EventEncoder, encoder_graph
from ebbtide.export.errors import RepositoryError
from ebbtide.export.head_onnx import head_graph, item_factors
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.onnx_files import write_graph
from ebbtide.export.options import ExportOptions
from ebbtide.export.sources import copy_python_model
from ebbtide.export.tables import interest_parameters, key_index, write_settings, write_tables
from ebbtide.export.tokenizer import write_tokenizer
from ebbtide.interest import contract
from ebbtide.interest.contract import Kind, Size
from ebbtide.interest.exported import MODEL_CONFIG_FILE
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import encoder_fingerprint, encoder_folder, load_encoder


@dataclass
class RepositoryWriter:
    """One export under way, in a folder that nobody reads yet."""

    bundle: InterestBundle
    folder: Path
    options: ExportOptions = field(default_factory=ExportOptions)
    version: int = 1
    report: Callable[[str], None] = lambda _part: None
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each part took."""

    def __post_init__(self) -> None:
        d = self.bundle.model.config.dimensions
        self.fingerprint = self.options.fingerprint(self.bundle)
        self.sizes = {
            Size.INTEREST: d + self.bundle.prior_columns.shape[1],
            Size.VECTOR: d,
            Size.ADJUSTMENTS: self.options.limits.adjustments,
            Size.TOP_N: min(self.options.top_n, len(self.bundle.catalog)),
        }

    def write_interest(self) -> None:
        """Writes everything but what comes from the encoder.

        Raises:
            KeyCollisionError: Two item ids share a key.
        """
        bundle = self.bundle
        with self._part("tables"):
            values = interest_parameters(bundle, self.fingerprint, self.options.limits)
            index = key_index(bundle.catalog.item_id)
            vectors = bundle.model.event_vectors().detach().numpy()
        with self._part("configs and Python models"):
            self._write_configs()
            for model in (contract.ADAPTIVE_WEIGHTS, contract.ADAPTIVE_WEIGHTS_TEXT):
                write_tables(values, index, vectors, self._version_folder(model.name))
            write_settings(values, self._version_folder(contract.TOKENIZER.name))
        with self._part("scoring head"):
            graph = head_graph(item_factors(bundle), bundle.catalog.item_id, self.sizes)
            write_graph(graph, self.fingerprint, self._version_folder(contract.SCORING_HEAD.name))

    def write_encoder(self) -> EventEncoder:
        """Writes the encoder's graph and its tokenizer, after `write_interest`.

        Returns:
            The torch module that the graph was made from.

        Raises:
            RepositoryError: The encoder is not the one that the bundle was trained with.
        """
        bundle = self.bundle
        with self._part("encoder"):
            source = self._encoder_folder()
            encoder = load_encoder(source)
            module = EventEncoder(encoder, bundle.model.event_projection)
            graph = encoder_graph(module)
            write_graph(graph, self.fingerprint, self._version_folder(contract.ENCODER.name))
            write_tokenizer(source, encoder.settings.max_tokens, self._version_folder(contract.TOKENIZER.name))
        return module

    def check(self, module: EventEncoder) -> tuple[float, float, float]:
        """Reads everything back; the largest differences from torch of encoder, head and whole requests.

        Args:
            module: From `write_encoder`.

        Raises:
            ParityError: One of them is above the tolerance, or a graph is not as the contract says.
        """
        twin = InProcessPipeline(self.folder)
        with self._part("check of the scoring head"):
            head = checks.check_head(twin, self.bundle, self.sizes)
        with self._part("check of whole requests"):
            whole = checks.check_pipeline(twin, self.bundle)
        with self._part("check of the encoder"):
            encoder = checks.check_encoder(twin, module, self.bundle.catalog.text, self.sizes)
        return encoder, head, whole

    def _write_configs(self) -> None:
        settings = ConfigSettings(
            self.fingerprint,
            self.version,
            self.sizes,
            max_texts=self.options.limits.max_texts,
            encoder_threads=self.options.encoder_threads,
        )
        for name, model in contract.MODELS.items():
            version_folder = self._version_folder(name)
            version_folder.mkdir(parents=True)
            config = render_config(model, settings)
            (self.folder / name / MODEL_CONFIG_FILE).write_text(config, encoding="utf-8")
            if model.kind is Kind.PYTHON:
                copy_python_model(name, version_folder)
            if model.kind is Kind.ENSEMBLE:
                # Git drops empty folders, and Triton refuses a model without a version.
                (version_folder / ".gitkeep").touch()

    def _encoder_folder(self) -> Path:
        reference = self.bundle.config.encoder
        source = encoder_folder(reference.source)
        found = encoder_fingerprint(source)
        if found != reference.fingerprint:
            raise RepositoryError(
                f"encoder {reference.source!r}: got fingerprint {found[:16]}; expected {reference.fingerprint[:16]}, "
                "that of the encoder which the bundle was trained with: restore its files, or train again"
            )
        return source

    def _version_folder(self, name: str) -> Path:
        return self.folder / name / str(self.version)

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        self.report(name)
        began = time.monotonic()
        with torch.inference_mode():
            yield
        self.seconds[name] = time.monotonic() - began
