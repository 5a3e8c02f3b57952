"""Serving options of an export. They change the configs but no answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from ebbtide.export.choices import Accelerator
from ebbtide.export.errors import ServingOptionsError
from ebbtide.export.machines import Machine
from ebbtide.export.tuned_settings import TunedSettings
from ebbtide.interest import served_models
from ebbtide.interest.served_models import Kind


@dataclass(frozen=True)
class ServingOptions:
    """Serving options, which the configs of a repository hold."""

    machines: tuple[Machine, ...] = field(default_factory=lambda: (Machine.here(),))
    """Machines to serve on: the first is the default, each other one is selected with ``--model-config-name``."""
    accelerator: Accelerator | None = None
    """Accelerator of the GPU machines; None for ONNX Runtime's default, which is CUDA with default settings."""
    max_queue_size: int = 0
    """Largest number of requests in a model's queue; further ones are refused. 0 for no limit."""
    queue_timeout_ms: int = 0
    """Longest time in a model's queue; then the request is refused. 0 for no limit."""
    response_cache: bool = False
    """Whether the server caches answers to equal requests."""
    rate_limiter: bool = False
    """Whether instances state the cores that they use, for Triton's rate limiter."""
    sweep: bool = False
    """Whether to measure batch sizes on this machine and set the good ones as preferred."""
    tuned: tuple[TunedSettings, ...] = ()
    """Tuned settings for the first machine; its other settings follow from its cores."""

    def __post_init__(self) -> None:
        """Checks that the options are valid together.

        Raises:
            ServingOptionsError: An option is invalid; the message names it.
        """
        names = [machine.name for machine in self.machines]
        if not names or len(set(names)) != len(names):
            raise ServingOptionsError(f"machines: got {names}; expected at least one machine, and each once")
        devices = {machine.device for machine in self.machines}
        if self.accelerator is not None:
            if self.accelerator not in get_args(Accelerator):
                raise ServingOptionsError(
                    f"accelerator: got {self.accelerator!r}; expected one of {', '.join(get_args(Accelerator))}"
                )
            if "gpu" not in devices:
                raise ServingOptionsError(f"accelerator: got {names}; expected a GPU machine among them, such as gpu:1")
        for option in ("max_queue_size", "queue_timeout_ms"):
            if getattr(self, option) < 0:
                raise ServingOptionsError(f"{option}: got {getattr(self, option)}; expected 0 for no limit, or more")
        if self.rate_limiter and "cpu" not in devices:
            raise ServingOptionsError(
                f"rate_limiter: got {names}; expected a CPU machine among them, whose cores the rate limiter counts"
            )
        if self.sweep and self.machines[0].device != "cpu":
            raise ServingOptionsError(
                f"sweep: got {names[0]} as the first machine; expected a CPU: batch sizes are measured on this machine"
            )
        self._check_tuned(names)

    def _check_tuned(self, machines: list[str]) -> None:
        known = [model.name for model in served_models.MODELS.values() if model.kind is not Kind.ENSEMBLE]
        models = [one.model for one in self.tuned]
        for name in models:
            if name not in known:
                raise ServingOptionsError(f"tuned: got {name!r}; expected one of {', '.join(known)}")
            if models.count(name) > 1:
                raise ServingOptionsError(f"tuned: got {name!r} twice; expected each model once")
        if self.tuned and self.machines[0].device != "cpu":
            raise ServingOptionsError(
                f"tuned: got {machines[0]} as the first machine; expected a CPU, which `ebbtide tune` measures"
            )
        if self.sweep and any(one.preferred_batch_sizes is not None for one in self.tuned):
            raise ServingOptionsError("sweep: got preferred batch sizes in tuned too; expected only one of the two")
