"""``ebbtide items``: adds items to a running server without training, replaces, removes and lists them; and stock."""

from __future__ import annotations

import json
import math
import queue
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbtide.cli.access import Tls, TlsCa, TlsCertificate, TlsKey, TlsServerName, TokenFile
from ebbtide.cli.console import console, errors, escape
from ebbtide.cli.errors import CommandError
from ebbtide.cli.log_options import EncodingOfTexts, MaxBadRows
from ebbtide.cli.states import LOCAL, Server, open_client

if TYPE_CHECKING:
    from ebbtide.client import InterestClient, NewItem

_STDIN = "-"
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_AT_ONCE = 63
"""Items of one call, at most."""
_STOCK_AT_ONCE = 4096
"""Rows of a stock file in one call."""
_TIMEOUT_S = 60.0
"""For the items of one call: a language model reads their texts."""


class Action(str, Enum):
    """What to do with items."""

    add = "add"
    update = "update"
    remove = "remove"
    list = "list"
    out_of_stock = "out-of-stock"
    in_stock = "in-stock"
    stock = "stock"


def command(
    action: Annotated[
        Action,
        typer.Argument(
            help="add: add items, and replace those that were added before. update: replace only. remove: remove items "
            "that were added. list: write all that were added as JSON Lines, for the catalog of the next training. "
            "out-of-stock, in-stock: say of items, also of those in the catalog, that they are. stock: take the stock "
            "of a file or stream; without one, write the ids of all items that are out of stock."
        ),
    ],
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE|-|ITEM...]",
            help="Of add and update: a Parquet, CSV, TSV or JSON Lines file with the columns of the catalog, or - for "
            "JSON Lines on standard input. Of remove, out-of-stock and in-stock: ids, or - for one id per line on "
            "standard input. Of stock: a file, or - for JSON Lines on standard input, with the id and --stock-col.",
        ),
    ] = None,
    server: Server = LOCAL,
    item_col: Annotated[str, typer.Option(help="Column with the item id.")] = "item_id",
    text_template: Annotated[
        str, typer.Option(help="Text of an item, as at the training; {column} stands for the value of a column.")
    ] = "{text}",
    title_template: Annotated[
        str | None,
        typer.Option(
            help="Title of an item, for lists. Default: title of the row on standard input, if it has one, or else "
            "as --text-template."
        ),
    ] = None,
    attribute_col: Annotated[
        list[str] | None,
        typer.Option(
            help="Column that requests filter by, as at the export. Repeat the option for more. Default: on standard "
            "input every column with a list of values, else none."
        ),
    ] = None,
    attribute_separator: Annotated[
        str, typer.Option(help="Separator between the values in a text of --attribute-col.")
    ] = "|",
    encoding: EncodingOfTexts = None,
    max_bad_rows: MaxBadRows = None,
    stock_col: Annotated[
        str,
        typer.Option(help="Of stock: column that says whether an item is in stock: true, false, or how many are left."),
    ] = "in_stock",
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    token_file: TokenFile = None,
) -> None:
    """Add new items to a running server without training; replace, remove and list them; say what is out of stock.

    Within seconds every server of the store recommends, ranks and explains the items, and takes events of them. They
    survive restarts. All may be repeated. Items of the catalog that the model was exported with are left out: train or
    export again to change them.

    An item that is out of stock is not recommended to anybody, within a second on every server of the store. rank and
    explain answer for it, and its events count.

    **Examples**

    ebbtide items add new_movies.parquet --item-col movieId --text-template "{title} ({year}). {genres}"
    --attribute-col genres --server localhost:8001

    ebbtide items remove 900001 900002

    ebbtide items list > added.jsonl

    ebbtide items out-of-stock 318 296

    ebbtide items stock - < stock.jsonl
    """
    given = source or []
    with open_client(server, tls, tls_ca, tls_certificate, tls_key, tls_server_name, token_file) as client:
        if action is Action.list:
            if given:
                raise typer.BadParameter(f"list: got {given[0]!r}; expected nothing behind it")
            for item in client.list_items(timeout_s=_TIMEOUT_S):
                sys.stdout.write(json.dumps(_row(item), ensure_ascii=False) + "\n")
        elif action is Action.remove:
            _remove(client, _ids(action, given))
        elif action in (Action.out_of_stock, Action.in_stock):
            is_there = action is Action.in_stock
            _set_stock(client, (dict.fromkeys(ids, is_there) for ids in _ids(action, given)))
        elif action is Action.stock and not given:
            for item_id in client.list_out_of_stock(timeout_s=_TIMEOUT_S):
                sys.stdout.write(f"{item_id}\n")
        elif action is Action.stock:
            if len(given) != 1:
                raise typer.BadParameter(f"stock: got {len(given)} sources; expected one file, - or nothing")
            rows = _stock_of_input if given[0] == _STDIN else partial(_stock_of_file, given[0], encoding)
            _set_stock(client, rows(item_col, stock_col))
        else:
            if len(given) != 1:
                raise typer.BadParameter(f"{action.value}: got {len(given)} sources; expected one file, or -")
            columns = _Columns(
                item_col,
                text_template,
                title_template,
                attribute_col or [],
                attribute_separator,
                encoding,
                max_bad_rows,
            )
            batches = columns.of_input() if given[0] == _STDIN else columns.of_file(given[0])
            _add(client, batches, only_update=action is Action.update)


