"""What the ``return`` statements of an ``execute`` certainly give, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

RESPONSE = "InferenceResponse"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_NO_LISTS = {
    "iter": "an iterator",
    "map": "an iterator",
    "filter": "an iterator",
    "zip": "an iterator",
    "enumerate": "an iterator",
    "reversed": "an iterator",
    "tuple": "a tuple",
    "dict": "a dict",
    "set": "a set",
    "frozenset": "a set",
    "str": "a text",
    "len": "a number",
    "Tensor": "a tensor",
    RESPONSE: "one response",
}
"""What functions return that certainly is no list."""
_LITERALS: tuple[tuple[type[ast.expr], str], ...] = (
    (ast.Tuple, "a tuple"),
    (ast.Dict, "a dict"),
    (ast.DictComp, "a dict"),
    (ast.Set, "a set"),
    (ast.SetComp, "a set"),
    (ast.GeneratorExp, "an iterator"),
    (ast.JoinedStr, "a text"),
)


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, without those of the functions inside it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, (*FUNCTIONS, ast.Lambda)):
            yield node
            yield from own_nodes(node)


def called(call: ast.Call) -> str:
    """The function's name, without the object in front."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def wrong_return(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """What a function returns if every ``return`` certainly gives no list of responses; empty otherwise."""
    nodes = list(own_nodes(function))
    found = [_wrong(node.value, nodes) for node in nodes if isinstance(node, ast.Return)]
    return found[0] if found and all(found) else ""


def is_nothing(value: ast.expr | None) -> bool:
    """Whether a ``return`` gives None."""
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _wrong(value: ast.expr | None, nodes: Sequence[ast.AST]) -> str:
    if is_nothing(value):
        return "nothing"
    for kind, words in _LITERALS:
        if isinstance(value, kind):
            return words
    if isinstance(value, ast.Constant):
        return f"{value.value!r}"
    if isinstance(value, ast.List):
        return _wrong_list(value)
    if isinstance(value, ast.ListComp):
        return "a list of None" if is_nothing(value.elt) else ""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name | ast.Attribute):
        # A method of an object may have any name; those of Triton's module have theirs.
        plain = isinstance(value.func, ast.Name) or called(value) in ("Tensor", RESPONSE)
        return _NO_LISTS.get(called(value), "") if plain else ""
    if isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name):
        index = value.slice.operand if isinstance(value.slice, ast.UnaryOp) else value.slice
        if isinstance(index, ast.Constant) and isinstance(index.value, int) and _holds_responses(value.value.id, nodes):
            return "one response"
    return ""


def _wrong_list(value: ast.List) -> str:
    if not value.elts:
        return "an empty list"
    if all(is_nothing(element) for element in value.elts):
        return "a list of None"
    starred = [element.value for element in value.elts if isinstance(element, ast.Starred)]
    names = [one.id for one in starred if isinstance(one, ast.Name)]
    if len(names) == len(value.elts) > len(set(names)):
        return "a list with every response twice"
    return ""


def _holds_responses(name: str, nodes: Sequence[ast.AST]) -> bool:
    """Whether a variable is a list to which only single responses are appended."""
    assigned = [
        node.value
        for node in nodes
        if isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id == name for one in node.targets)
    ]
    appended = [
        node.args[0]
        for node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "append"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == name
        and node.args
    ]
    return (
        len(assigned) == 1
        and isinstance(assigned[0], ast.List)
        and not assigned[0].elts
        and bool(appended)
        and all(isinstance(one, ast.Call) and called(one) == RESPONSE for one in appended)
    )
