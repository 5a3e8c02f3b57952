"""Reads a Python model's source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MODEL_CLASS = "TritonPythonModel"
_RESPONSE = "InferenceResponse"
_MAKERS = ("Tensor", "from_dlpack")
_READER = "get_input_tensor_by_name"


@dataclass(frozen=True)
class Named:
    """A tensor name that is written in the source."""

    name: str
    line: int


@dataclass(frozen=True)
class Method:
    """A method of the model's class."""

    line: int
    arguments: str
    """The arguments as they are written."""
    decorators: tuple[str, ...]
    """Names of the decorators; empty for one that is not a plain name."""
    least: int
    """Number of positional arguments that it needs, `self` included."""
    most: int | None
    """Number of positional arguments that it accepts, `self` included; None if there is no limit."""
    is_coroutine: bool
    is_generator: bool
    returns_value: bool
    """Whether it has a ``return`` with a value."""
    returns_response: bool
    """Whether it returns a single ``InferenceResponse(...)``."""


@dataclass(frozen=True)
class PythonSource:
    """What the checker knows about a model.py; only `error` is set if the file is not valid Python."""

    error: SyntaxError | None = None
    model_class: int | None = None
    """The line of the class TritonPythonModel, or of the import or assignment that defines it."""
    is_opaque: bool = False
    """Whether the class or its methods may be defined elsewhere: imported, inherited or decorated."""
    methods: dict[str, Method] = field(default_factory=dict)
    reads: tuple[Named, ...] = ()
    """Inputs that are read by name."""
    answers: tuple[Named, ...] = ()
    """Outputs that are created by name in the list of an ``InferenceResponse``."""
    names_every_answer: bool = False
    """Whether every output is created in this file, with a name that is written in it."""
    strings: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()
    """The called functions, without the object in front: ``Tensor`` for ``pb_utils.Tensor(...)``."""


def read_source(path: Path) -> PythonSource:
    """Reads a model.py; `error` holds a syntax error."""
    try:
        tree = ast.parse(path.read_bytes(), path.name)
    except SyntaxError as error:
        return PythonSource(error=error)
    except ValueError as error:
        return PythonSource(error=SyntaxError(str(error)))
    nodes = list(ast.walk(tree))
    model = next((node for node in nodes if isinstance(node, ast.ClassDef) and node.name == MODEL_CLASS), None)
    calls = [(_called(node), node) for node in nodes if isinstance(node, ast.Call)]
    made = [_string(node, 0) for name, node in calls if name in _MAKERS]
    sent = [_string(node, 0) for node in _sent(calls) if _called(node) in _MAKERS]
    read = [_string(node, 1) for name, node in calls if name == _READER]
    return PythonSource(
        model_class=model.lineno if model else _bound_at(tree),
        is_opaque=model is None or bool(model.bases) or bool(model.decorator_list),
        methods={node.name: _method(node) for node in (model.body if model else ()) if isinstance(node, _FUNCTIONS)},
        reads=tuple(name for name in read if name is not None),
        answers=tuple(name for name in sent if name is not None),
        names_every_answer=bool(made)
        and None not in made
        and "output_tensors" not in {name for name, _ in calls}
        and not _imports_neighbour(nodes, path.parent),
        strings=frozenset(
            node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ),
        calls=frozenset(name for name, _ in calls),
    )


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _bound_at(tree: ast.Module) -> int | None:
    """The line of the import or assignment that defines the class."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        else:
            continue
        if names & {MODEL_CLASS, "*"}:
            return node.lineno
    return None


def _method(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Method:
    arguments = function.args
    positional = len(arguments.posonlyargs) + len(arguments.args)
    nodes = list(_own_nodes(function))
    returned = [node.value for node in nodes if isinstance(node, ast.Return) and node.value is not None]
    return Method(
        function.lineno,
        ast.unparse(arguments),
        tuple(node.id if isinstance(node, ast.Name) else "" for node in function.decorator_list),
        positional - len(arguments.defaults),
        None if arguments.vararg else positional,
        isinstance(function, ast.AsyncFunctionDef),
        any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes),
        bool(returned),
        any(isinstance(node, ast.Call) and _called(node) == _RESPONSE for node in returned),
    )


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, without those of the functions inside it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, (*_FUNCTIONS, ast.Lambda)):
            yield node
            yield from _own_nodes(node)


def _sent(calls: list[tuple[str, ast.Call]]) -> Iterator[ast.Call]:
    """The calls that are elements of the list of an ``InferenceResponse([...])``."""
    for name, call in calls:
        given = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "output_tensors")]
        if name == _RESPONSE and given and isinstance(given[0], ast.List):
            yield from (node for node in given[0].elts if isinstance(node, ast.Call))


def _imports_neighbour(nodes: list[ast.AST], folder: Path) -> bool:
    """Whether the source imports a module that lies beside it and may create tensors."""
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    modules = {path.stem for neighbours in (folder, folder.parent) for path in neighbours.iterdir()}
    return any(name.partition(".")[0] in modules for name in imported)


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _string(call: ast.Call, position: int) -> Named | None:
    """The argument at a position or of the keyword ``name``; None if it is not a string."""
    given = call.args[position] if len(call.args) > position else None
    given = given or next((keyword.value for keyword in call.keywords if keyword.arg == "name"), None)
    if isinstance(given, ast.Constant) and isinstance(given.value, str):
        return Named(given.value, given.lineno)
    return None
