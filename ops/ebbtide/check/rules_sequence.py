"""Rules about the sequence batcher: its control inputs and states."""

from __future__ import annotations

from collections.abc import Iterator

from tritonclient.grpc import model_config_pb2

from ebbtide.check.configs import data_type_name, has_data_type
from ebbtide.check.findings import Finding
from ebbtide.check.messages import Control, InitialState, State
from ebbtide.check.repository import STATE_FOLDER
from ebbtide.check.rules_scheduling import preferred_sizes
from ebbtide.check.rules_tensors import fixed_sizes_fit
from ebbtide.check.textproto import Path
from ebbtide.check.view import View

_VARIABLE = -1
_LOCATION: Path = ("sequence_batching",)
_KIND = model_config_pb2.ModelSequenceBatching.Control.Kind
_CORRELATION = int(_KIND.Value("CONTROL_SEQUENCE_CORRID"))
_CORRELATION_TYPES = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")
_VALUES = ("int32_false_true", "fp32_false_true", "bool_false_true")


def check(view: View) -> Iterator[Finding]:
    """Checks `sequence_batching` if the config has it."""
    if not view.config.HasField("sequence_batching"):
        return
    batching = view.config.sequence_batching
    yield from _controls(view)
    for index, state in enumerate(batching.state):
        yield from _state(view, (*_LOCATION, "state", index), state)
    if batching.HasField("oldest"):
        yield from preferred_sizes(view, (*_LOCATION, "oldest"), batching.oldest.preferred_batch_size)
    if batching.HasField("direct") and not 0 <= batching.direct.minimum_slot_utilization <= 1:
        yield view.finding(
            "sequence-slots",
            (*_LOCATION, "direct", "minimum_slot_utilization"),
            f"got {batching.direct.minimum_slot_utilization:g}; expected 0 to 1",
            "write a fraction of the slots",
        )


def _controls(view: View) -> Iterator[Finding]:
    names: set[str] = set()
    kinds: set[int] = set()
    for index, control_input in enumerate(view.config.sequence_batching.control_input):
        location: Path = (*_LOCATION, "control_input", index)
        if not control_input.name:
            yield view.finding("sequence-control", location, "got no `name`; expected a name", "write `name`")
        elif control_input.name in names:
            yield view.finding(
                "sequence-control",
                (*location, "name"),
                f"got {control_input.name!r} a second time; expected another tensor for each control",
                "rename one of them",
            )
        names.add(control_input.name)
        for position, control in enumerate(control_input.control):
            # Triton ignores numbers without a name.
            if control.kind not in _KIND.values():
                continue
            where: Path = (*location, "control", position)
            kind = str(_KIND.Name(control.kind))
            if control.kind in kinds:
                yield view.finding(
                    "sequence-control",
                    (*where, "kind"),
                    f"got {kind} a second time; expected every kind once",
                    "remove one of them",
                )
            kinds.add(control.kind)
            yield from _control(view, where, control, kind)


def _control(view: View, location: Path, control: Control, kind: str) -> Iterator[Finding]:
    written = [name for name in _VALUES if len(getattr(control, name))]
    if control.kind == _CORRELATION:
        data_type = data_type_name(control.data_type)
        if written:
            yield view.finding(
                "sequence-control",
                (*location, written[0]),
                f"got `{written[0]}` for {kind}; expected only `data_type`",
                f"remove `{written[0]}`",
            )
        elif data_type not in _CORRELATION_TYPES:
            yield view.finding(
                "sequence-control",
                (*location, "data_type"),
                f"got {data_type} for {kind}; expected one of {', '.join(_CORRELATION_TYPES)}",
                "write `data_type`",
            )
    elif len(written) != 1:
        yield view.finding(
            "sequence-control",
            (*location, written[1] if written else "kind"),
            f"got {' and '.join(written) or 'no values'} for {kind}; expected one of {', '.join(_VALUES)}",
            "write the values for false and true, such as `int32_false_true: [ 0, 1 ]`",
        )
    elif len(getattr(control, written[0])) != 2:
        yield view.finding(
            "sequence-control",
            (*location, written[0]),
            f"got {len(getattr(control, written[0]))} values for {kind}; expected 2",
            "write the value for false, then the value for true",
        )


def _state(view: View, location: Path, state: State) -> Iterator[Finding]:
    if not state.input_name:
        yield view.finding(
            "sequence-state-name",
            location,
            "got no `input_name`; expected a name: the first request stops the server",
            "write `input_name`",
        )
    # The server loads such a state, and the model's process dies at the first request.
    if not has_data_type(state.data_type):
        yield view.finding(
            "sequence-state",
            (*location, "data_type") if state.data_type else location,
            f"got {data_type_name(state.data_type)} for {state.input_name!r}; expected a type",
            "write `data_type`",
        )
    for index, dim in enumerate(state.dims):
        if dim < _VARIABLE:
            yield view.finding(
                "sequence-state",
                (*location, "dims", index),
                f"got {dim} for {state.input_name!r}; expected a size, or -1 for a variable size",
                "write the size, or -1",
            )
    where = (*location, "initial_state")
    if len(state.initial_state) > 1:
        yield view.finding(
            "sequence-state",
            where,
            f"got {len(state.initial_state)} initial states for {state.input_name!r}; expected at most 1",
            "keep one of them",
        )
    for initial in state.initial_state[:1]:
        for field, message, hint in _initial_state(view, state, initial):
            yield view.finding("sequence-state", (*where, 0, *field), message, hint)


def _initial_state(view: View, state: State, initial: InitialState) -> Iterator[tuple[Path, str, str]]:
    shown = repr(state.input_name)
    if initial.data_type != state.data_type:
        yield (
            ("data_type",),
            f"got {data_type_name(initial.data_type)} for {shown}; expected the state's "
            f"{data_type_name(state.data_type)}",
            "write the data type of the state",
        )
    if not initial.name:
        yield (), f"got no `name` for the initial state of {shown}; expected a name", "write `name`"
    dims, expected = list(initial.dims), list(state.dims)
    if not fixed_sizes_fit(dims, expected):
        yield (
            ("dims",),
            f"got dims {dims} for {shown}; expected fixed sizes that fit the state's {expected}",
            "write the sizes of the initial state",
        )
    chosen = initial.WhichOneof("state_data")
    if chosen is None:
        yield (), f"got no data for {shown}; expected `zero_data` or `data_file`", "write `zero_data: true`"
    elif chosen == "data_file" and not (view.model.path / STATE_FOLDER / initial.data_file).is_file():
        yield (
            ("data_file",),
            f"got {initial.data_file!r} for {shown}; expected a file in {view.model.name}/{STATE_FOLDER}/",
            "add the file",
        )
