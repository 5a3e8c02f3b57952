"""Checkpoints of a fit: everything that a killed fit needs to resume with the same result.

``checkpoint.json`` says how far the fit was, of which data and settings, and names the ``state-N.safetensors`` beside
it with the tensors: parameters, the best ones so far, the optimiser's moments, torch's generators. The tensors are
written first and the JSON replaces the old one at once, so a kill at any time leaves a complete checkpoint.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ebbtide.train.errors import CheckpointError
from ebbtide.train.files import default_mode
from ebbtide.train.progress import Epoch

FORMAT = 3
CONFIG_FILE = "checkpoint.json"
_STATES = "state-*.safetensors"


class Identity(BaseModel):
    """What a checkpoint belongs to: going on with anything else would give a bundle of neither."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    settings: dict[str, Any]
    """Of the model, of training, and of the devices."""
    data: str
    """SHA-256 of the training events and the catalog's text vectors."""


class Progress(BaseModel):
    """How far a fit is."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    phase: Literal["train", "refit"]
    batches: int
    """Done in the running epoch; 0 between two epochs."""
    loss_sum: float
    """Over the baskets of the running epoch so far."""
    alpha_sum: float
    baskets: int
    random_state: dict[str, Any]
    """NumPy's generator as it was before the windows of the running epoch were drawn."""
    loss_scale: dict[str, Any]
    """Of float16; empty in other precisions."""
    epochs: list[Epoch]
    """Those done with validation."""
    refit_epochs: int
    """Done of the final fit on all events."""
    best_epoch: int
    """0 before the first validation."""
    best_ndcg_at_10: float
    best_repeat_offset: float


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    format: int
    state: str
    identity: Identity
    progress: Progress


@dataclass(frozen=True)
class Checkpoint:
    """A point to go on from."""

    progress: Progress
    tensors: dict[str, Tensor]


class CheckpointFolder:
    """Where the checkpoints of one fit are kept, the newest only."""

    def __init__(self, folder: Path, *, resume: bool = False, every_batches: int = 1000) -> None:
        """Names a folder; nothing is read or written yet.

        Args:
            folder: Made when it is missing.
            resume: Go on from the checkpoint there; without one, start.
            every_batches: Also within an epoch, after so many batches.
        """
        self.folder = folder
        self.resume = resume
        self.every_batches = every_batches
        self._identity: Identity | None = None
        self._saved = 0

    def begin(self, identity: Identity) -> Checkpoint | None:
        """Opens the folder for a fit; its checkpoint, where there is one to go on from.

        Raises:
            CheckpointError: A checkpoint lies there and `resume` is off, or it is damaged or belongs to another fit.
        """
        self._identity = identity
        file = self.folder / CONFIG_FILE
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            return None
        if not self.resume:
            raise CheckpointError(
                f"{self.folder}: holds the checkpoint of an unfinished training; go on from it with --resume, or "
                "choose another folder"
            )
        try:
            found = _File.model_validate_json(file.read_text(encoding="utf-8"))
            tensors = load_file(self.folder / found.state)
        except (ValidationError, SafetensorError, FileNotFoundError) as error:
            raise CheckpointError(
                f"{self.folder}: not a sound checkpoint, delete it to start again: {error}"
            ) from error
        if found.format != FORMAT:
            raise CheckpointError(f"{file}: format: got {found.format}; expected {FORMAT}: start again")
        self._refuse_other(found.identity, identity)
        self._saved = int(found.state.removeprefix("state-").removesuffix(".safetensors"))
        return Checkpoint(found.progress, tensors)

    def save(self, progress: Progress, tensors: dict[str, Tensor]) -> None:
        """Replaces the checkpoint."""
        if self._identity is None:
            raise CheckpointError(f"{self.folder}: save before begin")
        self._saved += 1
        state = self.folder / f"state-{self._saved}.safetensors"
        partial = state.with_suffix(".partial")
        with default_mode(partial):
            save_file({name: value.contiguous() for name, value in tensors.items()}, partial)
        _flush(partial)
        partial.replace(state)
        content = _File(format=FORMAT, state=state.name, identity=self._identity, progress=progress)
        file = self.folder / CONFIG_FILE
        partial = file.with_suffix(".partial")
        partial.write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")
        _flush(partial)
        partial.replace(file)
        for other in self.folder.glob(_STATES):
            if other != state:
                other.unlink()

    def clear(self) -> None:
        """Removes the checkpoint, once what it led to is safe."""
        (self.folder / CONFIG_FILE).unlink(missing_ok=True)
        for pattern in (_STATES, "*.partial"):
            for file in self.folder.glob(pattern):
                file.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _refuse_other(self, found: Identity, wanted: Identity) -> None:
        # Through JSON, so that tuples are lists on both sides.
        ours = Identity.model_validate_json(wanted.model_dump_json()).settings
        differing = sorted(name for name in ours.keys() | found.settings if ours.get(name) != found.settings.get(name))
        if differing:
            name = differing[0]
            raise CheckpointError(
                f"{self.folder}: {name}: got {ours.get(name)!r}; expected {found.settings.get(name)!r}, as in the "
                "training that this checkpoint is of"
            )
        if found.data != wanted.data:
            raise CheckpointError(
                f"{self.folder}: events, catalog or encoder have changed since this checkpoint; start again in another "
                "folder"
            )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments, named ``index.key`` by the index of the parameter."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, values in state.items() for key, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave; the groups stay as they were made."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _flush(path: Path) -> None:
    """Waits until a file is on the disk, so that no crash leaves a name without its content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
