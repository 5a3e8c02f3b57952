"""Registers the commands, and turns the errors of the stages into one line and an exit status."""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from ebbtide.cli import (
    capacity,
    check,
    deploy,
    evaluate,
    export,
    gateway,
    loadtest,
    prepare,
    recommend,
    refresh,
    serve,
    train,
    tune,
    verify,
)
from ebbtide.cli.console import errors

app = typer.Typer(
    name="ebbtide",
    help="Recommendations from interests that ebb, served on NVIDIA Triton.\n\n"
    "Order of work: (prepare ->) train -> export -> serve -> recommend. The --help of each command shows an example.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("prepare")(prepare.command)
app.command("train")(train.command)
app.command("evaluate")(evaluate.command)
app.command("export")(export.command)
app.command("refresh")(refresh.command)
app.command("deploy")(deploy.command)
app.command("verify")(verify.command)
app.command("check")(check.command)
app.command("serve")(serve.command)
app.command("gateway")(gateway.command)
app.command("recommend")(recommend.command)
app.command("loadtest")(loadtest.command)
app.command("tune")(tune.command)
app.command("capacity")(capacity.command)


_EXTRAS = {
    "prepare": "train",
    "train": "train",
    "evaluate": "evaluate",
    "export": "export",
    "refresh": "train",
    "deploy": "export",
    "verify": "export",
    "check": "cli",
    "serve": "serve",
    "gateway": "gateway",
    "recommend": "train",
    "loadtest": "load",
    "tune": "export,load,serve",
    "capacity": "cli",
}
"""What to install for each command."""


def run() -> None:
    """Runs the command line. Exit status: 0 success, 1 an error that was printed, 2 wrong usage, 130 Ctrl-C."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(sys.argv[1] if len(sys.argv) > 1 else "")
        if extra is None or str(error.name).startswith("ebbtide"):
            raise
        command = escape(f'pip install "ebbtide[{extra}]"')
        errors.print(f"[red]error:[/red] {error.name} is not installed: {command}", soft_wrap=True)
        sys.exit(1)
    except Exception as error:
        if not _is_for_the_user(error):
            raise
        errors.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


def _is_for_the_user(error: Exception) -> bool:
    """Whether the error is meant for the user. Any other error is a defect and keeps its traceback.

    No stage is imported for this: a stage that raised is already loaded.
    """
    roots = (
        ("ebbtide.data.errors", "DataError"),
        ("ebbtide.train.errors", "TrainError"),
        ("ebbtide.export.errors", "ExportError"),
        ("ebbtide.deploy.errors", "DeployError"),
        ("ebbtide.verify.errors", "VerifyError"),
        ("ebbtide.check", "CheckError"),
        ("ebbtide.serve", "ServeError"),
        ("ebbtide.client.errors", "EbbtideError"),
        ("ebbtide.loadtest.errors", "LoadTestError"),
        ("ebbtide.tune.errors", "TuneError"),
        ("ebbtide.capacity", "CapacityError"),
    )
    return any(isinstance(error, getattr(sys.modules[module], name)) for module, name in roots if module in sys.modules)
