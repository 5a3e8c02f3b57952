"""Rules about the fields of a config that concern the whole model: name, backend, batch size, parameters."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from tritonclient.grpc import model_config_pb2

from ebbtide.check import backends
from ebbtide.check.configs import data_type_name
from ebbtide.check.findings import Finding
from ebbtide.check.textproto import Key, Node, Path
from ebbtide.check.view import View

_BATCH_INPUT_TYPES = ("TYPE_INT32", "TYPE_FP32")
_ONNX_PARAMETERS = (
    "intra_op_thread_count",
    "inter_op_thread_count",
    "execution_mode",
    "enable_mem_arena",
    "enable_mem_pattern",
    "memory.enable_memory_arena_shrinkage",
    "session.use_device_allocator_for_initializers",
    "session.intra_op.allow_spinning",
    "session.inter_op.allow_spinning",
)
_PYTHON_PARAMETERS = ("EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS")
_NEWER_FIELDS: tuple[Path, ...] = (("model_metrics",), ("ensemble_scheduling", "max_inflight_requests"))
"""Fields of the installed tritonclient's schema that Triton 2.51 does not have."""
_CLOSE = 0.85
_MAPS = (
    "parameters",
    "input_map",
    "output_map",
    "inputs",
    "cc_model_filenames",
    "metric_tags",
    "priority_queue_policy",
)


def check(view: View) -> Iterator[Finding]:
    """Checks one config, except its tensors, scheduling and files."""
    yield from _name(view)
    yield from _newer_fields(view)
    yield from _backend(view)
    yield from _batch_size(view)
    yield from _batch_io(view)
    yield from _agents(view)
    yield from _parameters(view)
    yield from _repeated_keys(view, view.source.index.root, ())


def _newer_fields(view: View) -> Iterator[Finding]:
    for path in _NEWER_FIELDS:
        if view.source.index.has(path):
            yield view.finding(
                "config-newer-field",
                path,
                f"got {path[-1]!r}; expected only fields that Triton 24.10 has, if such a server loads the model",
                "remove the field, or use a newer server",
            )


def _name(view: View) -> Iterator[Finding]:
    written = view.config.name
    if written and written != view.model.name:
        yield view.finding(
            "model-name",
            ("name",),
            f"got {written!r}; expected {view.model.name!r}, the name of the folder",
            "rename the folder, or correct or remove `name`",
        )


def _backend(view: View) -> Iterator[Finding]:
    config, serving = view.config, view.serving
    if view.config.platform == backends.ENSEMBLE and config.backend:
        yield view.finding(
            "backend-platform",
            ("backend",),
            f"got backend {config.backend!r} on an ensemble; expected no backend",
            "remove `backend`",
        )
    elif not serving.backend and not view.is_ensemble:
        if config.platform:
            near = difflib.get_close_matches(config.platform, backends.PLATFORMS, n=1)
            yield view.finding(
                "backend-platform",
                ("platform",),
                f"got platform {config.platform!r}; expected one of {', '.join(backends.PLATFORMS)}",
                f"write `backend` instead, or platform {near[0]!r}" if near else "write `backend` instead",
            )
        else:
            yield view.finding(
                "backend-missing",
                (),
                "got neither `backend` nor `platform`, and no model file with a known name; expected one of the three",
                'write `backend`, for example `backend: "python"`',
            )
    elif (known := backends.accepted_platforms(serving.backend, serving.platform)) is not None:
        yield view.finding(
            "backend-platform",
            ("platform",),
            f"got platform {serving.platform!r} with backend {serving.backend!r}; expected "
            f"{' or '.join(map(repr, filter(None, known))) or 'none'}",
            "remove `platform`; `backend` is enough",
        )
    if backends.is_misspelt(config.backend) and not config.runtime:
        meant = backends.intended(config.backend)
        yield view.finding(
            "backend-unknown",
            ("backend",),
            f"got {config.backend!r}; expected the exact name of a backend, such as 'python' or 'onnxruntime'",
            f"did you mean {meant}?" if meant else "write only letters, digits, `_` and `-`; fill in templates first",
        )
    if config.runtime:
        yield view.finding(
            "runtime-field",
            ("runtime",),
            f"got {config.runtime!r}; expected no `runtime`, or a file in the backend's folder on every server",
            "make sure that every server has this file; without it, a server refuses the model",
        )


