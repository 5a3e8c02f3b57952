"""How token vectors become one text vector, from the files that sentence-transformers writes beside a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ebbtide.train.errors import EncoderError

MODULES_FILE = "modules.json"
POOLING_FILE = "1_Pooling/config.json"
_SENTENCE_FILE = "sentence_bert_config.json"
_TOKENIZER_FILE = "tokenizer_config.json"
_DENSE_WEIGHTS = "model.safetensors"
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_DEFAULT_MAX_TOKENS = 512
"""For models without a table of positions, such as T5, whose files say nothing else."""
_LARGEST_MAX_TOKENS = 1 << 20
"""`model_max_length` is a number with 30 digits where the tokenizer has no limit."""
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid, nn.SiLU)
}


@dataclass(frozen=True)
class DenseSettings:
    """A dense layer behind the pooling."""

    folder: str
    """Relative to the encoder's."""
    in_features: int
    out_features: int
    bias: bool
    activation: str
    """A key of `_ACTIVATIONS`."""

    @property
    def weights_file(self) -> str:
        """Relative to the encoder's folder."""
        return f"{self.folder}/{_DENSE_WEIGHTS}"

    def load(self, encoder: Path) -> Dense:
        """The layer with its weights.

        Raises:
            EncoderError: The file of the weights is missing, damaged or has other shapes.
        """
        path = encoder / self.weights_file
        layer = Dense(self)
        try:
            layer.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise EncoderError(
                f"encoder: {path}: got {' '.join(str(error).split())}; expected safetensors weights of "
                f"{self.in_features} to {self.out_features} numbers"
            ) from error
        return layer


class Dense(nn.Module):
    """A linear layer and its activation, with the names of tensors that sentence-transformers gives them."""

    def __init__(self, settings: DenseSettings) -> None:
        super().__init__()
        self.linear = nn.Linear(settings.in_features, settings.out_features, bias=settings.bias)
        self.activation = _ACTIVATIONS[settings.activation]()

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """``[texts, out_features]`` from ``[texts, in_features]``."""
        result: torch.Tensor = self.activation(self.linear(vectors))
        return result


@dataclass(frozen=True)
class EncoderSettings:
    """How token vectors become one text vector."""

    pooling: str
    """``mean`` or ``cls``."""
    normalise: bool
    """Whether text vectors have length 1."""
    max_tokens: int
    """Texts are truncated to this many tokens."""
    dense: tuple[DenseSettings, ...] = ()
    """Layers between pooling and normalising."""
    pooling_file: str = POOLING_FILE

    @property
    def more_files(self) -> list[str]:
        """Files that determine text vectors beside those that every encoder has, sorted."""
        pooling = [] if self.pooling_file == POOLING_FILE else [self.pooling_file]
        return sorted([*pooling, *(f"{one.folder}/config.json" for one in self.dense), *self.dense_weights])

    @property
    def dense_weights(self) -> list[str]:
        """The files of the dense layers' weights, in their order."""
        return [one.weights_file for one in self.dense]

    def within(self, positions: int | None) -> EncoderSettings:
        """The settings of a model with so many positions; None where they are not limited."""
        return self if positions is None else replace(self, max_tokens=min(self.max_tokens, positions))

    @classmethod
    def read(cls, folder: Path) -> EncoderSettings:
        """Reads the settings; a folder without them gets mean pooling and normalised vectors.

        Raises:
            EncoderError: A file is damaged, or it names a module or a pooling that is not applied here.
        """
        normalise, dense, pooling_file = True, [], POOLING_FILE
        modules = _modules(folder / MODULES_FILE)
        if modules is not None:
            kinds = [kind for kind, _ in modules]
            _require_known(folder / MODULES_FILE, kinds)
            normalise = "Normalize" in kinds
            pooling_file = f"{modules[1][1]}/config.json"
            dense = [_dense(folder, path) for kind, path in modules if kind == "Dense"]
        return cls(_pooling(folder / pooling_file), normalise, _max_tokens(folder), tuple(dense), pooling_file)


def _require_known(path: Path, kinds: Sequence[str]) -> None:
    """Refuses modules that are not applied: leaving one out would give other vectors, and no error."""
    expected = "Transformer, Pooling, then any of Dense, then Normalize or nothing"
    behind = list(kinds[2:])
    if behind[-1:] == ["Normalize"]:
        behind.pop()
    if list(kinds[:2]) != ["Transformer", "Pooling"] or set(behind) - {"Dense"}:
        raise EncoderError(f"encoder: {path}: got the modules {', '.join(kinds) or 'none'}; expected {expected}")


def _dense(folder: Path, path: str) -> DenseSettings:
    file = folder / path / "config.json"
    config = _object(file)
    if config is None:
        raise EncoderError(f"encoder: {file}: got no such file; expected the settings of a Dense module")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
    if activation not in _ACTIVATIONS:
        raise EncoderError(f"encoder: {file}: got activation {activation}; expected one of {', '.join(_ACTIVATIONS)}")
    sizes = [size for size in (config.get("in_features"), config.get("out_features")) if isinstance(size, int)]
    if len(sizes) != 2 or min(sizes) < 1:
        raise EncoderError(f"encoder: {file}: got other sizes; expected in_features and out_features above 0")
    return DenseSettings(path, sizes[0], sizes[1], bool(config.get("bias", True)), activation)


def _pooling(path: Path) -> str:
    modes = _object(path)
    if modes is None:
        return "mean"
    chosen = sorted(name for name, value in modes.items() if name.startswith("pooling_mode_") and value)
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        shown = ", ".join(name.removeprefix("pooling_mode_") for name in chosen) or "none"
        raise EncoderError(f"encoder: {path}: got the pooling {shown}; expected mean_tokens or cls_token")
    return _POOLINGS[chosen[0]]


def _max_tokens(folder: Path) -> int:
    """The limit that the files state; `EncoderSettings.within` adds that of the model's positions."""
    stated = [
        (_object(folder / _SENTENCE_FILE) or {}).get("max_seq_length"),
        (_object(folder / "config.json") or {}).get("max_position_embeddings"),
        (_object(folder / _TOKENIZER_FILE) or {}).get("model_max_length"),
    ]
    usable = [int(one) for one in stated if isinstance(one, int | float) and 0 < one <= _LARGEST_MAX_TOKENS]
    return usable[0] if usable else _DEFAULT_MAX_TOKENS


def _object(path: Path) -> dict[str, Any] | None:
    """The JSON object of a file; None where there is no such file."""
    content = _json(path)
    if content is None or isinstance(content, dict):
        return content
    raise EncoderError(f"encoder: {path}: got a {type(content).__name__}; expected a JSON object")


def _modules(path: Path) -> list[tuple[str, str]] | None:
    """Kind and folder of each module; None where there is no such file."""
    content = _json(path)
    if content is None:
        return None
    entries: list[Any] = content if isinstance(content, list) else [content]
    if not all(isinstance(one, dict) and {"type", "path"} <= one.keys() for one in entries):
        raise EncoderError(f"encoder: {path}: got other content; expected a list of modules with `type` and `path`")
    return [(str(one["type"]).rsplit(".", 1)[-1], str(one["path"])) for one in entries]


def _json(path: Path) -> object:
    if not path.is_file():
        return None
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EncoderError(f"encoder: {path}: got a damaged file; expected JSON: {error}") from error
    return content
