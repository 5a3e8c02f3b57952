"""What the rules read: one config of one model, with the model's folder and graphs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ebbtide.check import backends
from ebbtide.check.configs import Config
from ebbtide.check.findings import Finding
from ebbtide.check.messages import ModelConfig
from ebbtide.check.onnx_graph import NotOnnxError, OnnxGraph, read_graph
from ebbtide.check.onnx_shapes import with_inferred_outputs
from ebbtide.check.repository import ModelFolder
from ebbtide.check.textproto import Path as FieldPath


@dataclass(frozen=True)
class View:
    """One config of one model."""

    model: ModelFolder
    source: Config

    @property
    def config(self) -> ModelConfig:
        """The config as it is written."""
        return self.source.message

    @cached_property
    def serving(self) -> backends.Serving:
        """The backend, platform and model file, with what Triton fills in."""
        return backends.serving(self.model, self.config)

    @property
    def is_ensemble(self) -> bool:
        """Whether Triton serves the model as an ensemble."""
        return self.serving.platform == backends.ENSEMBLE

    @cached_property
    def versions(self) -> tuple[int, ...]:
        """The versions that Triton loads, ascending."""
        return self.model.loaded(self.config)

    def finding(self, rule: str, path: FieldPath, message: str, hint: str) -> Finding:
        """A finding about a field of the config."""
        return self.source.finding(rule, path, message, hint)

    def file_finding(self, rule: str, file: str, message: str, hint: str, line: int = 1) -> Finding:
        """A finding about another file; `file` is its path in the model's folder."""
        return Finding(rule, f"{self.model.name}/{file}", line, "", message, hint)

    def model_file(self, version: int) -> Path:
        """The path at which the backend looks for the model file of a version."""
        path = self.model.path / str(version) / self.serving.file
        # A large ONNX model may be a folder: model.onnx and separate files with weights.
        return path / "model.onnx" if self.serving.backend == backends.ONNX and path.is_dir() else path

    @cached_property
    def graphs(self) -> dict[int, OnnxGraph | NotOnnxError]:
        """The ONNX graph of each loaded version whose model file exists."""
        if self.serving.backend != backends.ONNX:
            return {}
        files = {version: self.model_file(version) for version in self.versions}
        return {version: _graph(path) for version, path in files.items() if path.is_file()}

    @cached_property
    def newest_graph(self) -> OnnxGraph | None:
        """The graph of the newest loaded version."""
        readable = [graph for _, graph in sorted(self.graphs.items()) if isinstance(graph, OnnxGraph)]
        return readable[-1] if readable else None


def _graph(path: Path) -> OnnxGraph | NotOnnxError:
    try:
        return with_inferred_outputs(path, read_graph(path))
    except NotOnnxError as error:
        return error
