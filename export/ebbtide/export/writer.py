"""Writes the models of one export, stage by stage, and checks them against torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from ebbtide.export import checks
from ebbtide.export.attributes import CatalogAttributes
from ebbtide.export.configs import ConfigSettings, render_config
from ebbtide.export.encoder.build import BuiltEncoder, EncoderSource, build_encoder
from ebbtide.export.encoder.check import EncoderReport, report_encoder
from ebbtide.export.encoder.kept import KeptEncoder, difference_from_bundle
from ebbtide.export.errors import RepositoryError
from ebbtide.export.facts import VersionFacts
from ebbtide.export.head.attributes import ItemAttributes
from ebbtide.export.head.check import check_head
from ebbtide.export.head.graph import Floats, head_graph, item_factors
from ebbtide.export.head.retrieval import RetrievalReport, check_retrieval, write_approximate_head
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.manifest import write_manifest
from ebbtide.export.onnx_files import write_graph
from ebbtide.export.options import ExportOptions
from ebbtide.export.parity import TOLERANCE, require_tolerance
from ebbtide.export.serving import ServingOptions
from ebbtide.export.sources import copy_python_model
from ebbtide.export.sweep import SweepRow, prefer, preferred_batch_sizes, sweep
from ebbtide.export.tables import interest_parameters, key_index, write_tables
from ebbtide.export.tokenizer import write_tokenizer
from ebbtide.export.versions import VARIANTS_FOLDER
from ebbtide.export.warmup import common_ground, write_warmup
from ebbtide.interest import served_models
from ebbtide.interest.contract import Size
from ebbtide.interest.exported import MODEL_CONFIG_FILE
from ebbtide.interest.modelfile import write_fingerprint
from ebbtide.interest.served_models import Kind, Model
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import encoder_fingerprint


@dataclass
class RepositoryWriter:
    """Writes one export into a folder that no server reads yet."""

    bundle: InterestBundle
    folder: Path
    options: ExportOptions = field(default_factory=ExportOptions)
    version: int = 1
    attributes: CatalogAttributes | None = None
    """Attributes that requests may filter by; None for none."""
    kept_encoder: KeptEncoder | None = None
    """Encoder of an earlier export, to use instead of the bundle's encoder."""
    report: Callable[[str], None] = lambda _stage: None
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage."""
    head_tolerance: float = TOLERANCE
    """Largest difference allowed for scores of the scoring head; `check` sets it."""
    retrieval: RetrievalReport | None = None
    """Build settings and recall of the scoring head's index; `write_interest` sets it."""
    models: Mapping[str, Model] = field(default_factory=dict)
    """The models to write, composing models before ensembles; empty for all models of the contract."""

    def __post_init__(self) -> None:
        self.models = self.models or served_models.exported_models(exact=self.options.retrieval.is_exact)
        d = self.bundle.model.config.dimensions
        self.fingerprint = self.options.fingerprint(self.bundle, self.attributes)
        self.serving = self.options.serving or ServingOptions()
        self.sizes = {
            Size.INTEREST: d + self.bundle.prior_columns.shape[1],
            Size.VECTOR: d,
            Size.TEXT: self.bundle.text_vectors.shape[1],
            Size.ADJUSTMENTS: self.options.limits.adjustments,
            Size.FILTER: 1 if self.attributes is None else self.attributes.items.words.shape[1],
            Size.TOP_N: min(self.options.top_n, len(self.bundle.catalog)),
        }

    def write_interest(self) -> None:
        """Writes everything except the encoder and its tokenizer.

        Raises:
            KeyCollisionError: Two item ids share a key.
        """
        bundle = self.bundle
        with self._stage("tables"):
            values = interest_parameters(
                bundle,
                self.fingerprint,
                self.options.limits,
                ignore_unknown=self.options.ignore_unknown,
                online_learning_rate=self.options.online_learning_rate,
                top_n=self.sizes[Size.TOP_N],
            )
            index = key_index(bundle.catalog.item_id)
            vectors = bundle.model.event_vectors().detach().numpy()
        with self._stage("configs and Python models"):
            self._write_configs()
            folders = {name: self._version_folder(name) for name in self.models}
            write_tables(values, index, vectors, self._factors, self.attributes, bundle, folders)
        with self._stage("scoring head"):
            self._write_head()

    def write_encoder(self) -> BuiltEncoder | KeptEncoder:
        """Writes the encoder's graph and its tokenizer, after `write_interest`.

        Returns:
            The graph and its source; or the encoder of an earlier export.

        Raises:
            RepositoryError: The encoder is not the one that the bundle was trained with.
            EncoderOptionsError: The encoder does not support the options.
        """
        with self._stage("encoder"):
            written = self._write_encoder()
            # Nothing is written into version folders after this.
            for name, model in self.models.items():
                if model.kind is Kind.PYTHON:
                    write_fingerprint(self._version_folder(name), self.fingerprint)
        return written

    def _write_encoder(self) -> BuiltEncoder | KeptEncoder:
        folders = [self._version_folder(model.name) for model in (served_models.ENCODER, served_models.TOKENIZER)]
        if self.kept_encoder is not None:
            self.kept_encoder.write(self.fingerprint, *folders)
            return self.kept_encoder
        source = self._encoder_folder()
        built = build_encoder(EncoderSource.read(self.bundle, source), self.options.encoder, self.report)
        write_graph(built.graph, self.fingerprint, folders[0])
        write_tokenizer(source, built.max_tokens, folders[1])
        return built

    def check(self, built: BuiltEncoder | KeptEncoder) -> tuple[EncoderReport, float, float]:
        """Reads the written models and compares them with torch.

        Args:
            built: The result of `write_encoder`.

        Returns:
            The report on the encoder; the largest differences of the scoring head and of whole requests.

        Raises:
            ParityError: A difference is above the tolerance, or a graph does not match the contract.
            FidelityError: A compressed encoder differs too much from the full one.
        """
        in_process = InProcessPipeline(self.folder)
        with self._stage("check of the scoring head"):
            if self.options.retrieval.is_exact:
                head = check_head(
                    in_process, self.bundle, self.sizes, self.options.head_precision, self._item_attributes
                )
                self.head_tolerance, head_difference = head.tolerance, head.difference
            else:
                head_difference = check_retrieval(in_process, self.bundle, self.sizes)
        with self._stage("check of whole requests"):
            whole = checks.check_pipeline(
                in_process, self.bundle, self.head_tolerance, complete=self.options.retrieval.is_exact
            )
        with self._stage("check of the encoder"):
            encoder = self._report_encoder(in_process, built)
        return encoder, head_difference, whole

    def write_warmup(self) -> tuple[SweepRow, ...]:
        """Writes the warm-up requests, and measures and sets preferred batch sizes if the options ask for it.

        Returns:
            The measured batch sizes; empty without a sweep.
        """
        texts = self.bundle.catalog.text
        with self._stage("warm-up"):
            ground = common_ground({self.version: self.folder})
            write_warmup(self.folder, ground, texts)
        if not self.serving.sweep:
            return ()
        with self._stage("sweep of batch sizes"):
            rows = sweep(self.folder, ground, texts)
            prefer(self.folder, preferred_batch_sizes(rows))
        return rows

    def _report_encoder(self, in_process: InProcessPipeline, built: BuiltEncoder | KeptEncoder) -> EncoderReport:
        if isinstance(built, BuiltEncoder):
            return report_encoder(in_process, built, self.sizes)
        tolerance = built.report.tolerance
        difference = require_tolerance(
            f"encoder of version {built.version} against the bundle's encoder",
            difference_from_bundle(in_process, self.bundle),
            tolerance,
        )
        return replace(built.report, difference=max(difference, built.report.difference))

    def _write_head(self) -> None:
        """Writes the scoring head: one graph for the whole catalog, or an index whose candidates are scored exactly."""
        if self.options.retrieval.is_exact:
            graph = head_graph(
                self._factors,
                self.bundle.catalog.item_id,
                self.sizes,
                self.options.head_precision,
                self._item_attributes,
            )
            write_graph(graph, self.fingerprint, self._version_folder(served_models.SCORING_HEAD.name))
        else:
            self.retrieval = write_approximate_head(
                self.bundle, self.folder, self.version, self.sizes, self.options.retrieval, self.report
            )

    def _write_configs(self) -> None:
        facts = VersionFacts(
            self.options.limits,
            {} if self.attributes is None else self.attributes.values,
            self.options.retrieval.is_exact,
            bool(self.options.online_learning_rate),
            self.bundle.config.privacy.model_dump() if self.bundle.config.privacy else None,
            {} if self.attributes is None else self.attributes.number_ranges,
        )
        settings = ConfigSettings(self.fingerprint, self.version, self.sizes, facts, self.serving, self.models)
        default, *others = self.serving.machines
        write_manifest(self.folder, {}, self.models)
        for name, model in self.models.items():
            version_folder = self._version_folder(name)
            version_folder.mkdir(parents=True)
            config = render_config(model, settings, default)
            (self.folder / name / MODEL_CONFIG_FILE).write_text(config, encoding="utf-8")
            for machine in others if model.kind is not Kind.ENSEMBLE else ():
                # An ensemble's config is the same for all machines: Triton reads config.pbtxt if there is no variant.
                variant = self.folder / name / VARIANTS_FOLDER / f"{machine.name}.pbtxt"
                variant.parent.mkdir(exist_ok=True)
                variant.write_text(render_config(model, settings, machine), encoding="utf-8")
            if model.kind is Kind.PYTHON:
                copy_python_model(model, version_folder)
            if model.kind is Kind.ENSEMBLE:
                # Git drops empty folders, and Triton refuses a model without a version.
                (version_folder / ".gitkeep").touch()

    def _encoder_folder(self) -> Path:
        reference = self.bundle.config.encoder
        source = self.bundle.encoder_folder()
        found = encoder_fingerprint(source)
        if found != reference.fingerprint:
            raise RepositoryError(
                f"encoder {reference.source!r}: got fingerprint {found[:16]}; expected {reference.fingerprint[:16]}, "
                "the encoder that the bundle was trained with: restore its files, or train again"
            )
        return source

    @cached_property
    def _factors(self) -> Floats:
        """The item factors, for the scoring head and for the tables of the Python models."""
        return item_factors(self.bundle)

    @property
    def _item_attributes(self) -> ItemAttributes | None:
        return None if self.attributes is None else self.attributes.items

    def _version_folder(self, name: str) -> Path:
        return self.folder / name / str(self.version)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.report(name)
        began = time.monotonic()
        with torch.inference_mode():
            yield
        self.seconds[name] = time.monotonic() - began
