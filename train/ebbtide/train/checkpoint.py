"""Checkpoints of a training: all state that a killed training needs to resume with the same result.

``checkpoint.json`` holds the progress, the settings, a hash of the data, and the name of the ``state-N.safetensors``
file in the same folder. That file holds the tensors: parameters, the best parameters so far, the optimiser's moments
and the states of torch's random generators. The tensors are written first, then the JSON file is replaced in one step,
so a kill at any time leaves a complete checkpoint.
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
from ebbtide.train.files import default_mode, writing
from ebbtide.train.progress import Tried

FORMAT = 6
CONFIG_FILE = "checkpoint.json"
_STATES = "state-*.safetensors"


class Identity(BaseModel):
    """Settings and data of a checkpoint. They must be equal when training resumes."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    settings: dict[str, Any]
    """Settings of the model, of training and of the devices."""
    data: str
    """SHA-256 of the training events and the catalog's text vectors."""


class Progress(BaseModel):
    """Progress of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    phase: Literal["train", "refit"]
    """``train`` with validation, then ``refit`` on all events."""
    batches: int
    """Batches done in the current epoch; 0 between two epochs."""
    loss_sum: float
    """Sum of the loss over the baskets of the current epoch so far."""
    alpha_sum: float
    """Sum of alpha over the baskets of the current epoch so far."""
    baskets: int
    """Number of baskets of the current epoch so far."""
    random_state: dict[str, Any]
    """State of NumPy's generator before the windows of the current epoch were drawn."""
    loss_scale: dict[str, Any]
    """State of loss scaling in float16; empty in other precisions."""
    tried: Tried
    """The start of the running training, as of its last validation; with ``refit`` the one that was chosen."""
    earlier: list[Tried]
    """The starts tried before it."""
    refit_epochs: int
    """Number of epochs done in phase ``refit``."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    format: int
    state: str
    identity: Identity
    progress: Progress


@dataclass(frozen=True)
class Checkpoint:
    """State from which a training resumes."""

    progress: Progress
    tensors: dict[str, Tensor]


class CheckpointFolder:
    """A folder that keeps the newest checkpoint of one training."""

    def __init__(self, folder: Path, *, resume: bool = False, every_batches: int = 1000) -> None:
        """Sets the folder; nothing is read or written yet.

        Args:
            folder: Created if it is missing.
            resume: Whether to resume from the checkpoint in the folder; training starts anew if there is none.
            every_batches: Number of batches between checkpoints within an epoch.
        """
        self.folder = folder
        self.resume = resume
        self.every_batches = every_batches
        self._identity: Identity | None = None
        self._saved = 0

    def begin(self, identity: Identity) -> Checkpoint | None:
        """Opens the folder for a training and returns its checkpoint, or None if there is none.

        Raises:
            CheckpointError: A checkpoint exists and `resume` is off, or it is damaged or belongs to another training.
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
            raise CheckpointError(f"{self.folder}: damaged checkpoint, delete it to start again: {error}") from error
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
        with writing(self.folder):
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
        """Removes the checkpoint; call this after the training's result is saved."""
        (self.folder / CONFIG_FILE).unlink(missing_ok=True)
        for pattern in (_STATES, "*.partial"):
            for file in self.folder.glob(pattern):
                file.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _refuse_other(self, found: Identity, wanted: Identity) -> None:
        # The conversion through JSON turns tuples into lists, as in the file.
        ours = Identity.model_validate_json(wanted.model_dump_json()).settings
        differing = sorted(name for name in ours.keys() | found.settings if ours.get(name) != found.settings.get(name))
        if differing:
            name = differing[0]
            raise CheckpointError(
                f"{self.folder}: {name}: got {ours.get(name)!r}; expected {found.settings.get(name)!r}, as in the "
                "checkpoint: use the same settings, or choose another folder"
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
    """Restores the tensors from `optimizer_tensors`; the parameter groups do not change."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _flush(path: Path) -> None:
    """Waits until a file is on the disk, so that a crash does not leave an empty file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
