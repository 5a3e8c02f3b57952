"""Rules about the config of one ensemble: its steps, and the tensors that connect them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from ebbtide.check import backends
from ebbtide.check.findings import Finding
from ebbtide.check.textproto import Key, Path
from ebbtide.check.view import View

STEPS: Path = ("ensemble_scheduling", "step")


def check(view: View) -> Iterator[Finding]:
    """Checks an ensemble without looking at the models of its steps."""
    scheduled = view.config.HasField("ensemble_scheduling")
    if scheduled != view.is_ensemble:
        if scheduled:
            message = f"got `ensemble_scheduling` with platform {view.config.platform!r}; expected 'ensemble'"
            hint = 'write `platform: "ensemble"` without `backend`, or remove `ensemble_scheduling`'
            yield view.finding("ensemble-scheduling", ("ensemble_scheduling",), message, hint)
        elif view.config.platform == backends.ENSEMBLE:
            message = "got platform 'ensemble' without `ensemble_scheduling`; expected both"
            hint = "write `ensemble_scheduling` with at least one step"
            yield view.finding("ensemble-scheduling", ("platform",), message, hint)
        return
    if not scheduled:
        return
    for name in ("instance_group", "optimization", "model_warmup"):
        if view.source.index.has((name,)):
            yield view.finding(
                "ensemble-field",
                (name,),
                f"got `{name}` on an ensemble; expected it on the models of its steps",
                "move it to the configs of these models",
            )
    if not view.config.ensemble_scheduling.step:
        yield view.finding(
            "ensemble-no-steps", ("ensemble_scheduling",), "got no steps; expected at least one", "write a `step`"
        )
        return
    incomplete = list(_incomplete_steps(view))
    yield from incomplete
    # Without the maps, every tensor would be reported as unused or unwritten as well.
    if not any(finding.rule == "ensemble-step-maps" for finding in incomplete):
        yield from _flow(view)


def _incomplete_steps(view: View) -> Iterator[Finding]:
    for index, step in enumerate(view.config.ensemble_scheduling.step):
        location = (*STEPS, index)
        if not step.model_name:
            yield view.finding(
                "ensemble-step-model", location, "got no `model_name`; expected a name", "write `model_name`"
            )
        for name, entries in (("input_map", step.input_map), ("output_map", step.output_map)):
            if not entries:
                yield view.finding(
                    "ensemble-step-maps",
                    location,
                    f"got no `{name}` in step {index} ({step.model_name or 'no model'}); expected at least one entry",
                    f"write `{name}` with the model's tensor as key and the ensemble's tensor as value",
                )


@dataclass
class _Tensor:
    """One tensor of the ensemble."""

    writers: list[Path] = field(default_factory=list)
    readers: list[Path] = field(default_factory=list)


def _flow(view: View) -> Iterator[Finding]:
    config = view.config
    tensors: dict[str, _Tensor] = defaultdict(_Tensor)
    for index, step in enumerate(config.ensemble_scheduling.step):
        for key, name in step.input_map.items():
            tensors[name].readers.append((*STEPS, index, "input_map", Key(key)))
        for key, name in step.output_map.items():
            tensors[name].writers.append((*STEPS, index, "output_map", Key(key)))
    inputs = {tensor.name: index for index, tensor in enumerate(config.input)}
    outputs = {tensor.name: index for index, tensor in enumerate(config.output)}
    for name, index in inputs.items():
        if name and name not in tensors:
            yield view.finding(
                "ensemble-input-unused",
                ("input", index),
                f"got input {name!r}, which no step reads; expected it as a value in an `input_map`",
                "map it to an input of a step, or remove it",
            )
    for name, tensor in tensors.items():
        yield from _written_twice(view, name, tensor, name in inputs)
        if not tensor.writers and name not in inputs:
            for reader in tensor.readers:
                yield view.finding(
                    "ensemble-tensor-unwritten",
                    reader,
                    f"got tensor {name!r}, which no step writes; expected an input of the ensemble or an output of a "
                    f"step: {', '.join(sorted({*inputs, *(other for other in tensors if tensors[other].writers)}))}",
                    "correct the name, or map an output of a step to it",
                )
        elif tensor.writers and not tensor.readers and name not in outputs:
            yield view.finding(
                "ensemble-tensor-unused",
                tensor.writers[0],
                f"got tensor {name!r}, which no step reads; expected a step or an output of the ensemble that uses it",
                "remove the entry; outputs of a step do not have to be mapped",
            )
    for name, index in outputs.items():
        if name and not tensors[name].writers and name not in inputs:
            yield view.finding(
                "ensemble-output-unwritten",
                ("output", index),
                f"got output {name!r}, which no step writes; expected it as a value in an `output_map`",
                "map an output of a step to it, or remove it",
            )
    yield from _waiting(view, set(inputs))


def _written_twice(view: View, name: str, tensor: _Tensor, is_input: bool) -> Iterator[Finding]:
    for writer in tensor.writers[1:]:
        yield view.finding(
            "ensemble-tensor-written-twice",
            writer,
            f"got {name!r}, which another step writes as well; expected a single step that writes it",
            "write another name as the value",
        )
    if is_input and tensor.writers:
        yield view.finding(
            "ensemble-tensor-written-twice",
            tensor.writers[0],
            f"got {name!r}, which is an input of the ensemble; expected another tensor",
            "write another name as the value",
        )


def _waiting(view: View, ready: set[str]) -> Iterator[Finding]:
    """Finds steps that never start although some step writes each tensor that they read."""
    steps = view.config.ensemble_scheduling.step
    written = ready | {tensor for step in steps for tensor in step.output_map.values()}
    # Tensors that no step writes are reported elsewhere, not as a cycle.
    available = ready | {tensor for step in steps for tensor in step.input_map.values() if tensor not in written}
    waiting = dict(enumerate(steps))
    while started := [index for index, step in waiting.items() if set(step.input_map.values()) <= available]:
        for index in started:
            available |= set(waiting.pop(index).output_map.values())
    for index, step in waiting.items():
        missing = sorted(set(step.input_map.values()) - available)
        yield view.finding(
            "ensemble-step-cycle",
            (*STEPS, index, "model_name"),
            f"got a step ({step.model_name}) that waits for {', '.join(map(repr, missing))} and never starts; expected "
            "steps that do not wait for each other",
            "change the maps so that no tensor depends on itself",
        )
