"""Checks that the model on a server has the tensors of the contract and the expected fingerprint."""

from __future__ import annotations

from collections.abc import Sequence

from ebbtide.client._served import Served
from ebbtide.client._triton import Untyped
from ebbtide.client.codec import EncodedRequest
from ebbtide.client.errors import VersionMismatchError
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Dtype, Tensor
from ebbtide.interest.served_models import Model

_CONFIG_DTYPES = {f"TYPE_{dtype.value}": dtype.value for dtype in Dtype} | {"TYPE_STRING": Dtype.BYTES.value}
"""KServe v2 names of element types by their names in a ``config.pbtxt``."""


def fingerprint_of(config: Untyped) -> str | None:
    """The id of a model's export; None for a model that Ebbtide did not export.

    Args:
        config: The model's ``ModelConfig``.
    """
    if contract.FINGERPRINT_PARAMETER not in config.parameters:
        return None
    return str(config.parameters[contract.FINGERPRINT_PARAMETER].string_value)


def check_model(config: Untyped, model: Model, expected_fingerprint: str | None, target: str) -> None:
    """Compares a model on the server with the contract of this client.

    Args:
        config: The ``ModelConfig`` that the server gave.
        model: The same model in the contract.
        expected_fingerprint: The one export to accept; None accepts any.
        target: Where the server is, for the error.

    Raises:
        VersionMismatchError: A tensor that this client sends or reads is missing, or has another dtype or shape; the
            server wants one that this client does not send; or the export is another one.
    """
    fingerprint = fingerprint_of(config)
    if expected_fingerprint is not None and fingerprint != expected_fingerprint:
        found = fingerprint or "none (it was not exported by Ebbtide)"
        raise VersionMismatchError(
            f"{model.name} at {target}: got fingerprint {found}; expected {expected_fingerprint} (ClientConfig's "
            "expected_fingerprint). Another export answers here: deploy the expected one, or change the expectation.",
            expected=expected_fingerprint,
            found=found,
        )
    if (config.max_batch_size > 0) != model.batching:
        expected = "1 or more" if model.batching else "0"
        raise _mismatch(model, target, "max_batch_size", str(config.max_batch_size), expected)
    _check_tensors(model, target, "input", config, model.inputs, config.input)
    _check_tensors(model, target, "output", config, model.outputs, config.output)
    known = {tensor.name for tensor in model.inputs}
    for served in config.input:
        if served.name not in known and not served.optional:
            raise _mismatch(model, target, f"input {served.name}", "a required input", "none of this name")


def check_inputs(request: EncodedRequest, known: Served, target: str) -> None:
    """Compares the tensors of a request with those of the served model, which may be of an earlier export.

    Raises:
        VersionMismatchError: The model does not take one of them.
    """
    if not known.inputs or known.inputs.issuperset(request.tensors):
        return
    model = served_models.MODELS[request.model_name]
    tensor = next(one for one in model.inputs if one.name in request.tensors.keys() - known.inputs)
    raise _mismatch(model, target, f"input {tensor.name}", "no such tensor", _described(tensor, model))


def _check_tensors(
    model: Model, target: str, direction: str, config: Untyped, expected: Sequence[Tensor], served: Sequence[Untyped]
) -> None:
    by_name = {tensor.name: tensor for tensor in served}
    data_types = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    for tensor in expected:
        found = by_name.get(tensor.name)
        if found is None:
            if tensor.optional:
                continue
            raise _mismatch(model, target, f"{direction} {tensor.name}", "no such tensor", _described(tensor, model))
        dtype = _CONFIG_DTYPES.get(data_types[found.data_type].name, data_types[found.data_type].name)
        dims = tuple(found.dims)
        if dtype != tensor.dtype.value or len(dims) != len(_dims(tensor, model)):
            raise _mismatch(
                model, target, f"{direction} {tensor.name}", f"{dtype} {list(dims)}", _described(tensor, model)
            )


def _dims(tensor: Tensor, model: Model) -> tuple[int | str, ...]:
    dims = tuple(
        contract.VARIABLE if isinstance(dim, contract.Axis) else dim.value if isinstance(dim, contract.Size) else dim
        for dim in tensor.dims
    )
    return dims if model.batching or tensor.rows is None else (tensor.rows, *dims)


def _described(tensor: Tensor, model: Model) -> str:
    return f"{tensor.dtype.value} [{', '.join(map(str, _dims(tensor, model)))}]"


def _mismatch(model: Model, target: str, part: str, found: str, expected: str) -> VersionMismatchError:
    return VersionMismatchError(
        f"{model.name} at {target}, {part}: got {found}; expected {expected}. The model was exported for another "
        "version of this package, or not by Ebbtide: export it again, or install the matching client.",
        expected=expected,
        found=found,
    )
