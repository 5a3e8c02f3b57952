"""Reads a Python model's source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ebbtide.check.python_completion import Completion, read_completion
from ebbtide.check.python_returns import FUNCTIONS, RESPONSE, called, is_nothing, own_nodes, wrong_return

MODEL_CLASS = "TritonPythonModel"
AUTO_COMPLETE = "auto_complete_config"
_MAKERS = ("Tensor", "from_dlpack")
_READER = "get_input_tensor_by_name"
_LOOKUPS = ("__getattr__", "__getattribute__")


@dataclass(frozen=True)
class Named:
    """A tensor name that is written in the source."""

    name: str
    line: int
    is_used: bool = False
    """Whether an attribute of an input is used in every call of ``execute``, which fails without the input."""


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
    """Whether it has a ``return`` with a value other than None."""
    wrong_return: str
    """What it returns if that is certainly no list of responses; empty otherwise."""
    collects_requests: bool
    """Whether it takes its requests as ``*requests``: a tuple with the list of requests in it."""


@dataclass(frozen=True)
class PythonSource:
    """What the checker knows about a model.py; only `error` is set if the file is not valid Python."""

    error: SyntaxError | None = None
    model_class: int | None = None
    """The line of the class TritonPythonModel, or of the import or assignment that defines it."""
    is_opaque: bool = False
    """Whether the class or its methods may be defined elsewhere: imported, inherited, decorated or assigned."""
    methods: dict[str, Method] = field(default_factory=dict)
    completion: Completion | None = None
    """What `auto_complete_config` adds; None without this method, or if it may be defined elsewhere."""
    reads: tuple[Named, ...] = ()
    """Inputs that are read by name."""
    answers: tuple[Named, ...] = ()
    """Outputs that are created by name in the list of an ``InferenceResponse``."""
    names_every_answer: bool = False
    """Whether every output is created in this file, with a name that is written in it."""
    strings: frozenset[str] = frozenset()
    """Names that outputs may have: those that are sent if all are plain to see, otherwise all texts of the source."""
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
    model = _model_class(tree, nodes)
    classes = list(_with_bases(model, {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}))
    functions = {
        node.name: node
        for one in reversed(classes)
        for node in (one.body if one else ())
        if isinstance(node, FUNCTIONS)
    }
    completion = functions.get(AUTO_COMPLETE)
    is_opaque = model is None or bool(model.decorator_list) or None in classes or _binds_methods(nodes, classes)
    calls = [(called(node), node) for node in nodes if isinstance(node, ast.Call)]
    made = [_string(node, 0) for name, node in calls if name in _MAKERS]
    sent = [_string(node, 0) for node in _sent(calls) if called(node) in _MAKERS]
    always = _always_used(functions.get("execute"))
    read = [_string(node, 1, is_used=node in always) for name, node in calls if name == _READER]
    exact = _sends_only_named(calls)
    return PythonSource(
        model_class=model.lineno if model else _bound_at(tree),
        is_opaque=is_opaque,
        completion=read_completion(completion) if completion is not None and not is_opaque else None,
        methods={name: _method(function) for name, function in functions.items()},
        reads=tuple(name for name in read if name is not None),
        answers=tuple(name for name in sent if name is not None),
        names_every_answer=bool(made)
        and None not in made
        and "output_tensors" not in {name for name, _ in calls}
        and not _imports_neighbour(nodes, path.parent),
        strings=frozenset(
            {name.name for name in sent if name is not None}
            if exact
            else {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        ),
        calls=frozenset(name for name, _ in calls),
    )


def _model_class(tree: ast.Module, nodes: Sequence[ast.AST]) -> ast.ClassDef | None:
    """The last definition of the model's class, which is the one that counts."""
    found = [
        [node for node in among if isinstance(node, ast.ClassDef) and node.name == MODEL_CLASS]
        for among in (tree.body, nodes)
    ]
    return next((definitions[-1] for definitions in found if definitions), None)


