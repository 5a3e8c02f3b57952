"""Options of commands that write their output in parts, which several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from ebbtide.cli.modules import require_modules

RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Work on a Ray cluster: the address of its head node, auto, or local for one that is started here "
        "(needs the extra ray).",
    ),
]


def require_ray(address: str | None) -> None:
    """Accepts the address of a cluster if Ray is installed.

    Raises:
        CommandError: It is not.
    """
    if address is not None:
        require_modules("--ray", "ray", "ray")
