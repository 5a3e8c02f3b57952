"""Rules about Python models. The source is parsed, never run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ebbtide.check import backends
from ebbtide.check.completion_problems import completion_problem
from ebbtide.check.findings import Finding
from ebbtide.check.python_source import MODEL_CLASS, Method, PythonSource, read_source
from ebbtide.check.textproto import Key
from ebbtide.check.view import View

_ENVIRONMENT = "EXECUTION_ENV_PATH"
_CPU_ONLY = "FORCE_CPU_ONLY_INPUT_TENSORS"
_ARGUMENTS = {
    "__init__": "",
    "initialize": "args",
    "execute": "requests",
    "finalize": "",
    "auto_complete_config": "model_config",
}
"""The argument that Triton passes to each method."""
_MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"


def check(view: View) -> Iterator[Finding]:
    """Checks the parameters of a Python model and the source of each loaded version."""
    if view.serving.backend != backends.PYTHON:
        return
    yield from _parameters(view)
    for version in view.versions:
        path = view.model_file(version)
        if path.is_file():
            yield from _source(view, path.relative_to(view.model.path).as_posix(), read_source(path))


def _parameters(view: View) -> Iterator[Finding]:
    parameters = view.config.parameters
    if _ENVIRONMENT in parameters:
        value = parameters[_ENVIRONMENT].string_value
        path = Path(value.replace(_MODEL_DIRECTORY, str(view.model.path)))
        if not Path(value).is_absolute() and not value.startswith(_MODEL_DIRECTORY):
            yield view.finding(
                "python-environment",
                ("parameters", Key(_ENVIRONMENT), "value", "string_value"),
                f"got {value!r}; expected an absolute path, or a path that starts with {_MODEL_DIRECTORY}",
                f"write {_MODEL_DIRECTORY}/ in front of a path in the model's folder",
            )
        # The checker cannot see an absolute path on the server's disk.
        elif _MODEL_DIRECTORY in value and not path.exists():
            yield view.finding(
                "python-environment",
                ("parameters", Key(_ENVIRONMENT), "value", "string_value"),
                f"got {value!r}; expected an existing archive or folder",
                "create the environment with `conda-pack` and put it there",
            )
    if _CPU_ONLY in parameters and parameters[_CPU_ONLY].string_value not in ("yes", "no"):
        yield view.finding(
            "python-parameter",
            ("parameters", Key(_CPU_ONLY), "value", "string_value"),
            f"got {parameters[_CPU_ONLY].string_value!r} for {_CPU_ONLY}; expected 'yes' or 'no'",
            "write yes or no",
        )


def _source(view: View, file: str, source: PythonSource) -> Iterator[Finding]:
    if source.error is not None:
        yield view.file_finding(
            "python-syntax",
            file,
            f"got a file that is not valid Python ({source.error.msg}); expected Python source",
            "correct the syntax; newer syntax needs a server with a newer Python",
            source.error.lineno or 1,
        )
        return
    if source.model_class is None:
        yield view.file_finding(
            "python-class",
            file,
            f"got no class {MODEL_CLASS}; expected a class of this name",
            f"rename the model's class to {MODEL_CLASS}",
        )
        return
    if not source.is_opaque and "execute" not in source.methods:
        yield view.file_finding(
            "python-execute",
            file,
            f"got {MODEL_CLASS} without `execute`; expected `execute`: without it, every request fails",
            "write `def execute(self, requests)`",
            source.model_class,
        )
    if not source.is_opaque:
        for name, method in source.methods.items():
            yield from _method(view, file, source, name, method)
    if source.completion is not None:
        for setting in source.completion.settings:
            problem = completion_problem(setting, view.config)
            if problem:
                yield view.file_finding(
                    "python-completion",
                    file,
                    f"got `{setting.setter}` with {problem}",
                    "change the config or `auto_complete_config` so that they say the same",
                    setting.line,
                )
    if view.config.input:
        yield from _inputs(view, file, source)
    if view.config.output:
        yield from _outputs(view, file, source)


def _method(view: View, file: str, source: PythonSource, name: str, method: Method) -> Iterator[Finding]:
    """Checks the arguments and the return value of one method."""
    if name not in _ARGUMENTS or set(method.decorators) - {"staticmethod", "classmethod"}:
        return
    # Triton calls `auto_complete_config` on the class, all other methods on the instance.
    is_bound = "staticmethod" not in method.decorators and name != "auto_complete_config"
    given = bool(_ARGUMENTS[name]) + (is_bound or "classmethod" in method.decorators)
    collects = name == "execute" and method.collects_requests
    if method.least > given or (method.most is not None and method.most < given) or collects:
        expected = ", ".join(filter(None, ["self" if is_bound else "", _ARGUMENTS[name]]))
        yield view.file_finding(
            "python-finalize" if name == "finalize" else "python-arguments",
            file,
            f"got `{name}({method.arguments})`; expected `{name}({expected})`",
            "correct the arguments" + ("" if is_bound else ", and write `@staticmethod` above the method"),
            method.line,
        )
    expected = ""
    if name == "auto_complete_config" and not method.returns_value:
        expected = "the model config"
    elif name == "execute" and not view.config.model_transaction_policy.decoupled and not method.is_coroutine:
        sends = "get_response_sender" in source.calls
        if method.is_generator or (not sends and (method.wrong_return or not method.returns_value)):
            expected = "a list with one response for each request"
    if expected:
        found = "is a generator" if method.is_generator else f"returns {method.wrong_return or 'nothing'}"
        yield view.file_finding(
            "python-return",
            file,
            f"got `{name}`, which {found}; expected {expected}",
            f"return {expected}",
            method.line,
        )


def _inputs(view: View, file: str, source: PythonSource) -> Iterator[Finding]:
    batching = view.config.sequence_batching
    known = {tensor.name for tensor in view.config.input}
    known |= {entry.name for entry in batching.control_input} | {state.input_name for state in batching.state}
    known |= {name for entry in view.config.batch_input for name in entry.target_name}
    # A tensor without a name is already reported.
    if "auto_complete_config" in source.methods or "" in known:
        return
    for read in source.reads:
        if read.name not in known:
            yield view.file_finding(
                "python-input-missing" if read.is_used else "python-input-unknown",
                file,
                f"got input {read.name!r}; expected one of the config's: {', '.join(sorted(known))}",
                "correct the name; `get_input_tensor_by_name` returns None for it",
                read.line,
            )


def _outputs(view: View, file: str, source: PythonSource) -> Iterator[Finding]:
    known = {tensor.name for tensor in view.config.output}
    completed = "auto_complete_config" in source.methods
    # A tensor may also be the input of another model that this model calls.
    calls_others = "exec" in source.calls or "async_exec" in source.calls
    states = {state.output_name for state in view.config.sequence_batching.state}
    for answer in source.answers:
        if answer.name not in known | states and not completed and not calls_others:
            yield view.file_finding(
                "python-output-unknown",
                file,
                f"got output {answer.name!r}; expected one of the config's: {', '.join(sorted(known))}",
                "correct the name, or add the output to the config",
                answer.line,
            )
    for index, tensor in enumerate(view.config.output):
        if source.names_every_answer and tensor.name and tensor.name not in source.strings:
            yield view.finding(
                "python-output-missing",
                ("output", index, "name"),
                f"got output {tensor.name!r}, which {file} never names; expected a `pb_utils.Tensor` with this name",
                "create this output in `execute`, or remove it from the config",
            )
