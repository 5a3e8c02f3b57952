"""The store of the users' states, as commands take its address."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Store = Annotated[
    str | None,
    typer.Option(
        "--state",
        envvar="EBBTIDE_STATE",
        help="Address of the store of the users' states: embedded:FOLDER, redis://HOST, rediss://HOST "
        "(TLS), or a cluster (see the docs on the state store). Default: the folder beside the repository that "
        "`ebbtide serve` uses.",
    ),
]


def store_address(given: str | None, repository: Path) -> str:
    """The address of the store of a repository's users.

    Args:
        given: With the option `Store`.
        repository: The model repository.
    """
    return given or f"embedded:{repository.absolute()}.state"
