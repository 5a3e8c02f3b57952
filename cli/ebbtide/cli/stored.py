"""``ebbtide states`` and ``ebbtide retire``: the model versions that a store keeps states of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ebbtide.cli.console import console, working
from ebbtide.cli.errors import CommandError
from ebbtide.cli.stores import Store, store_address

if TYPE_CHECKING:
    from ebbtide.store import StateStore

Repository = Annotated[
    Path | None,
    typer.Option(help="Model repository: its embedded store is the default of --state, and its versions are named."),
]


def states(repository: Repository = None, state: Store = None) -> None:
    """List the model versions that the store keeps states of, with the number of users of each.

    **Example**

    ebbtide states --repository artifacts/repository
    """
    known = _versions(repository)
    with _opened(repository, state) as store, working("Counting users"):
        registered = store.registered()
        counts = {fingerprint: sum(1 for _ in store.users(fingerprint)) for fingerprint in registered}
        name = store.name
    table = Table(title=f"States in {name}", title_justify="left")
    for heading in ("fingerprint", "users", "version"):
        table.add_column(heading, justify="right" if heading == "users" else "left")
    for fingerprint, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])):
        text = fingerprint.decode(errors="backslashreplace")
        table.add_row(escape(text), f"{count:,}", escape(known.get(text, "")))
    console.print(table)


def retire(
    fingerprint: Annotated[str, typer.Argument(help="Fingerprint of the version; `ebbtide states` lists them.")],
    repository: Repository = None,
    state: Store = None,
    force: Annotated[
        bool, typer.Option("--force", help="Erase also the states of the version in service, or of the only version.")
    ] = False,
) -> None:
    """Erase the states of a model version that is no longer needed; others keep theirs. This cannot be undone.

    From then on the version gets no events that other versions observe. A roll-back to it finds only the newest events
    of each user, unless `ebbtide backfill` builds the states again.

    **Example**

    ebbtide retire 3ebd11f2284600f0 --repository artifacts/repository
    """
    known = _versions(repository)
    with _opened(repository, state) as store:
        registered = {one.decode(errors="backslashreplace") for one in store.registered()}
        if fingerprint not in registered:
            raise CommandError(
                f"{store.name}: got no version {fingerprint}; expected one of {', '.join(sorted(registered)) or 'none'}"
            )
        if not force and (registered == {fingerprint} or "in service" in known.get(fingerprint, "")):
            raise CommandError(
                f"{fingerprint}: got the version in service, or the only one; expected one that is not needed. --force "
                "erases its states all the same"
            )
        with working("Erasing"):
            removed = store.retire(fingerprint.encode())
    console.print(f"[green]✓[/green] erased: {removed:,} records of version {escape(fingerprint)}")


def _opened(repository: Path | None, state: str | None) -> StateStore:
    from ebbtide.store import config_from_environment, open_store

    if state is None and repository is None:
        raise typer.BadParameter("expected the --state of a store, or the --repository beside its embedded store")
    address = store_address(state, repository or Path())
    folder = address.removeprefix("embedded:")
    if folder != address and not Path(folder).is_dir():
        # Opening would make it.
        raise CommandError(f"{folder}: no such folder; expected an embedded store")
    return open_store(address, config_from_environment(os.environ))


def _versions(repository: Path | None) -> dict[str, str]:
    """What to call each fingerprint of a repository."""
    if repository is None:
        return {}
    from ebbtide.interest import contract
    from ebbtide.interest.exported import MODEL_CONFIG_FILE, read_ensemble, read_interest_config

    names = {}
    for folder in sorted((repository / contract.OBSERVER.name).glob("[1-9]*")):
        names[read_interest_config(folder).fingerprint] = folder.name
    path = repository / contract.RECOMMEND.name / MODEL_CONFIG_FILE
    if path.is_file():
        served = read_ensemble(path).fingerprint
        names[served] = f"{names.get(served, '?')}, in service"
    return names