def _agents(view: View) -> Iterator[Finding]:
    if view.config.HasField("model_repository_agents") and not view.config.model_repository_agents.agents:
        yield view.finding(
            "repository-agents-empty",
            ("model_repository_agents",),
            "got no agents; expected at least one: without, the server stops",
            "remove `model_repository_agents`",
        )
    for index, agent in enumerate(view.config.model_repository_agents.agents):
        yield view.finding(
            "repository-agent",
            ("model_repository_agents", "agents", index),
            f"got agent {agent.name!r}; expected no agents, or one that every server has",
            "make sure that every server has this agent; without it, a server refuses the model",
        )


def _batch_size(view: View) -> Iterator[Finding]:
    if view.config.max_batch_size < 0:
        yield view.finding(
            "max-batch-size",
            ("max_batch_size",),
            f"got {view.config.max_batch_size}; expected 0 (no batching) or more",
            "write 0, or the size of the largest batch",
        )


def _batch_io(view: View) -> Iterator[Finding]:
    config = view.config
    inputs = {entry.name for entry in config.input}
    outputs = {entry.name for entry in config.output}
    for section, entries, kinds in (
        ("batch_input", config.batch_input, model_config_pb2.BatchInput.Kind),
        ("batch_output", config.batch_output, model_config_pb2.BatchOutput.Kind),
    ):
        for index, entry in enumerate(entries):
            if entry.kind not in kinds.values():
                yield view.finding(
                    "config-unknown-value",
                    (section, index, "kind"),
                    f"got {entry.kind}; expected {', '.join(kinds.keys())}",
                    "write the kind by its name",
                )
            if len(entry.source_input) != 1:
                yield view.finding(
                    "batch-io",
                    (section, index, "source_input"),
                    f"got {len(entry.source_input)} source inputs; expected 1",
                    "write one `source_input` for each entry",
                )
            for position, source in enumerate(entry.source_input):
                if source not in inputs:
                    yield view.finding(
                        "batch-io",
                        (section, index, "source_input", position),
                        f"got {source!r}; expected an input of the config: {_listed(inputs)}",
                        "write the name of an input",
                    )
    for index, batch_input in enumerate(config.batch_input):
        if (data_type := data_type_name(batch_input.data_type)) not in _BATCH_INPUT_TYPES:
            yield view.finding(
                "batch-io",
                ("batch_input", index, "data_type"),
                f"got {data_type}; expected {' or '.join(_BATCH_INPUT_TYPES)}",
                "change the data type, and cast in the graph if needed",
            )
    targets: set[str] = set()
    for index, batch_output in enumerate(config.batch_output):
        for position, target in enumerate(batch_output.target_name):
            if target in targets:
                yield view.finding(
                    "batch-io",
                    ("batch_output", index, "target_name", position),
                    f"got {target!r} a second time; expected every output once",
                    "remove one of them",
                )
            targets.add(target)
            if target not in outputs:
                yield view.finding(
                    "batch-io",
                    ("batch_output", index, "target_name", position),
                    f"got {target!r}; expected an output of the config: {_listed(outputs)}",
                    "write the name of an output",
                )


def _parameters(view: View) -> Iterator[Finding]:
    known = {backends.ONNX: _ONNX_PARAMETERS, backends.PYTHON: _PYTHON_PARAMETERS}.get(view.serving.backend, ())
    for name in view.config.parameters:
        near = difflib.get_close_matches(name, known, n=1, cutoff=_CLOSE)
        if near and name not in known:
            yield view.finding(
                "parameter-unknown",
                ("parameters", Key(name), "key"),
                f"got {name!r}, which the {view.serving.backend} backend does not read; expected {near[0]!r}",
                f"did you mean {near[0]}?",
            )


def _repeated_keys(view: View, node: Node, path: Path) -> Iterator[Finding]:
    """Finds map keys that are written twice, of which the parsed message has only the last."""
    for name, occurrences in node.children.items():
        keys = [entry.children["key"][-1].value for entry in occurrences if "key" in entry.children]
        for index, occurrence in enumerate(occurrences):
            if name in _MAPS and index < len(keys) and keys[index] in keys[:index]:
                yield view.finding(
                    "map-key-duplicate",
                    (*path, name, index),
                    f"got key {keys[index]!r} a second time; expected every key once: Triton uses the last entry",
                    "remove one of the entries",
                )
            yield from _repeated_keys(view, occurrence, (*path, name, index))


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "it has none"
