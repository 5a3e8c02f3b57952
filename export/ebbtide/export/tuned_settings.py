"""Tuned settings of one model (instances, threads, batching): parsing, formatting, and reading from and into configs.

`ebbtide tune` finds tuned settings and ``ebbtide export --tuned`` uses them. They do not change any answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ebbtide.export.errors import ServingOptionsError
from ebbtide.interest.served_models import Kind

_THREADS = "intra_op_thread_count"
_WRITTEN = re.compile(r"(?P<model>\w+):(?P<settings>.+)")
_NUMBER = re.compile(r"\d{1,7}")
_NO_SIZES = "none"


@dataclass(frozen=True)
class TunedSettings:
    """Tuned settings of one model; None keeps the setting of the config."""

    model: str
    instances: int | None = None
    """Number of instances."""
    threads: int | None = None
    """Threads of one run; only for ONNX models."""
    queue_delay_us: int | None = None
    """Longest time that a request waits for others to form a batch; only for models with dynamic batching."""
    preferred_batch_sizes: tuple[int, ...] | None = None
    """Batch sizes that end this wait; empty for none."""

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ServingOptionsError: A number is too small; the message names the model and the number.
        """
        for name, least in (("instances", 1), ("threads", 1), ("queue_delay_us", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ServingOptionsError(f"tuned {self.model}: {name}: got {value}; expected at least {least}")
        if any(size < 1 for size in self.preferred_batch_sizes or ()):
            raise ServingOptionsError(
                f"tuned {self.model}: preferred: got {self.preferred_batch_sizes}; expected sizes of at least 1"
            )

    @classmethod
    def parse(cls, text: str) -> TunedSettings:
        """Parses ``scoring_head:instances=2,threads=1,queue_delay_us=500,preferred=8+32``; each setting is optional.

        Raises:
            ServingOptionsError: The text has another form.
        """
        refusal = ServingOptionsError(
            f"tuned: got {text!r}; expected MODEL:SETTING=NUMBER,... of instances, threads, queue_delay_us and "
            "preferred, such as scoring_head:instances=2,threads=1,queue_delay_us=500,preferred=8+32"
        )
        match = _WRITTEN.fullmatch(text.strip())
        if match is None:
            raise refusal
        given: dict[str, Any] = {}
        for setting in match["settings"].split(","):
            name, _, value = setting.strip().partition("=")
            if name in given:
                raise refusal
            if name == "preferred":
                sizes = [] if value == _NO_SIZES else value.split("+")
                if not all(_NUMBER.fullmatch(size) for size in sizes):
                    raise refusal
                given[name] = tuple(int(size) for size in sizes)
            elif name in ("instances", "threads", "queue_delay_us") and _NUMBER.fullmatch(value):
                given[name] = int(value)
            else:
                raise refusal
        preferred = given.pop("preferred", None)
        return cls(match["model"], **given, preferred_batch_sizes=preferred)

    @classmethod
    def read(cls, config: Any) -> TunedSettings:  # noqa: ANN401 - tritonclient carries no types
        """Reads the settings from a model's config.

        Args:
            config: Triton's `ModelConfig`; not of an ensemble.
        """
        batches = config.HasField("dynamic_batching")
        return cls(
            model=config.name,
            instances=sum(group.count for group in config.instance_group) or 1,
            threads=int(config.parameters[_THREADS].string_value or 1) if _is_onnx(config) else None,
            queue_delay_us=int(config.dynamic_batching.max_queue_delay_microseconds) if batches else None,
            preferred_batch_sizes=tuple(config.dynamic_batching.preferred_batch_size) if batches else None,
        )

    def apply(self, config: Any) -> None:  # noqa: ANN401 - tritonclient carries no types
        """Writes the settings into a model's config.

        Args:
            config: Triton's `ModelConfig`; it is changed in place.

        Raises:
            ServingOptionsError: The model does not support a setting.
        """
        if len(config.instance_group) != 1:
            raise ServingOptionsError(
                f"tuned {self.model}: got a config with {len(config.instance_group)} instance groups; expected one"
            )
        (group,) = config.instance_group
        if self.instances is not None:
            group.count = self.instances
        if self.threads is not None:
            if not _is_onnx(config):
                raise ServingOptionsError(f"tuned {self.model}: threads: got a model that is not ONNX; expected none")
            config.parameters[_THREADS].string_value = str(self.threads)
            for resource in group.rate_limiter.resources:
                resource.count = self.threads
        if self.queue_delay_us is None and self.preferred_batch_sizes is None:
            return
        if not config.HasField("dynamic_batching"):
            raise ServingOptionsError(
                f"tuned {self.model}: queue_delay_us, preferred: got a model that does not batch; expected neither"
            )
        if self.queue_delay_us is not None:
            config.dynamic_batching.max_queue_delay_microseconds = self.queue_delay_us
        if self.preferred_batch_sizes is not None:
            largest = max(self.preferred_batch_sizes, default=0)
            if largest > config.max_batch_size:
                raise ServingOptionsError(
                    f"tuned {self.model}: preferred: got {largest}; expected at most {config.max_batch_size}, "
                    "the model's max_batch_size"
                )
            config.dynamic_batching.preferred_batch_size[:] = self.preferred_batch_sizes

    def __str__(self) -> str:
        settings = [
            f"{name}={value}"
            for name, value in (
                ("instances", self.instances),
                ("threads", self.threads),
                ("queue_delay_us", self.queue_delay_us),
            )
            if value is not None
        ]
        if self.preferred_batch_sizes is not None:
            settings.append(f"preferred={'+'.join(map(str, self.preferred_batch_sizes)) or _NO_SIZES}")
        return f"{self.model}:{','.join(settings)}"


def _is_onnx(config: Any) -> bool:  # noqa: ANN401 - tritonclient carries no types
    return bool(config.backend == Kind.ONNX.value)