class _Columns:
    """Makes items from rows."""

    def __init__(
        self,
        item_column: str,
        text_template: str,
        title_template: str | None,
        attributes: list[str],
        separator: str,
        encoding: str | None,
        max_bad_rows: float | None,
    ) -> None:
        self._max_bad_rows = 0.01 if max_bad_rows is None else max_bad_rows
        self._item_column = item_column
        self._text_template, self._title_template = text_template, title_template
        self._encoding = encoding
        self._attributes = attributes
        self._separator = separator

    def of_file(self, path: str) -> Iterator[list[NewItem]]:
        """The items of a file, as many at a time as one call takes.

        Raises:
            DataError: It cannot be read, or too many of its rows are bad.
        """
        from ebbtide.client import new_item
        from ebbtide.data.catalog import read_catalog
        from ebbtide.data.tables import read_table

        templates = self._text_template, self._title_template
        catalog, bad = read_catalog(
            path, self._item_column, *templates, max_bad_rows=self._max_bad_rows, encoding=self._encoding
        )
        if bad.reasons:
            errors.print(escape(f"{path}: {bad}"), soft_wrap=True)
        values: dict[str, dict[str, list[str]]] = {}
        if self._attributes:
            columns = list(dict.fromkeys([self._item_column, *self._attributes]))
            frame = read_table(path, columns, self._encoding).frame
            for row in frame.iter_rows(named=True):
                values.setdefault(str(row[self._item_column]), self._values(row, self._attributes))
        for start in range(0, len(catalog), _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, len(catalog)))
            yield [
                new_item(
                    catalog.item_id[index],
                    catalog.text[index],
                    title=catalog.title[index],
                    attributes=values.get(catalog.item_id[index]),
                )
                for index in some
            ]

    def of_input(self) -> Iterator[list[NewItem]]:
        """The items of standard input, as they come.

        Raises:
            CommandError: A line is no item.
        """
        for lines in _lines():
            yield [self._of_line(number, line) for number, line in lines]

    def _of_line(self, number: int, line: str) -> NewItem:
        import polars as pl

        from ebbtide.client import new_item
        from ebbtide.data.catalog import fill_template

        try:
            row = json.loads(line)
            item_id = _id(row[self._item_column], f"standard input: line {number}")
            # A line may leave columns out.
            templates = self._text_template, self._title_template or "{title}"
            names = [name for template in templates for name in _PLACEHOLDER.findall(template)]
            table = pl.DataFrame({name: [_text(row.get(name))] for name in dict.fromkeys(names)})
            text, title = (fill_template(template, table)[0] for template in templates)
            if not text:
                raise ValueError("no text")
            # So a line of `items list` comes back whole.
            lists = [name for name, value in row.items() if isinstance(value, list)]
            attributes = self._values(row, self._attributes or lists)
        except (ValueError, KeyError, TypeError, AttributeError, pl.exceptions.PolarsError) as error:
            raise CommandError(
                f"standard input: line {number}: got {line[:80]!r} ({type(error).__name__}: {error}); expected a JSON "
                f"object with {self._item_column} and the columns of --text-template"
            ) from error
        return new_item(item_id, text, title=title or text, attributes=attributes)

    def _values(self, row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for column in columns:
            value = row.get(column)
            parts = value.split(self._separator) if isinstance(value, str) and self._separator else value
            listed = parts if isinstance(parts, list) else [parts]
            kept = [text for one in listed if one is not None and (text := str(one).strip())]
            if kept:
                found[column] = list(dict.fromkeys(kept))
        return found


def _add(client: InterestClient, batches: Iterable[list[NewItem]], *, only_update: bool) -> None:
    counts = {"added": 0, "replaced": 0, "in the catalog (left out)": 0, "not added before (left out)": 0}
    total = 0
    for items in batches:
        answer = client.add_items(items, only_update=only_update, timeout_s=_TIMEOUT_S)
        found = (answer.added_items, answer.replaced_items, answer.catalog_items, answer.unknown_items)
        for name, count in zip(counts, found, strict=True):
            counts[name] += count
        total = answer.total_items
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count or name == "added")
    console.print(f"[green]✓[/green] items: {said}; {total:,} beside the catalog now", soft_wrap=True)


def _remove(client: InterestClient, batches: Iterable[list[str]]) -> None:
    removed = unknown = total = 0
    for ids in batches:
        answer = client.remove_items(ids, timeout_s=_TIMEOUT_S)
        removed, unknown, total = removed + answer.removed_items, unknown + answer.unknown_items, answer.total_items
    said = f"{removed:,} removed" + (f", {unknown:,} that nobody added" if unknown else "")
    console.print(f"[green]✓[/green] items: {said}; {total:,} beside the catalog now", soft_wrap=True)