def _binds_methods(nodes: Sequence[ast.AST], classes: Sequence[ast.ClassDef | None]) -> bool:
    """Whether a method that the server calls may come from elsewhere than a ``def`` in the body of a class."""
    bound: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            bound.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.Call) and called(node) == "setattr":
            bound |= {one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    for statement in (statement for one in classes for statement in (one.body if one else ())):
        if not isinstance(statement, FUNCTIONS):
            bound |= {function.name for function in _own_functions(statement)}
        elif statement.name in _LOOKUPS:
            return True
    return bool(bound & {"execute", AUTO_COMPLETE})


def _own_functions(statement: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions below a statement, without those inside of them."""
    for node in ast.iter_child_nodes(statement):
        if isinstance(node, FUNCTIONS):
            yield node
        else:
            yield from _own_functions(node)


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
    nodes = list(own_nodes(function))
    returned = [node for node in nodes if isinstance(node, ast.Return) and not is_nothing(node.value)]
    return Method(
        function.lineno,
        ast.unparse(arguments),
        tuple(node.id if isinstance(node, ast.Name) else "" for node in function.decorator_list),
        positional - len(arguments.defaults),
        None if arguments.vararg else positional,
        isinstance(function, ast.AsyncFunctionDef),
        any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes),
        bool(returned),
        wrong_return(function),
        arguments.vararg is not None and arguments.vararg.arg == "requests",
    )


def _sent(calls: list[tuple[str, ast.Call]]) -> Iterator[ast.Call]:
    """The calls that are elements of the list of an ``InferenceResponse([...])``."""
    for name, call in calls:
        given = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "output_tensors")]
        if name == RESPONSE and given and isinstance(given[0], ast.List):
            yield from (node for node in given[0].elts if isinstance(node, ast.Call))


def _imports_neighbour(nodes: list[ast.AST], folder: Path) -> bool:
    """Whether the source imports a module that lies beside it and may create tensors."""
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    modules = {path.stem for neighbours in (folder, folder.parent) for path in neighbours.iterdir()}
    return any(name.partition(".")[0] in modules for name in imported)


def _with_bases(model: ast.ClassDef | None, local: dict[str, ast.ClassDef]) -> Iterator[ast.ClassDef | None]:
    """The model's class and its base classes in the same file; None for a base class from elsewhere."""
    waiting = [] if model is None else [model]
    seen: set[str] = set()
    while waiting:
        one = waiting.pop(0)
        yield one
        seen.add(one.name)
        for base in one.bases:
            name = base.id if isinstance(base, ast.Name) else ""
            if name in local and name not in seen:
                waiting.append(local[name])
            elif name != "object":
                yield None
        if one.keywords:
            yield None


def _always_used(execute: ast.AST | None) -> set[ast.Call]:
    """The calls whose result has an attribute taken in every call of ``execute`` with a request."""
    body: list[ast.AST] = [] if execute is None else [execute]
    found: set[ast.Call] = set()
    while body:
        for node in ast.iter_child_nodes(body.pop()):
            # What stands below these may not run.
            if isinstance(node, (ast.If, ast.IfExp, ast.Try, ast.While, ast.BoolOp, ast.With, ast.Lambda, *FUNCTIONS)):
                continue
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
                found.add(node.value)
            body.append(node)
    return found


def _sends_only_named(calls: list[tuple[str, ast.Call]]) -> bool:
    """Whether every response is made of a list of tensors whose names are written in it."""
    responses = [call for name, call in calls if name == RESPONSE]
    for call in responses:
        given = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "output_tensors")]
        if not given and any(keyword.arg == "error" for keyword in call.keywords):
            continue
        if not given or not isinstance(given[0], ast.List):
            return False
        for element in given[0].elts:
            if not (isinstance(element, ast.Call) and called(element) in _MAKERS and _string(element, 0)):
                return False
    return bool(responses)


def _string(call: ast.Call, position: int, *, is_used: bool = False) -> Named | None:
    """The argument at a position or of the keyword ``name``; None if it is not a string."""
    given = call.args[position] if len(call.args) > position else None
    given = given or next((keyword.value for keyword in call.keywords if keyword.arg == "name"), None)
    if isinstance(given, ast.Constant) and isinstance(given.value, str):
        return Named(given.value, given.lineno, is_used)
    return None
