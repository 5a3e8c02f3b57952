"""``ebbtide states`` and ``ebbtide retire``: the model versions that a store keeps states of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ebbtide.cli.console import console, escape, working
from ebbtide.cli.errors import CommandError
from ebbtide.cli.stores import Store, store_address

if TYPE_CHECKING:
    from ebbtide.store import StateStore

_SERVED, _NOT_LOADED = " (in service)", " (not loaded)"

Repository = Annotated[
    Path | None,
    typer.Option(help="Model repository: its embedded store is the default of --state, and its versions are named."),
]


def states(repository: Repository = None, state: Store = None) -> None:
    """List the states that the store keeps: their fingerprints, the number of users, and the versions that use them.

    Versions share states if they differ only in what states do not depend on, such as popularity (`ebbtide refresh`).
    With --repository, states that no loaded version uses are named: they cost space and work until they are retired.

    **Example**

    ebbtide states --repository artifacts/repository
    """
    known = _versions(repository)
    with _opened(repository, state) as store, working("Counting users"):
        registered = store.registered()
        counts = {fingerprint: sum(1 for _ in store.users(fingerprint)) for fingerprint in registered}
        name = store.name
    table = Table(title=f"States in {name}", title_justify="left")
    for heading in ("fingerprint", "users", "versions"):
        table.add_column(heading, justify="right" if heading == "users" else "left")
    unused = []
    for fingerprint, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])):
        text = fingerprint.decode(errors="backslashreplace")
        table.add_row(escape(text), f"{count:,}", escape(", ".join(known.get(text, []))))
        if repository is not None and all(name.endswith(_NOT_LOADED) for name in known.get(text, [])):
            unused.append(text)
    console.print(table)
    for text in unused:
        console.print(
            f"[yellow]unused:[/yellow] no loaded version uses {escape(text)}; unless a roll-back needs it or another "
            f"repository does: ebbtide retire {escape(text)} --repository {escape(str(repository))}",
            soft_wrap=True,
        )


def retire(
    fingerprint: Annotated[str, typer.Argument(help="Fingerprint of the states; `ebbtide states` lists them.")],
    repository: Repository = None,
    state: Store = None,
    force: Annotated[
        bool, typer.Option("--force", help="Erase also the states of the version in service, or the only ones.")
    ] = False,
) -> None:
    """Erase the states of model versions that are no longer needed; other states stay. This cannot be undone.

    From then on these versions get no events that others observe. A roll-back to one of them finds only the newest
    events of each user, unless `ebbtide backfill` builds the states again.

    **Example**

    ebbtide retire 3ebd11f2284600f0 --repository artifacts/repository
    """
    known = _versions(repository)
    with _opened(repository, state) as store:
        registered = {one.decode(errors="backslashreplace") for one in store.registered()}
        if fingerprint not in registered:
            raise CommandError(
                f"{store.name}: got no states {fingerprint}; expected one of {', '.join(sorted(registered)) or 'none'}"
            )
        if not force and (registered == {fingerprint} or any(_SERVED in name for name in known.get(fingerprint, []))):
            raise CommandError(
                f"{fingerprint}: got the states of the version in service, or the only ones; expected some that are "
                "not needed. --force erases them all the same"
            )
        with working("Erasing"):
            removed = store.retire(fingerprint.encode())
    console.print(f"[green]✓[/green] erased: {removed:,} records of states {escape(fingerprint)}")


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


def _versions(repository: Path | None) -> dict[str, list[str]]:
    """What to call the versions of a repository, by the fingerprint of their states."""
    if repository is None:
        return {}
    from ebbtide.export import versions

    loaded, served = versions.loaded_versions(repository), set(versions.ensemble_versions(repository).values())
    names: dict[str, list[str]] = {}
    for version in versions.available_versions(repository):
        note = _SERVED if version in served else "" if version in loaded else _NOT_LOADED
        names.setdefault(versions.version_states(repository, version), []).append(f"{version}{note}")
    return names
