"""Which backend serves a model, and which model file it opens: the values that Triton fills in for a config."""

from __future__ import annotations

import difflib
import re
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
    """Triton fills in the first one."""
    files: tuple[str, ...]
    """Default model file of each platform; the first one where the platform has no file of its own."""


_BACKENDS = {
    "tensorflow": _Backend(("tensorflow_savedmodel", "tensorflow_graphdef"), ("model.savedmodel", "model.graphdef")),
    TENSORRT: _Backend((TENSORRT_PLATFORM,), ("model.plan",)),
    ONNX: _Backend(("onnxruntime_onnx",), ("model.onnx",)),
    "openvino": _Backend((), ("model.xml",)),
    "pytorch": _Backend(("pytorch_libtorch", "pytorch_aoti"), ("model.pt", "model.pt2")),
    PYTHON: _Backend((), ("model.py",)),
}
"""Backends by name, in the order in which Triton tries them."""
PLATFORMS = (ENSEMBLE, *(platform for backend in _BACKENDS.values() for platform in backend.platforms))
_ALIASES = {"onnx": ONNX, "ort": ONNX, "trt": TENSORRT, "torch": "pytorch", "libtorch": "pytorch", "tf": "tensorflow"}
"""Names of frameworks that are sometimes written instead of the backend's name."""
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_CLOSE = 0.9
FILLS_IN_TENSORS = ("tensorflow", TENSORRT, ONNX, "openvino", "pytorch")
"""Backends that read inputs and outputs from the model file if the config has none."""


@dataclass(frozen=True)
class Serving:
    """The backend, platform and model file of a model."""

    backend: str
    """Empty for an ensemble, and if the backend is unknown."""
    platform: str
    file: str
    """The model file in each version's folder; empty if the checker does not know the backend."""


def serving(model: ModelFolder, config: ModelConfig) -> Serving:
    """The `backend`, `platform` and `default_model_filename` of a config, with what Triton fills in."""
    if config.platform == ENSEMBLE and not config.backend:
        return Serving("", ENSEMBLE, "")
    backend = config.backend or _inferred(model, config)
    known = _BACKENDS.get(backend)
    if known is None:
        return Serving(backend, config.platform, config.default_model_filename)
    platform = config.platform or (known.platforms[0] if known.platforms else "")
    position = known.platforms.index(platform) if platform in known.platforms else 0
    return Serving(backend, platform, config.default_model_filename or known.files[position])


def accepted_platforms(backend: str, platform: str) -> tuple[str, ...] | None:
    """The platforms of a backend if Triton refuses it with this one; None if it does not."""
    known = _BACKENDS.get(backend)
    if known is None:
        return None
    accepted = known.platforms or ("",)
    if backend == PYTHON:
        # A PyTorch model may be run by a model.py. Triton compares a platform that it does not know with nothing.
        accepted = ("", "pytorch_libtorch", *(() if platform in PLATFORMS else (platform,)))
    return None if platform in accepted else accepted


def is_misspelt(backend: str) -> bool:
    """Whether no server has a backend of this name."""
    return bool(backend) and (intended(backend) is not None or _NAME.fullmatch(backend) is None)


def intended(backend: str) -> str | None:
    """The backend that a misspelt name means; None if the name may be right, or if the meaning is unknown."""
    if backend in _BACKENDS:
        return None
    name = backend.lower()
    by_platform = next((known for known, other in _BACKENDS.items() if name in other.platforms), None)
    near = difflib.get_close_matches(name, _BACKENDS, n=1, cutoff=_CLOSE)
    return _ALIASES.get(name) or by_platform or (near[0] if near else None)


def _inferred(model: ModelFolder, config: ModelConfig) -> str:
    """The backend of a platform, of `default_model_filename` or of the model's files; empty if none tells it."""
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
    # Triton looks into the first folder by name, even if it is not a version.
    return {entry.name for entry in (model.path / model.folders[0]).iterdir()} if model.folders else set()