def _set_stock(client: InterestClient, batches: Iterable[Mapping[str, bool]]) -> None:
    changed = unknown = total = 0
    for stock in batches:
        out = [item_id for item_id, is_there in stock.items() if not is_there]
        back = [item_id for item_id, is_there in stock.items() if is_there]
        answer = client.set_stock(out_of_stock=out, in_stock=back, timeout_s=_TIMEOUT_S)
        changed, unknown = changed + answer.changed_items, unknown + answer.unknown_items
        total = answer.out_of_stock_items
    said = f"{changed:,} changed" + (f", {unknown:,} that nobody knows yet" if unknown else "")
    console.print(f"[green]✓[/green] stock: {said}; {total:,} out of stock now", soft_wrap=True)


def _stock_of_file(path: str, encoding: str | None, item_column: str, stock_column: str) -> Iterator[dict[str, bool]]:
    """Whether the items of a file are in stock, as many at a time as one call takes.

    Raises:
        DataError: It cannot be read.
        CommandError: A row says nothing of its stock.
    """
    from ebbtide.data.tables import read_table

    table = read_table(path, [item_column, stock_column], encoding)
    rows = [
        (_id(item, where := f"{path}: {table.unit} {line}"), _is_in_stock(value, where))
        for line, item, value in zip(
            table.line.tolist(),
            table.text(item_column, is_id=True).to_list(),
            table.frame[stock_column].to_list(),
            strict=True,
        )
    ]
    for start in range(0, len(rows), _STOCK_AT_ONCE):
        yield dict(rows[start : start + _STOCK_AT_ONCE])


def _stock_of_input(item_column: str, stock_column: str) -> Iterator[dict[str, bool]]:
    """Whether the items of standard input are in stock, as they come.

    Raises:
        CommandError: A line says nothing of its stock.
    """
    for lines in _lines():
        stock: dict[str, bool] = {}
        for number, line in lines:
            where = f"standard input: line {number}"
            try:
                row = json.loads(line)
                item_id, value = row[item_column], row[stock_column]
            except (ValueError, KeyError, TypeError) as error:
                raise CommandError(
                    f"{where}: got {line[:80]!r} ({type(error).__name__}: {error}); expected a JSON object with "
                    f"{item_column} and {stock_column}"
                ) from error
            stock[_id(item_id, where)] = _is_in_stock(value, where)
        yield stock


def _id(value: object, where: str) -> str:
    """The id of a row.

    Raises:
        CommandError: It is missing, or no text and no whole number.
    """
    import polars as pl

    from ebbtide.data.ids import is_missing

    if isinstance(value, (str, int)) and not isinstance(value, bool):
        text = str(value)
        if not is_missing(pl.Series([text])).item():
            return text
    raise CommandError(f"{where}: got item id {value!r}; expected the id of an item, a text or a whole number")


def _is_in_stock(value: object, where: str) -> bool:
    """Whether a value means that an item is in stock.

    Raises:
        CommandError: It is neither a truth value nor a number.
    """
    text = str(value).strip().lower()
    if text in ("true", "false"):
        return text == "true"
    try:
        left = float(text)
        if math.isnan(left):
            raise ValueError
        return left > 0
    except ValueError:
        raise CommandError(f"{where}: got stock {value!r}; expected true, false or how many are left") from None


def _ids(action: Action, given: list[str]) -> Iterator[list[str]]:
    if not given:
        raise typer.BadParameter(f"{action.value}: got no id; expected ids, or - for standard input")
    if given == [_STDIN]:
        for lines in _lines():
            yield [line for _, line in lines]
    else:
        yield given


def _lines() -> Iterator[list[tuple[int, str]]]:
    """Numbered lines of standard input: those that are there, as many at a time as one call takes."""
    waiting: queue.Queue[tuple[int, str] | None] = queue.Queue(maxsize=_AT_ONCE)

    def read() -> None:
        for number, line in enumerate(sys.stdin, 1):
            if line.strip():
                waiting.put((number, line.strip()))
        waiting.put(None)

    threading.Thread(target=read, daemon=True, name="standard input").start()
    is_open = True
    while is_open:
        lines: list[tuple[int, str]] = []
        one = waiting.get()
        while one is not None:
            lines.append(one)
            if len(lines) == _AT_ONCE or waiting.empty():
                break
            one = waiting.get()
        is_open = one is not None
        if lines:
            yield lines


def _text(value: object) -> str | None:
    """A value of a JSON object as the text of an item has it."""
    if isinstance(value, list):
        return ", ".join(str(one) for one in value if one is not None)
    return None if value is None else str(value)


def _row(item: NewItem) -> dict[str, Any]:
    """An item as a row of a catalog."""
    attributes = {one.column: list(one.values) for one in item.attributes}
    return {"item_id": item.item_id, "text": item.text, "title": item.title, **attributes}
