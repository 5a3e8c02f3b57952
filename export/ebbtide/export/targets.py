"""The machine that an export is for, and what follows from it: instances of each model, their kind and their threads.

The contract states each model's share of the cores (`Model.core_share`): half of them run the encoder, a quarter the
scoring head, a quarter `adaptive_weights`; requests with texts spend their time in the encoder, so the models around it
get an eighth. With more threads than cores the sessions would slow each other down, the slowest answers most.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from ebbtide.export.errors import ServingOptionsError
from ebbtide.interest.contract import Kind, Model

Device = Literal["cpu", "gpu"]

_WRITTEN = re.compile(r"(?P<device>cpu|gpu)(:(?P<count>\d{1,4}))?")
_CORES_PER_GPU = 8
"""Cores that come with a GPU in rented machines, about: what the Python models may count on."""


@dataclass(frozen=True)
class Placement:
    """Where the instances of one model run."""

    device: Device
    instances: int
    """Instances; on GPUs, on each of them."""
    threads: int
    """Threads, and so cores, of one run; Python models compute on one."""
    gpus: tuple[int, ...] = ()
    """Indices of the GPUs; empty on the CPU."""


@dataclass(frozen=True)
class Target:
    """A machine, by what computes on it."""

    device: Device
    count: int
    """Cores, or GPUs."""

    def __post_init__(self) -> None:
        """Refuses a machine with nothing to compute on.

        Raises:
            ServingOptionsError: Naming the count.
        """
        if self.count < 1:
            raise ServingOptionsError(f"target: got {self.name!r}; expected at least 1 core or GPU: cpu:8, gpu:1")

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads ``cpu:8`` or ``gpu:1``; ``cpu`` alone is `here`, ``gpu`` alone one GPU.

        Raises:
            ServingOptionsError: It is neither.
        """
        match = _WRITTEN.fullmatch(text.strip().lower())
        if match is None:
            raise ServingOptionsError(
                f"target: got {text!r}; expected cpu, cpu:CORES, gpu or gpu:GPUS, such as cpu:8 or gpu:1"
            )
        if match["count"] is not None:
            return cls("gpu" if match["device"] == "gpu" else "cpu", int(match["count"]))
        return cls("gpu", 1) if match["device"] == "gpu" else cls.here()

    @classmethod
    def here(cls) -> Target:
        """The cores that this process may use."""
        return cls("cpu", len(os.sched_getaffinity(0)))

    @property
    def name(self) -> str:
        """The name of its configs, for Triton's ``--model-config-name``."""
        return f"{self.device}-{self.count}"

    @property
    def cores(self) -> int:
        """Cores to share out."""
        return self.count if self.device == "cpu" else self.count * _CORES_PER_GPU

    def placement(self, model: Model) -> Placement:
        """Where a model runs; for every model but the ensembles."""
        if self.device == "gpu" and model.kind is Kind.ONNX:
            # What stays on the CPU beside a GPU is little: string ids, for one.
            return Placement("gpu", instances=1, threads=1, gpus=tuple(range(self.count)))
        cores = max(1, int(self.cores * model.core_share))
        if model.batches_texts:
            return Placement("cpu", instances=1, threads=cores)
        # For the scoring head, one matrix product and a top-N, p99 was 1.5 ms with one thread, 3 to 4 ms with two.
        return Placement("cpu", instances=cores, threads=1)
