"""Rules that compare an ensemble with the models of its steps: maps, data types, shapes, versions, nested ensembles.

As in Triton, a tensor has the data type and shape of the first model that names it, beginning with the ensemble itself.
Every other model is compared with the first one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ebbtide.check.effective import Effective, TensorSpec
from ebbtide.check.findings import Finding
from ebbtide.check.messages import EnsembleStep
from ebbtide.check.rules_ensemble import STEPS
from ebbtide.check.textproto import Key, Path
from ebbtide.check.view import View


@dataclass(frozen=True)
class _Known:
    """A tensor of the ensemble, as the first model that names it declares it."""

    spec: TensorSpec
    batching: bool
    model: str


def check(view: View, models: Mapping[str, Effective]) -> Iterator[Finding]:
    """Checks an ensemble against the models of the repository.

    Args:
        view: the ensemble.
        models: effective config of every model of the repository, by name.
    """
    if not view.is_ensemble or not view.config.HasField("ensemble_scheduling"):
        return
    known: dict[str, _Known] = {}
    for tensor in (*view.config.input, *view.config.output):
        spec = TensorSpec.of(tensor, served=True)
        known.setdefault(tensor.name, _Known(spec, view.config.max_batch_size > 0, view.model.name))
    for index, step in enumerate(view.config.ensemble_scheduling.step):
        location: Path = (*STEPS, index)
        if not step.model_name:
            continue
        if step.model_name not in models:
            near = difflib.get_close_matches(step.model_name, models, n=1)
            yield view.finding(
                "ensemble-step-model",
                (*location, "model_name"),
                f"got model {step.model_name!r}; expected a model of the repository: {', '.join(models)}",
                f"did you mean {near[0]}?" if near else "add the model, or correct the name",
            )
            continue
        model = models[step.model_name]
        yield from _version(view, location, step, model)
        if not model.is_readable:
            continue
        if 0 < model.max_batch_size < view.config.max_batch_size:
            yield view.finding(
                "ensemble-batch-size",
                ("max_batch_size",),
                f"got max_batch_size {view.config.max_batch_size}; expected at most {model.max_batch_size}, as in "
                f"{step.model_name}",
                "lower the ensemble's `max_batch_size`, or raise the model's",
            )
        if model.knows_tensors:
            yield from _maps(view, location, step, model)
            yield from _tensors(view, location, step, model, known)
    yield from _optional(view, models)
    yield from _decoupled(view, models)


def cycles(views: Sequence[View]) -> Iterator[Finding]:
    """Finds ensembles that contain themselves, directly or through other ensembles."""
    steps = {
        view.model.name: [step.model_name for step in view.config.ensemble_scheduling.step]
        for view in views
        if view.is_ensemble
    }
    for view in views:
        for index, name in enumerate(steps.get(view.model.name, ())):
            way = _way(steps, name, view.model.name)
            if way is not None:
                yield view.finding(
                    "ensemble-cycle",
                    (*STEPS, index, "model_name"),
                    f"got {' -> '.join([view.model.name, *way])}; expected an ensemble that does not contain itself",
                    "remove one of these steps",
                )


def _way(steps: Mapping[str, Sequence[str]], start: str, end: str) -> list[str] | None:
    """The models on a path of steps from one model to another; None if there is no path."""
    ways, seen = [[start]], {start}
    while ways:
        way = ways.pop()
        if way[-1] == end:
            return way
        for name in steps.get(way[-1], ()):
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return None


def _version(view: View, location: Path, step: EnsembleStep, model: Effective) -> Iterator[Finding]:
    if step.model_version == -1 or step.model_version in model.versions or not model.versions:
        return
    written = view.source.index.has((*location, "model_version"))
    loaded = ", ".join(map(str, model.versions))
    yield view.finding(
        "ensemble-step-version",
        (*location, "model_version" if written else "model_name"),
        f"got version {step.model_version} of {step.model_name}{'' if written else ' (the default)'}; expected -1 (the "
        f"newest version) or a version that the model loads: {loaded}",
        "write `model_version: -1`",
    )


def _maps(view: View, location: Path, step: EnsembleStep, model: Effective) -> Iterator[Finding]:
    for name, entries, tensors in (
        ("input_map", step.input_map, model.inputs),
        ("output_map", step.output_map, model.outputs),
    ):
        for key in entries:
            if key not in tensors:
                yield view.finding(
                    "ensemble-map-key",
                    (*location, name, Key(key)),
                    f"got key {key!r}; expected {'an input' if name == 'input_map' else 'an output'} of "
                    f"{step.model_name}: {', '.join(tensors) or 'it has none'}",
                    "write the model's tensor as key and the ensemble's tensor as value",
                )
    for key, spec in model.inputs.items():
        if key not in step.input_map and not spec.optional:
            yield view.finding(
                "ensemble-input-unmapped",
                (*location, "model_name"),
                f"got no entry for input {key!r} of {step.model_name}; expected an entry for every required input",
                f'add `input_map {{ key: "{key}" value: ... }}`',
            )


def _tensors(
    view: View, location: Path, step: EnsembleStep, model: Effective, known: dict[str, _Known]
) -> Iterator[Finding]:
    batching = model.max_batch_size > 0
    for name, entries, tensors in (
        ("input_map", step.input_map, model.inputs),
        ("output_map", step.output_map, model.outputs),
    ):
        for key, tensor in entries.items():
            if key not in tensors:
                continue
            found = _Known(tensors[key], batching, step.model_name)
            before = known.setdefault(tensor, found)
            where = (*location, name, Key(key))
            if before.spec.data_type != found.spec.data_type:
                yield view.finding(
                    "ensemble-tensor-dtype",
                    where,
                    f"got {found.spec.data_type} for tensor {tensor!r} ({step.model_name}'s {key!r}); expected "
                    f"{before.spec.data_type}, as {before.model} declares it",
                    "change one of the configs, or add a step that casts the tensor",
                )
            elif not _fit(before, found):
                yield view.finding(
                    "ensemble-tensor-dims",
                    where,
                    f"got {_shown(found)} for tensor {tensor!r} ({step.model_name}'s {key!r}); expected "
                    f"{_shown(before)}, as {before.model} declares it",
                    "make the dims equal, or the whole shapes including the batch axis",
                )
            elif name == "input_map" and view.config.max_batch_size > 1 and _loses_batch(before, found):
                yield view.finding(
                    "ensemble-batch-lost",
                    where,
                    f"got {_shown(found)} for tensor {tensor!r} ({step.model_name}'s {key!r}), with max_batch_size "
                    f"{view.config.max_batch_size} on the ensemble; expected {[-1, *before.spec.dims]}",
                    "add the batch axis to the model's dims, or write `max_batch_size: 1` on the ensemble",
                )


def _loses_batch(before: _Known, found: _Known) -> bool:
    """Whether a model without batching reads a batched tensor: this works only for a batch of 1."""
    return before.batching and not found.batching and not _match(_full(before), _full(found))


def _fit(one: _Known, other: _Known) -> bool:
    """Whether the dims match, or the whole shapes including the batch axis."""
    return _match(one.spec.dims, other.spec.dims) or _match(_full(one), _full(other))


def _match(one: Sequence[int], other: Sequence[int]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _full(known: _Known) -> tuple[int, ...]:
    return (-1, *known.spec.dims) if known.batching else known.spec.dims


def _shown(known: _Known) -> str:
    dims = list(known.spec.dims)
    return f"{dims} with a batch axis" if known.batching else f"{dims} without a batch axis"


def _optional(view: View, models: Mapping[str, Effective]) -> Iterator[Finding]:
    """Finds optional inputs of the ensemble that a step requires."""
    for index, tensor in enumerate(view.config.input):
        if not tensor.optional:
            continue
        needing = [
            step.model_name
            for step in view.config.ensemble_scheduling.step
            for key, value in step.input_map.items()
            if value == tensor.name and step.model_name in models
            if (spec := models[step.model_name].inputs.get(key)) is not None and not spec.optional
        ]
        if needing:
            yield view.finding(
                "ensemble-optional-input",
                ("input", index, "optional"),
                f"got `optional` for {tensor.name!r}, which {needing[0]} requires; expected both optional, or neither",
                "remove `optional`, or make the model's input optional",
            )


def _is_decoupled(name: str, models: Mapping[str, Effective], above: frozenset[str]) -> bool:
    """Whether a model is decoupled, or is an ensemble with a decoupled step."""
    model = models.get(name)
    if model is None or name in above:
        return False
    return model.decoupled or any(_is_decoupled(step, models, above | {name}) for step in model.steps)


def _decoupled(view: View, models: Mapping[str, Effective]) -> Iterator[Finding]:
    """Finds steps whose inputs come from two response streams; each decoupled step starts a new stream."""
    streams = {tensor.name: 0 for tensor in view.config.input}
    begun = 0
    waiting = dict(enumerate(view.config.ensemble_scheduling.step))
    while ready := [index for index, step in waiting.items() if streams.keys() >= set(step.input_map.values())]:
        for index in ready:
            step = waiting.pop(index)
            origins = {streams[name] for name in step.input_map.values()}
            if len(origins) > 1:
                yield view.finding(
                    "ensemble-decoupled",
                    (*STEPS, index, "model_name"),
                    f"got inputs of {step.model_name} from {len(origins)} response streams; expected 1: Triton "
                    "cannot pair the responses of two decoupled models",
                    "read from only one decoupled model, or call the models from a Python model",
                )
            stream = max(origins, default=0)
            if _is_decoupled(step.model_name, models, frozenset()):
                begun += 1
                stream = begun
            for name in step.output_map.values():
                streams.setdefault(name, stream)
    # If the ensemble itself is decoupled, rules_cache reports it.
    if begun and view.config.response_cache.enable and not view.config.model_transaction_policy.decoupled:
        yield view.finding(
            "response-cache",
            ("response_cache",),
            "got a response cache on an ensemble with a decoupled step; expected one answer for each request",
            "remove `response_cache`",
        )
