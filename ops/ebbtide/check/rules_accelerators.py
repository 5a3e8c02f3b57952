"""Rules about the execution accelerators of ONNX models."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from tritonclient.grpc import model_config_pb2

from ebbtide.check import backends
from ebbtide.check.findings import Finding
from ebbtide.check.messages import Accelerator
from ebbtide.check.textproto import Path
from ebbtide.check.view import View

_GPU_NAMES = ("tensorrt", "cuda")
_CPU_NAMES = ("openvino",)
_PRECISIONS = ("FP32", "FP16", "BF16", "INT8")
_KIND_AUTO = int(model_config_pb2.ModelInstanceGroup.KIND_AUTO)
_KIND_GPU = int(model_config_pb2.ModelInstanceGroup.KIND_GPU)
_IN = ("optimization", "execution_accelerators")


def check(view: View) -> Iterator[Finding]:
    """Checks the names of the accelerators, and the precision of TensorRT."""
    if view.serving.backend != backends.ONNX:
        return
    accelerators = view.config.optimization.execution_accelerators
    kinds = {group.kind for group in view.config.instance_group} or {_KIND_AUTO}
    # Without a KIND_GPU group the server looks at these only if it has a GPU.
    of_gpu = "onnx-accelerator" if _KIND_GPU in kinds else "onnx-accelerator-gpu"
    if kinds & {_KIND_GPU, _KIND_AUTO}:
        for index, entry in enumerate(accelerators.gpu_execution_accelerator):
            yield from _name(view, of_gpu, (*_IN, "gpu_execution_accelerator", index), entry, _GPU_NAMES)
            yield from _precision(view, of_gpu, (*_IN, "gpu_execution_accelerator", index), entry)
    # ONNX Runtime's CPU provider is there whatever the kind, so these are read for every instance.
    for index, entry in enumerate(accelerators.cpu_execution_accelerator):
        path = (*_IN, "cpu_execution_accelerator", index)
        yield from _name(view, "onnx-accelerator", path, entry, _CPU_NAMES)
        if entry.name in _CPU_NAMES:
            yield view.finding(
                "stand-in-backend",
                (*path, "name"),
                f"got {entry.name!r}; expected no CPU accelerator if `ebbtide serve` loads the model, or a server that "
                "was built without it",
                "remove the accelerator, or serve the model with an ONNX Runtime backend that has it",
            )


def _name(view: View, rule: str, path: Path, entry: Accelerator, known: Sequence[str]) -> Iterator[Finding]:
    if entry.name not in known:
        near = difflib.get_close_matches(entry.name.lower(), known, n=1)
        yield view.finding(
            rule,
            (*path, "name") if entry.name else path,
            f"got {entry.name!r}; expected {' or '.join(map(repr, known))}",
            f"did you mean {near[0]}?" if near else "correct the name, or remove the accelerator",
        )


def _precision(view: View, rule: str, path: Path, entry: Accelerator) -> Iterator[Finding]:
    value = entry.parameters.get("precision_mode")
    if entry.name == "tensorrt" and value is not None and value not in _PRECISIONS:
        yield view.finding(
            rule,
            (*path, "parameters"),
            f"got precision_mode {value!r}; expected {', '.join(_PRECISIONS)}",
            "correct the value",
        )
