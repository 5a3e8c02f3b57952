"""Choices that change how an export is served and none of its answers: what its configs say beside the tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ebbtide.export.errors import ServingOptionsError
from ebbtide.export.targets import Target
from ebbtide.export.tuned_settings import TunedSettings
from ebbtide.interest import contract
from ebbtide.interest.contract import Kind

Accelerator = Literal["cuda", "tensorrt"]
"""Execution accelerators of NVIDIA's ONNX Runtime backend."""


@dataclass(frozen=True)
class ServingOptions:
    """What the configs of a repository say beside the tensors."""

    targets: tuple[Target, ...] = field(default_factory=lambda: (Target.here(),))
    """Machines: the first is served unless told otherwise, each further one by ``--model-config-name``."""
    accelerator: Accelerator | None = None
    """For the GPU targets; None leaves the choice to ONNX Runtime: CUDA with its defaults."""
    max_queue_size: int = 0
    """Requests that may wait for a model before the next is refused; 0 for no bound."""
    queue_timeout_ms: int = 0
    """How long a request may wait for a model before it is refused; 0 for no limit."""
    response_cache: bool = False
    """Whether answers to equal requests may come from the server's cache."""
    rate_limiter: bool = False
    """Whether instances state the cores that they take."""
    sweep: bool = False
    """Whether batch sizes are measured on this machine and the good ones preferred."""
    tuned: tuple[TunedSettings, ...] = ()
    """What was found by measuring, for the first target; the rest follows from the machine."""

    def __post_init__(self) -> None:
        """Refuses what does not go together.

        Raises:
            ServingOptionsError: Naming the option.
        """
        names = [target.name for target in self.targets]
        if not names or len(set(names)) != len(names):
            raise ServingOptionsError(f"targets: got {names}; expected at least one, and none twice")
        devices = {target.device for target in self.targets}
        if self.accelerator is not None:
            if self.accelerator not in get_args(Accelerator):
                raise ServingOptionsError(
                    f"accelerator: got {self.accelerator!r}; expected one of {', '.join(get_args(Accelerator))}"
                )
            if "gpu" not in devices:
                raise ServingOptionsError(f"accelerator: got targets {names}; expected a GPU among them: gpu:1")
        for option in ("max_queue_size", "queue_timeout_ms"):
            if getattr(self, option) < 0:
                raise ServingOptionsError(f"{option}: got {getattr(self, option)}; expected 0 for none, or more")
        if self.rate_limiter and "cpu" not in devices:
            raise ServingOptionsError(f"rate_limiter: got targets {names}; expected a CPU, whose cores it shares out")
        if self.sweep and self.targets[0].device != "cpu":
            raise ServingOptionsError(
                f"sweep: got {names[0]} as the first target; expected a CPU: batch sizes are measured on this machine"
            )
        self._check_tuned()

    def _check_tuned(self) -> None:
        known = [model.name for model in contract.MODELS.values() if model.kind is not Kind.ENSEMBLE]
        models = [one.model for one in self.tuned]
        for name in models:
            if name not in known:
                raise ServingOptionsError(f"tuned: got {name!r}; expected one of {', '.join(known)}")
            if models.count(name) > 1:
                raise ServingOptionsError(f"tuned: got {name!r} twice; expected each model once")
        if self.tuned and self.targets[0].device != "cpu":
            raise ServingOptionsError(
                f"tuned: got {self.targets[0].name} as the first target; expected a CPU, which `ebbtide tune` measures"
            )
        if self.sweep and any(one.preferred_batch_sizes is not None for one in self.tuned):
            raise ServingOptionsError("sweep: got preferred sizes in tuned as well; expected one of them")
