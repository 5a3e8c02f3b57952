"""Machines that an export is served on: the number of instances of each model, their device and their threads.

The contract states each model's share of the cores (`Model.core_share`): half of them run the encoder, a quarter the
scoring head, a quarter `adaptive_weights`. Requests with texts spend most of their time in the encoder, so each of the
other models gets an eighth. More threads than cores would slow all sessions down, and tail latency most.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from ebbtide.export.errors import ServingOptionsError
from ebbtide.interest.served_models import Kind, Model

Device = Literal["cpu", "gpu"]

_WRITTEN = re.compile(r"(?P<device>cpu|gpu)(:(?P<count>\d{1,4}))?")
_CORES_PER_GPU = 8
"""CPU cores per GPU that Python models may use; a typical number for rented machines."""


@dataclass(frozen=True)
class Placement:
    """Where the instances of one model run."""

    device: Device
    instances: int
    """Number of instances; on GPUs, on each GPU."""
    threads: int
    """Threads of one run; a Python model computes with one thread."""
    gpus: tuple[int, ...] = ()
    """Indices of the GPUs; empty on the CPU."""


@dataclass(frozen=True)
class Machine:
    """A machine to serve on: its device and number of cores or GPUs."""

    device: Device
    count: int
    """Number of cores or of GPUs."""

    def __post_init__(self) -> None:
        """Checks the count.

        Raises:
            ServingOptionsError: The count is below 1.
        """
        if self.count < 1:
            raise ServingOptionsError(f"machine: got {self.name!r}; expected at least 1 core or GPU: cpu:8, gpu:1")

    @classmethod
    def parse(cls, text: str) -> Machine:
        """Parses ``cpu:8`` or ``gpu:1``; ``cpu`` without a count is `here`, ``gpu`` without a count is one GPU.

        Raises:
            ServingOptionsError: The text has another form.
        """
        match = _WRITTEN.fullmatch(text.strip().lower())
        if match is None:
            raise ServingOptionsError(
                f"machine: got {text!r}; expected cpu, cpu:CORES, gpu or gpu:GPUS, such as cpu:8 or gpu:1"
            )
        if match["count"] is not None:
            return cls("gpu" if match["device"] == "gpu" else "cpu", int(match["count"]))
        return cls("gpu", 1) if match["device"] == "gpu" else cls.here()

    @classmethod
    def here(cls) -> Machine:
        """The CPU cores that this process may use."""
        return cls("cpu", len(os.sched_getaffinity(0)))

    @property
    def name(self) -> str:
        """Name of the machine's configs, for Triton's ``--model-config-name``."""
        return f"{self.device}-{self.count}"

    @property
    def cores(self) -> int:
        """Cores that the models share."""
        return self.count if self.device == "cpu" else self.count * _CORES_PER_GPU

    def placement(self, model: Model) -> Placement:
        """Where a model runs; not for ensembles."""
        if self.device == "gpu" and model.kind is Kind.ONNX:
            # Few operators of the graph run on the CPU (string ids, for example), so one thread is enough.
            return Placement("gpu", instances=1, threads=1, gpus=tuple(range(self.count)))
        cores = max(1, int(self.cores * model.core_share))
        if model.batches_texts:
            return Placement("cpu", instances=1, threads=cores)
        # p99 of the scoring head (one matrix product and a top-N) was 1.5 ms with one thread, 3 to 4 ms with two.
        return Placement("cpu", instances=cores, threads=1)
