"""``ebbtide check``: finds the problems of a model repository without a server."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Format(str, Enum):
    """Output format."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


def command(
    repository: Annotated[
        Path | None, typer.Argument(help="Triton model repository: a folder with one folder for each model.")
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="Output format; github prints annotations for GitHub Actions.")
    ] = Format.TEXT,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 1 on warnings too.")] = False,
    ignore: Annotated[list[str] | None, typer.Option(help="Id of a rule to leave out. May be repeated.")] = None,
    model_config_name: Annotated[
        str | None, typer.Option(help="Check the configs that a server reads with this --model-config-name.")
    ] = None,
    rules: Annotated[bool, typer.Option("--rules", help="List all rules and exit.")] = False,
) -> None:
    """Check a Triton model repository without a server: configs, versions, ONNX graphs, Python models and ensembles.

    No server is started, and no code of the repository is run. Exit status: 0 if there are no errors, 1 if there are
    errors (with --strict also warnings), 2 if the path is not a model repository.

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
        raise typer.BadParameter("got no REPOSITORY; expected the folder to check, or --rules")
    try:
        report = check_repository(repository, config_name=model_config_name, ignore=ignore or ())
    except (NotARepositoryError, UnknownRuleError) as error:
        raise typer.BadParameter(str(error)) from None
    write = {Format.TEXT: to_text, Format.JSON: to_json, Format.GITHUB: to_github}[format_]
    typer.echo(write(report))
    if report.errors or (strict and report.warnings):
        raise typer.Exit(1)
