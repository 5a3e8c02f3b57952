"""Registers the commands, and the options that stand before a command."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from typer import rich_utils
from typer.core import TyperGroup

from ebbtide.cli import (
    audit,
    backfill,
    batch_recommend,
    capacity,
    check,
    deploy,
    embed_catalog,
    evaluate,
    export,
    gateway,
    ingest,
    inspect,
    items,
    loadtest,
    prepare,
    recommend,
    refresh,
    rules,
    serve,
    states,
    stored,
    studio,
    train,
    tune,
    verify,
)
from ebbtide.cli.boundary import run_guarded
from ebbtide.cli.console import console, errors, escape
from ebbtide.cli.numbers import refuse_infinite_numbers
from ebbtide.cli.paths import refuse_empty_paths
from ebbtide.cli.settings import CONFIG_VARIABLE, option_name, read_config_file, unknown_variables, variable_of
from ebbtide.cli.version import version_lines


class _Commands(TyperGroup):
    """All commands, whose options may also come from the environment and from a file."""

    def __init__(self, **given: Any) -> None:  # noqa: ANN401 - as typer passes them
        super().__init__(**given)
        self.settings = {
            name: {option: one for one in command.params if (option := option_name(one))}
            for name, command in self.commands.items()
        }
        """Parameters by command and by the name that users write."""
        for command in (self, *self.commands.values()):
            refuse_infinite_numbers(command.params)
            if command.callback is not None:
                refuse_empty_paths(command.params, command.callback)
        for name, parameters in self.settings.items():
            for option, parameter in parameters.items():
                if parameter.envvar is None:
                    parameter.envvar = variable_of(name, option)
                    # The help of the program names the rule; a line for every option would double the help.
                    parameter.show_envvar = False  # type: ignore[attr-defined]


class _WholeNames(rich_utils.OptionHighlighter):
    """Continues a long option name on the next line of a narrow terminal; typer would cut it off."""

    def __call__(self, text: str | Text) -> Text:
        name = super().__call__(text)
        name.overflow = "fold"
        return name


rich_utils.highlighter = _WholeNames()

app = typer.Typer(
    name="ebbtide",
    cls=_Commands,
    help="Recommendations from interests that ebb, served on NVIDIA Triton.\n\n"
    "Order of work: (prepare ->) train -> export -> serve -> observe -> recommend. "
    "The --help of each command shows an example.\n\n"
    "An option of a command can also come from a config file (--config) or from an environment variable: "
    "EBBTIDE_TRAIN_EPOCHS=4 is --epochs 4 of train.\n\n"
    "Exit status: 0 success, 1 an error or a check that failed, 2 wrong usage, 130 Ctrl-C.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("prepare")(prepare.command)
app.command("embed-catalog")(embed_catalog.command)
app.command("train")(train.command)
app.command("inspect")(inspect.command)
app.command("evaluate")(evaluate.command)
app.command("audit")(audit.command)
app.command("export")(export.command)
app.command("refresh")(refresh.command)
app.command("backfill")(backfill.command)
app.command("ingest")(ingest.command)
app.command("deploy")(deploy.command)
app.command("verify")(verify.command)
app.command("check")(check.command)
app.command("serve")(serve.command)
app.command("gateway")(gateway.command)
app.command("studio")(studio.command)
app.command("recommend")(recommend.command)
app.command("batch-recommend")(batch_recommend.command)
app.command("observe")(states.observe)
app.command("interest")(states.interest)
app.command("forget")(states.forget)
app.command("items")(items.command)
app.command("rules")(rules.command)
app.command("states")(stored.states)
app.command("retire")(stored.retire)
app.command("loadtest")(loadtest.command)
app.command("tune")(tune.command)
app.command("capacity")(capacity.command)

_verbose = False


def _print_version(given: bool) -> None:
    if given:
        for line in version_lines():
            typer.echo(line)
        raise typer.Exit


@app.callback()
def _before_command(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar=CONFIG_VARIABLE,
            help="TOML file with options: one table for each command, such as [train], with keys as in user-col.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show log messages of the libraries, and the traceback of an error.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors only; what a command was asked for is in its files.")
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback has printed
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the versions and exit."),
    ] = False,
) -> None:
    global _verbose
    _verbose = verbose
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    console.quiet = quiet
    group = context.command
    if isinstance(group, _Commands):
        if config is not None:
            context.default_map = {**read_config_file(config, group.settings)}
        for sentence in unknown_variables(os.environ, group.settings):
            errors.print(f"[yellow]warning:[/yellow] {escape(sentence)}", soft_wrap=True)


def run() -> None:
    """Runs the command line. Exit status: 0 success, 1 an error that was printed, 2 wrong usage, 130 Ctrl-C."""
    run_guarded(lambda: app(prog_name="ebbtide"), verbose=lambda: _verbose)
