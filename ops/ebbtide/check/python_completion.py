"""Reads what `auto_complete_config` of a Python model adds to its config, as far as it is written out in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SETTERS = ("add_input", "add_output", "set_max_batch_size", "set_dynamic_batching", "set_model_transaction_policy")


class _Unknown:
    """A value that is not written out."""


_UNKNOWN = _Unknown()


@dataclass(frozen=True)
class Setting:
    """One call of a setter of the config that runs whenever the method runs."""

    setter: str
    """One of `SETTERS`."""
    value: object
    """The argument; None where the setter takes none."""
    line: int


@dataclass(frozen=True)
class Completion:
    """The calls of one `auto_complete_config`."""

    settings: tuple[Setting, ...]
    is_whole: bool
    """Whether these are all changes that the method makes to the config."""

    def adds(self, section: str, name: str) -> bool:
        """Whether the method adds, or may add, a tensor to ``input`` or ``output``."""
        return not self.is_whole or any(
            one.setter == f"add_{section}" and isinstance(one.value, dict) and one.value.get("name") == name
            for one in self.settings
        )


def read_completion(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Completion:
    """Reads the method's source; values from elsewhere stay unknown."""
    arguments = [*function.args.posonlyargs, *function.args.args]
    config = arguments[-1].arg if arguments else ""
    values = _written_values(function)
    settings = tuple(_settings(function, config, values))
    uses = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == config]
    # The config is returned, and may be read as a dict, without a change.
    harmless = sum(isinstance(node, ast.Return) for node in ast.walk(function)) + sum(
        isinstance(node, ast.Attribute) and node.attr == "as_dict" for node in ast.walk(function)
    )
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    known = {node.lineno for node in calls if _setter(node, config) is not None}
    return Completion(settings, {one.line for one in settings} == known and len(uses) <= len(known) + harmless)


def _written_values(function: ast.AST) -> dict[str, object]:
    """Names that are assigned once, and to a value that is written out."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
    values: dict[str, object] = {}
    for name, assigned in found.items():
        value = _value(assigned[0], values)
        if len(assigned) == 1 and value is not _UNKNOWN:
            values[name] = value
    return values


def _value(node: ast.expr, values: Mapping[str, object]) -> object:
    if isinstance(node, ast.Name):
        return values.get(node.id, _UNKNOWN)
    if isinstance(node, ast.List | ast.Tuple):
        elements = [_value(element, values) for element in node.elts]
        return _UNKNOWN if _UNKNOWN in elements else elements
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return _UNKNOWN


def _settings(
    function: ast.FunctionDef | ast.AsyncFunctionDef, config: str, values: Mapping[str, object]
) -> Iterator[Setting]:
    for statement in function.body:
        if isinstance(statement, ast.Expr):
            yield from _setting(statement.value, config, values)
        elif isinstance(statement, ast.For) and isinstance(statement.target, ast.Name):
            elements = _value(statement.iter, values)
            for element in elements if isinstance(elements, list) else ():
                for inner in statement.body:
                    if isinstance(inner, ast.Expr):
                        yield from _setting(inner.value, config, {**values, statement.target.id: element})


def _setting(node: ast.expr, config: str, values: Mapping[str, object]) -> Iterator[Setting]:
    setter = _setter(node, config)
    if setter is None or not isinstance(node, ast.Call):
        return
    value = _value(node.args[0], values) if len(node.args) == 1 and not node.keywords else None
    if value is not _UNKNOWN and (value is None) == (setter == "set_dynamic_batching"):
        yield Setting(setter, value, node.lineno)


def _setter(node: ast.AST, config: str) -> str | None:
    """The setter that a node calls on the config."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return None
    holder = node.func.value
    return (
        node.func.attr if isinstance(holder, ast.Name) and holder.id == config and node.func.attr in SETTERS else None
    )
