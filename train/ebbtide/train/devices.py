"""Devices of training, through Lightning Fabric: the device, the precision, and the processes that share each batch.

Training is data-parallel: every process holds the whole model and the whole log, and computes its share of the windows
of each batch. Fabric averages the gradients (PyTorch's DistributedDataParallel, over NCCL on GPUs and gloo on CPUs).
Fabric starts the processes by running the same command again, or uses those that torchrun has started.
"""

from __future__ import annotations

import logging
import os
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ebbtide.train.choices import DeviceKind, Precision
from ebbtide.train.errors import DeviceError

# Fabric loads torch's compiler, which takes two seconds: only a training that runs loads it.
if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import Precision as FullPrecision

_AUTOCAST: dict[str, Literal["bf16-mixed", "16-mixed"]] = {"bf16": "bf16-mixed", "fp16": "16-mixed"}

Ints = npt.NDArray[np.int64]


class DeviceConfig(BaseModel):
    """Device, number of processes and precision of training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: DeviceKind = DeviceKind.cpu
    """Where training runs."""
    devices: int = Field(1, ge=1)
    """Processes on each machine: one for each GPU, or several that share the CPU."""
    precision: Precision = Precision.fp32
    """Precision of matrix products."""


class Devices:
    """The processes of one training, as seen by one of them."""

    def __init__(self, config: DeviceConfig | None = None) -> None:
        """Looks for the devices; no process is started yet.

        Args:
            config: None for one process on the CPU in float32.

        Raises:
            DeviceError: There are too few devices, or torchrun has started another number of processes.
        """
        config = config or DeviceConfig()
        self.kind = _kind(config)
        self.precision = config.precision
        machines = _machines(config.devices)
        self.count = config.devices * machines
        """Number of processes on all machines."""
        self._devices, self._machines = config.devices, machines

    @cached_property
    def _precision(self) -> FullPrecision:
        from lightning_fabric.plugins import MixedPrecision
        from lightning_fabric.plugins import Precision as FullPrecision

        autocast = _AUTOCAST.get(self.precision.value)
        return FullPrecision() if autocast is None else MixedPrecision(autocast, device=self.kind)

    @cached_property
    def _fabric(self) -> Fabric:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        # It logs its own details at every start.
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        return Fabric(
            accelerator=self.kind,
            devices=self._devices,
            num_nodes=self._machines,
            # The buffers (the catalog's vectors, the prior) are equal in all processes.
            strategy="auto" if self.count == 1 else DDPStrategy(broadcast_buffers=False),
            plugins=[self._precision, TorchElasticEnvironment() if _torchrun() else LightningEnvironment()],
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that must be equal when a training is resumed."""
        return {"device": self.kind, "devices": self.count, "precision": self.precision.value}

    @property
    def scales_loss(self) -> bool:
        """Whether gradients are scaled. Fabric cannot clip them if the optimiser unscales them itself."""
        return self.precision is Precision.fp16

    @property
    def rank(self) -> int:
        """Index of this process among all processes, from 0."""
        return self._fabric.global_rank

    @property
    def is_first(self) -> bool:
        """Whether this process validates, writes files and reports progress."""
        return self.rank == 0

    def launch(self) -> None:
        """Starts the other processes, which run the same command up to this call, and waits until all are connected."""
        self._fabric.launch()

    def setup(self, module: nn.Module) -> nn.Module:
        """Moves a module to the device and wraps it.

        Its parameters stay the same objects and get the first process's values. Each process waits for the gradients of
        the others, so every parameter must get a gradient in every step.
        """
        with warnings.catch_warnings():
            # torch 2.13 renames broadcast_buffers; older versions do not know the new name.
            warnings.simplefilter("ignore", FutureWarning)
            return self._fabric.setup_module(module)

    def share(self, windows: Ints) -> Ints:
        """The windows of a batch that this process computes; there may be none."""
        return windows[self.rank :: self.count]

    def total(self, *values: float) -> list[float]:
        """Sums over all processes."""
        return list(values) if self.count == 1 else self._sum(torch.tensor(values, dtype=torch.float64)).tolist()

    def told_by_first(self, *values: float) -> list[float]:
        """The first process's values, in all processes. Fabric's broadcast is not used, since it sends a pickle."""
        return self.total(*(values if self.is_first else (0.0,) * len(values)))

    def descend(self, loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        """One optimiser step with the average of all processes' gradients, clipped to a largest norm."""
        optimizer.zero_grad(set_to_none=True)
        self._fabric.backward(loss)
        # Not Fabric's own clipping: it sums squares in the optimiser's order, which changes the last bit of the result.
        self._precision.unscale_gradients(optimizer)
        nn.utils.clip_grad_norm_(module.parameters(), max_norm)
        self._fabric.strategy.optimizer_step(optimizer)

    def seed(self, seed: int) -> None:
        """Gives each process its own random state (dropout, negatives, encoded items); no effect on one process."""
        if self.count > 1:
            torch.manual_seed(int(np.random.SeedSequence((seed, self.rank)).generate_state(1)[0]))

    def generators(self) -> Tensor:
        """The state of torch's generators in every process, uint8 ``[processes, bytes]``."""
        state = torch.get_rng_state()
        if self.kind == "cuda":
            state = torch.cat([state, torch.cuda.get_rng_state(self._fabric.device)])
        states = torch.zeros(self.count, state.shape[0], dtype=torch.int32)
        states[self.rank] = state
        return (states if self.count == 1 else self._sum(states)).to(torch.uint8)

    def restore_generators(self, states: Tensor) -> None:
        """Restores the state from `generators`."""
        size = torch.get_rng_state().shape[0]
        state = states[self.rank].clone()
        torch.set_rng_state(state[:size])
        if self.kind == "cuda":
            torch.cuda.set_rng_state(state[size:], self._fabric.device)

    def _sum(self, mine: Tensor) -> Tensor:
        return cast(Tensor, self._fabric.all_reduce(mine.to(self._fabric.device), reduce_op="sum")).cpu()

    def loss_scale(self) -> dict[str, Any]:
        """The current state of loss scaling; empty except in float16."""
        return self._precision.state_dict()

    def restore_loss_scale(self, state: dict[str, Any]) -> None:
        """Restores the state from `loss_scale`."""
        self._precision.load_state_dict(state)


def _kind(config: DeviceConfig) -> Literal["cpu", "cuda"]:
    """The kind of device that the settings choose.

    Raises:
        DeviceError: There are fewer devices than asked for.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.device is DeviceKind.cpu or (config.device is DeviceKind.auto and not found):
        return "cpu"
    if not found:
        raise DeviceError("device: got 'cuda'; expected 'cpu' or 'auto': PyTorch finds no CUDA device on this machine")
    if config.devices > found:
        raise DeviceError(f"devices: got {config.devices}; expected at most {found}, the CUDA devices of this machine")
    return "cuda"


def _torchrun() -> bool:
    """Whether torchrun has started this process."""
    return torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()


def _machines(devices: int) -> int:
    """Number of machines on which torchrun has started processes; 1 without torchrun."""
    if not _torchrun():
        return 1
    here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if here != devices:
        raise DeviceError(f"devices: got {devices}; expected {here}, the number that torchrun started here")
    return everywhere // here
