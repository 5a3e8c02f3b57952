"""``ebbtide rules``: sets, removes and lists the rules of the house of a running server."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbtide.cli.access import Tls, TlsCa, TlsCertificate, TlsKey, TlsServerName, TokenFile
from ebbtide.cli.console import console, escape
from ebbtide.cli.errors import CommandError
from ebbtide.cli.settings import toml_tables
from ebbtide.cli.states import LOCAL, Server, open_client

if TYPE_CHECKING:
    from ebbtide.client import InterestClient, Rule, SetRulesResponse

_STDIN = "-"
_ASKED_AT_ONCE = 64
_EFFECTS = ("boost", "bury", "pin")
_FIELDS = (*_EFFECTS, "items", "attributes", "since", "until")


class Action(str, Enum):
    """What to do with rules."""

    set = "set"
    remove = "remove"
    list = "list"


def command(
    action: Annotated[
        Action,
        typer.Argument(
            help="set: add rules, and replace those of the same names. remove: remove rules. list: write all rules as "
            "TOML, which set takes."
        ),
    ],
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE|-|NAME...]", help="Of set: a TOML file, or - for standard input. Of remove: names of rules."
        ),
    ] = None,
    server: Server = LOCAL,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    token_file: TokenFile = None,
) -> None:
    """Set rules of the house on a running server: boost, bury and pin items in lists, for a time.

    Within a second all servers of the store recommend by them. They survive restarts, and answers name the rules that
    moved an item. A table of the file is a rule, under its name, with one of boost, bury (log odds) and pin (position),
    with items or attributes, and, if it holds for a time only, with since and until.

    **Examples**

    ebbtide rules set rules.toml --server localhost:8001

    ebbtide rules remove spring-sale

    ebbtide rules list > rules.toml
    """
    given = source or []
    with open_client(server, tls, tls_ca, tls_certificate, tls_key, tls_server_name, token_file) as client:
        if action is Action.list:
            if given:
                raise typer.BadParameter(f"list: got {given[0]!r}; expected nothing behind it")
            sys.stdout.write("\n".join(_written(rule) for rule in client.list_rules().rules))
        elif action is Action.remove:
            if not given:
                raise typer.BadParameter("remove: got no name; expected names of rules")
            removed = client.remove_rules(given)
            said = f"{removed.removed_rules} removed" + (
                f", {removed.unknown_rules} that nobody set" if removed.unknown_rules else ""
            )
            console.print(f"[green]✓[/green] rules: {said}; {removed.total_rules} now", soft_wrap=True)
        else:
            if len(given) != 1:
                raise typer.BadParameter(f"set: got {len(given)} sources; expected one TOML file, or -")
            is_input = given[0] == _STDIN
            where = "standard input" if is_input else given[0]
            tables = toml_tables(sys.stdin.read() if is_input else _text(given[0]), where)
            found = [_read(where, name, table) for name, table in tables.items()]
            answer = _set(client, where, found)
            said = f"{answer.added_rules} added, {answer.replaced_rules} replaced; {answer.total_rules} now"
            console.print(f"[green]✓[/green] rules: {said}", soft_wrap=True)
            if unknown := _unknown(client, found):
                console.print(
                    f"  {len(unknown):,} of their items are known to nobody yet, such as {escape(repr(unknown[0]))}: "
                    "a rule moves them once they are added; otherwise correct the ids",
                    soft_wrap=True,
                )


def _set(client: InterestClient, where: str, rules: Sequence[Rule]) -> SetRulesResponse:
    """Sets rules.

    Raises:
        CommandError: One is faulty; its name stands in place of its index.
    """
    from ebbtide.client import InvalidArgumentError

    try:
        return client.set_rules(rules)
    except InvalidArgumentError as error:
        named = re.fullmatch(r"rules\[(\d+)\]\.?(.*)", error.field or "")
        if named is None:
            raise
        path = ": ".join(filter(None, (where, f"rule {rules[int(named[1])].name}", named[2])))
        raise CommandError(f"{path}: got {error.value}; expected {error.expected}") from error


def _unknown(client: InterestClient, rules: Sequence[Rule]) -> list[str]:
    """The items of rules that the server does not know, in their order: a wrong id would do nothing in silence."""
    ids = list(dict.fromkeys(item_id for rule in rules for item_id in rule.item_ids))
    return [
        item_id
        for start in range(0, len(ids), _ASKED_AT_ONCE)
        for item_id in client.rank(candidates=ids[start : start + _ASKED_AT_ONCE]).unknown_item_ids
    ]


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"{path}: got {error}; expected UTF-8") from error


def _read(where: str, name: str, table: object) -> Rule:
    """A rule from its table.

    Raises:
        CommandError: It has another field, or one of another type; or it is not complete.
    """
    from ebbtide.client import InvalidArgumentError, rule

    if not isinstance(table, Mapping) or not set(table) <= set(_FIELDS):
        got = sorted(set(table) - set(_FIELDS)) if isinstance(table, Mapping) else table
        raise CommandError(f"{where}: rule {name}: got {got!r}; expected a table with some of {', '.join(_FIELDS)}")
    times = {key: table[key] for key in ("since", "until") if key in table}
    for key, time in times.items():
        if not isinstance(time, datetime):
            raise CommandError(f"{where}: rule {name}: {key}: got {time!r}; expected a time: 2026-03-01T00:00:00Z")
    effects: dict[str, Any] = {key: table[key] for key in _EFFECTS if key in table}
    for key, amount in effects.items():
        if isinstance(amount, bool) or not isinstance(amount, int if key == "pin" else (int, float)):
            raise CommandError(f"{where}: rule {name}: {key}: got {amount!r}; expected a number")
    items, attributes = table.get("items", []), table.get("attributes", {})
    if not isinstance(items, list) or not isinstance(attributes, Mapping):
        raise CommandError(f"{where}: rule {name}: expected items = [...] and attributes = {{ column = [...] }}")
    values = {
        column: [str(value) for value in (found if isinstance(found, list) else [found])]
        for column, found in attributes.items()
    }
    try:
        return rule(name, item_ids=[str(item) for item in items], attributes=values, **effects, **times)
    except InvalidArgumentError as error:
        raise CommandError(f"{where}: rule {name}: {error}") from error


def _written(rule: Rule) -> str:
    """A rule as a TOML table. JSON's texts and lists are those of TOML."""
    kind = rule.WhichOneof("effect") or "boost"
    lines = [f"[{json.dumps(rule.name)}]", f"{kind} = {getattr(rule, kind):.7g}"]
    if rule.item_ids:
        lines.append(f"items = {json.dumps(list(rule.item_ids))}")
    if rule.attributes:
        columns = ", ".join(f"{json.dumps(one.column)} = {json.dumps(list(one.values))}" for one in rule.attributes)
        lines.append(f"attributes = {{ {columns} }}")
    if rule.HasField("since"):
        lines.append(f"since = {rule.since.ToJsonString()}")
    if rule.HasField("until"):
        lines.append(f"until = {rule.until.ToJsonString()}")
    return "\n".join([*lines, ""])
