"""Which backend serves a model and which file it opens, as Triton fills them in before it looks into the file."""

from __future__ import annotations

from dataclasses import dataclass

from ebbtide.check.messages import ModelConfig
from ebbtide.check.repository import ModelFolder

ENSEMBLE = "ensemble"
ONNX = "onnxruntime"
PYTHON = "python"
TENSORRT = "tensorrt"
TENSORRT_PLATFORM = "tensorrt_plan"


@dataclass(frozen=True)
class _Backend:
    platforms: tuple[str, ...]
    """The first one is filled in."""
    files: tuple[str, ...]
    """Default model files, by platform; the first one counts where the platform has none of its own."""


_BACKENDS = {
    "tensorflow": _Backend(("tensorflow_savedmodel", "tensorflow_graphdef"), ("model.savedmodel", "model.graphdef")),
    TENSORRT: _Backend((TENSORRT_PLATFORM,), ("model.plan",)),
    ONNX: _Backend(("onnxruntime_onnx",), ("model.onnx",)),
    "openvino": _Backend((), ("model.xml",)),
    "pytorch": _Backend(("pytorch_libtorch", "pytorch_aoti"), ("model.pt", "model.pt2")),
    PYTHON: _Backend((), ("model.py",)),
}
"""In the order in which Triton tries them."""
PLATFORMS = (ENSEMBLE, *(platform for backend in _BACKENDS.values() for platform in backend.platforms))
FILLS_IN_TENSORS = ("tensorflow", TENSORRT, ONNX, "openvino", "pytorch")
"""Backends that read inputs and outputs from the model's file where the config has none."""


@dataclass(frozen=True)
class Serving:
    """What serves a model."""

    backend: str
    """Empty for an ensemble, and where it can't be told."""
    platform: str
    file: str
    """The model file in each version's folder; empty where the checker doesn't know the backend's."""


def serving(model: ModelFolder, config: ModelConfig) -> Serving:
    """What Triton fills in for a config's `backend`, `platform` and `default_model_filename`."""
    if config.platform == ENSEMBLE and not config.backend:
        return Serving("", ENSEMBLE, "")
    backend = config.backend or _inferred(model, config)
    known = _BACKENDS.get(backend)
    if known is None:
        return Serving(backend, config.platform, config.default_model_filename)
    platform = config.platform or (known.platforms[0] if known.platforms else "")
    position = known.platforms.index(platform) if platform in known.platforms else 0
    return Serving(backend, platform, config.default_model_filename or known.files[position])


def known_platforms(backend: str) -> tuple[str, ...] | None:
    """The platforms of a backend that Triton knows, an empty one for one without; None for other backends."""
    known = _BACKENDS.get(backend)
    return None if known is None else (known.platforms or ("",))


def _inferred(model: ModelFolder, config: ModelConfig) -> str:
    """The backend that a platform, a file name or the model's files name; empty where none does."""
    for name, backend in _BACKENDS.items():
        if config.platform:
            if config.platform in backend.platforms:
                return name
        elif config.default_model_filename:
            if config.default_model_filename in backend.files:
                return name
        elif any(file in _first_content(model) for file in backend.files):
            return name
    _, dot, suffix = model.name.partition(".")
    return suffix if dot and not (config.platform or config.default_model_filename) else ""


def _first_content(model: ModelFolder) -> set[str]:
    # Triton looks into the folder whose name sorts first, whether that is a version or not.
    return {entry.name for entry in (model.path / model.folders[0]).iterdir()} if model.folders else set()
