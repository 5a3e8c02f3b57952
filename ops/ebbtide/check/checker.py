"""Runs every rule over a repository."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from ebbtide.check import (
    rules_accelerators,
    rules_cache,
    rules_config,
    rules_ensemble,
    rules_export,
    rules_files,
    rules_onnx,
    rules_python,
    rules_scheduling,
    rules_sequence,
    rules_steps,
    rules_tensors,
    rules_warmup,
)
from ebbtide.check.effective import effective
from ebbtide.check.errors import UnknownRuleError
from ebbtide.check.findings import Finding, Report, in_order
from ebbtide.check.repository import Repository, read_repository
from ebbtide.check.rules import RULES
from ebbtide.check.view import View

_OF_ONE_CONFIG = (
    rules_config.check,
    rules_tensors.check,
    rules_files.check,
    rules_scheduling.check,
    rules_sequence.check,
    rules_cache.check,
    rules_warmup.check,
    rules_onnx.check,
    rules_accelerators.check,
    rules_python.check,
    rules_export.check,
    rules_ensemble.check,
)


def check_repository(path: Path, *, config_name: str | None = None, ignore: Collection[str] = ()) -> Report:
    """Checks a model repository. No server is needed, and no code in the repository is run.

    Args:
        path: the folder with one folder for each model.
        config_name: the server's ``--model-config-name``: the config in each model's ``configs`` folder that is
            checked together with the other models. All other configs are checked one by one.
        ignore: ids of rules whose findings are left out.

    Raises:
        NotARepositoryError: the path is not a model repository.
        UnknownRuleError: a rule to ignore does not exist.
    """
    for rule in ignore:
        if rule not in RULES:
            raise UnknownRuleError(f"ignore: got {rule!r}; expected a rule id (see `ebbtide check --rules`)")
    repository = read_repository(path, config_name)
    found = in_order(finding for finding in _all(repository) if finding.rule not in ignore)
    return Report(path, tuple(repository.models), found)


def _all(repository: Repository) -> Iterator[Finding]:
    yield from rules_files.check_repository(repository)
    yield from rules_export.check_repository(repository)
    active = [View(model, model.config) for model in repository.models.values()]
    for view in active:
        yield from rules_files.check_stray(view)
    views = [view for view in active if not rules_files.is_stray(view)]
    variants = [View(view.model, config) for view in views for config in view.model.others]
    for view in (*views, *variants):
        if view.source.problem is not None:
            yield view.source.problem
            continue
        for check in _OF_ONE_CONFIG:
            yield from check(view)
    readable = [view for view in views if view.source.problem is None]
    models = {view.model.name: effective(view) for view in views}
    for view in readable:
        yield from rules_steps.check(view, models)
    yield from rules_steps.cycles(readable)
