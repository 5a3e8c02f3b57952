"""Reads a Python model's source without running it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

MODEL_CLASS = "TritonPythonModel"
_MAKERS = ("Tensor", "from_dlpack")
_READER = "get_input_tensor_by_name"


@dataclass(frozen=True)
class Named:
    """A tensor name that is written in the source."""

    name: str
    line: int


@dataclass(frozen=True)
class PythonSource:
    """What the checker knows about a model.py; only `error` is set if the file is not valid Python."""

    error: SyntaxError | None = None
    model_class: int | None = None
    """The line of the class TritonPythonModel, or of the import or assignment that defines it."""
    is_opaque: bool = False
    """Whether the class or its methods may be defined elsewhere: imported, inherited or decorated."""
    methods: frozenset[str] = frozenset()
    reads: tuple[Named, ...] = ()
    """Inputs that are read by name."""
    answers: tuple[Named, ...] = ()
    """Outputs that are created by name."""
    names_every_answer: bool = False
    """Whether every output is created with a name that is written in the source."""
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
    read = [_string(node, 1) for name, node in calls if name == _READER]
    return PythonSource(
        model_class=model.lineno if model else _bound_at(tree),
        is_opaque=model is None or bool(model.bases) or bool(model.decorator_list),
        methods=frozenset(node.name for node in (model.body if model else ()) if isinstance(node, _FUNCTIONS)),
        reads=tuple(name for name in read if name is not None),
        answers=tuple(name for name in made if name is not None),
        names_every_answer=bool(made) and None not in made and "output_tensors" not in {name for name, _ in calls},
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
