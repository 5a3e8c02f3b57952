"""``ebbtide check``: what Triton would refuse in a model repository, told before a server sees it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Format(str, Enum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


def command(
    repository: Annotated[
        Path | None, typer.Argument(help="Folder with one folder for each model; any Triton repository.")
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="github prints annotations for GitHub Actions.")
    ] = Format.TEXT,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail as well.")] = False,
    ignore: Annotated[list[str] | None, typer.Option(help="Id of a rule to leave out; may be repeated.")] = None,
    model_config_name: Annotated[
        str | None, typer.Option(help="The variant that the server gets as --model-config-name.")
    ] = None,
    rules: Annotated[bool, typer.Option("--rules", help="List all rules and exit.")] = False,
) -> None:
    """Check a Triton model repository offline: configs, versions, ONNX graphs, Python models, ensembles, warm-up.

    Nothing is started and nothing in the repository is run. Exit status 0: sound; 1: errors (with --strict also
    warnings); 2: no such repository.

    **Example**

    ebbtide check artifacts/repository
    """
    from ebbtide.check import (
        RULES,
        NotARepositoryError,
        UnknownRuleError,
        check_repository,
        to_github,
        to_json,
        to_text,
    )

    if rules:
        for rule in RULES.values():
            typer.echo(f"{rule.severity.value:8} {rule.id:30} {rule.summary}")
        return
    if repository is None:
        raise typer.BadParameter("give the REPOSITORY to check, or --rules")
    try:
        report = check_repository(repository, config_name=model_config_name, ignore=ignore or ())
    except (NotARepositoryError, UnknownRuleError) as error:
        raise typer.BadParameter(str(error)) from None
    write = {Format.TEXT: to_text, Format.JSON: to_json, Format.GITHUB: to_github}[format_]
    typer.echo(write(report))
    if report.errors or (strict and report.warnings):
        raise typer.Exit(1)
