"""``ebbtide audit``: which groups of items get exposure, and which groups of users get good lists."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ebbtide.cli.bundle_data import BundleCatalog, BundleEvents, absolute, moved
from ebbtide.cli.console import console, counting_progress, escape, working
from ebbtide.cli.errors import CommandError
from ebbtide.cli.held_out import Popularity, flaw_of_lists, require_as_trained, require_holdout
from ebbtide.cli.modules import require_modules
from ebbtide.cli.outputs import require_different, require_file, require_folder

if TYPE_CHECKING:
    from ebbtide.train.audit.audit import Audit
    from ebbtide.train.bundle import InterestBundle
    from ebbtide.train.evaluation.lists import RankedLists
    from ebbtide.train.evaluation.testset import TestSet

_BEFORE, _AFTER = "before", "after"


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle written by `ebbtide train --holdout ...`.")],
    item_attributes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Attributes of items, one row for each, with the item ids in the catalog's column. "
            "Default: the bundle's catalog file.",
        ),
    ] = None,
    items_by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Also groups of items by this attribute, such as the provider. May be given several times.",
        ),
    ] = None,
    protected_items: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Compare the items with this value with those of other values; popularity=tail compares the tail. "
            "Items without a value count as neither.",
        ),
    ] = None,
    user_attributes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Attributes of users, with the user ids in the log's column. "
            "Default: the bundle's event log, where a user has the value of most of their events.",
        ),
    ] = None,
    users_by: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Also groups of users by this attribute. May be given several times."),
    ] = None,
    protected_users: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Compare the users with this value with those of other values. Users without a value count as "
            "neither.",
        ),
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option(
            metavar="LISTS",
            help="Audit the lists of this file, as `ebbtide evaluate --predictions` writes it. "
            "Default: the bundle ranks.",
        ),
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option(
            metavar="LISTS",
            help="The same baskets ranked with a constraint, as a file like that of --lists. Every number is given "
            "before and after, with the paired difference.",
        ),
    ] = None,
    popularity: Annotated[
        Popularity, typer.Option(help="Which counts the bundle ranks with, as for `ebbtide evaluate`.")
    ] = Popularity.updated,
    repeats: Annotated[
        bool | None,
        typer.Option("--repeats/--no-repeats", help="Whether seen items may be in the lists. Default: as trained."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write audit.md, audit.json and plots to this folder.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
    events: BundleEvents = None,
    catalog: BundleCatalog = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the intervals.")] = 0,
) -> None:
    """Measure exposure and NDCG@10 by group of items and of users on the held-out events.

    The lists are those of `ebbtide evaluate`. Exposure weighs each of the first ten ranks by 1 / log2(1 + rank). Groups
    are the popularity of items, the activity of users, new users, and every attribute that you name. Whoever has no
    value is in a group of their own. Intervals are 95 %, by bootstrap over users.

    **Example**

    ebbtide audit artifacts/held-out --items-by genres --protected-items popularity=tail --report artifacts/audit

    ebbtide audit artifacts/held-out --user-attributes users.csv --users-by country

    What does a constraint change? ebbtide audit artifacts/held-out --after constrained.parquet
    """
    pairs = {
        option: [_pair(option, text) for text in given or ()]
        for option, given in (
            ("--protected-items", protected_items),
            ("--protected-users", protected_users),
        )
    }
    for option, path in (("--lists", lists), ("--after", after)):
        flaw = None if path is None else flaw_of_lists(path)
        if flaw is not None:
            raise CommandError(f"{option}: {path}: {flaw}; expected lists in Parquet or CSV (see docs/evaluation.md)")
    for option, value in (("--item-attributes", item_attributes), ("--user-attributes", user_attributes)):
        if value is not None and "://" not in value and not Path(value).exists():
            raise CommandError(f"{option}: {value}: no such file")
    for option, value, needing in (
        ("--item-attributes", item_attributes, (items_by, protected_items)),
        ("--user-attributes", user_attributes, (users_by, protected_users)),
    ):
        if value is not None and not any(needing):
            what = option.removeprefix("--").partition("-")[0]
            raise typer.BadParameter(
                f"expected --{what}s-by or --protected-{what}s with {option}: it names the columns"
            )
    require_file("--json", json_file)
    require_folder("--report", report)
    require_different({"--json": json_file, "--report": report})
    if report is not None:
        require_modules("--report", "evaluate", "matplotlib")
    require_holdout(bundle)
    with working("Loading the bundle"):
        from ebbtide.data.dataset import read_dataset
        from ebbtide.train.audit.audit import audit
        from ebbtide.train.audit.report import as_json, write_report
        from ebbtide.train.audit.sources import Attributes, item_groups, user_groups
        from ebbtide.train.bundle import InterestBundle
        from ebbtide.train.evaluation.lists import read_predictions
        from ebbtide.train.evaluation.report import write_json
        from ebbtide.train.evaluation.testset import TestSet

        loaded = InterestBundle.load(bundle)
        loaded = moved(loaded, events, catalog)
        reference = loaded.config.data
        data = read_dataset(reference)
        test = TestSet.of(data.log, data.catalog, reference.holdout)
        of_items = Attributes(_absolute(item_attributes), items_by or (), pairs["--protected-items"])
        of_users = Attributes(_absolute(user_attributes), users_by or (), pairs["--protected-users"])
        groups = item_groups(reference, test, of_items), user_groups(reference, test, of_users)
        given = [None if path is None else read_predictions(path, *_of(test)) for path in (lists, after)]
    ranked, protocol = given[0], f"lists of {lists.name}" if lists is not None else ""
    if ranked is None:
        ranked, protocol = _rank(loaded, test, popularity, repeats)
    with working("Measuring"):
        found = audit(test, ranked, given[1], *groups, seed)
    names = [_BEFORE, _AFTER] if after is not None else ["lists"]
    about = {
        "fingerprint": loaded.fingerprint,
        "holdout": reference.holdout,
        "protocol": protocol if after is None else f"{protocol}; after: lists of {after.name}",
    }
    _print(found, about, names)
    if json_file is not None:
        write_json(json_file, as_json(found, about))
    if report is not None:
        with working("Drawing"):
            written = write_report(report, found, about, names)
        console.print(f"[green]✓[/green] report: {escape(', '.join(map(str, written)))}")


def _pair(option: str, text: str) -> tuple[str, str]:
    column, separator, value = text.partition("=")
    if not (separator and column.strip() and value.strip()):
        raise typer.BadParameter(f"{option}: got {text!r}; expected COLUMN=VALUE")
    return column.strip(), value.strip()


def _absolute(path: str | None) -> str | None:
    return None if path is None else absolute(path)


def _of(test: TestSet) -> tuple[Any, Any, Any]:
    return test.log, test.baskets, test.catalog


def _rank(
    bundle: InterestBundle, test: TestSet, popularity: Popularity, repeats: bool | None
) -> tuple[RankedLists, str]:
    """The bundle's lists, and their protocol in words."""
    from ebbtide.train.evaluation.evaluate import rank_bundle
    from ebbtide.train.evaluation.report import protocol_of

    is_frozen = popularity is Popularity.frozen
    if is_frozen:
        require_as_trained(bundle, test)
    with counting_progress() as progress:
        task = progress.add_task("Ranking", total=len(test.baskets))
        ranked, _, allowed = rank_bundle(
            bundle, test, frozen=is_frozen, repeats=repeats, progress=lambda count: progress.advance(task, count)
        )
    holdout = bundle.config.data.holdout
    return ranked, protocol_of(holdout, len(test.catalog), popularity.value, repeats=allowed, all_events=False)


def _print(found: Audit, about: dict[str, str], names: list[str]) -> None:
    from ebbtide.train.audit.report import cells, contrast_rows, overall_rows, percentages

    console.print(f"{escape(about['protocol'])}: {found.users:,} users, {found.baskets:,} baskets", soft_wrap=True)
    measured = [*names, *(["difference"] if len(names) > 1 else [])]
    _print_table("First ten ranks", ["", *measured], overall_rows(found))
    for items in found.item_audits:
        rows = [
            [row.label, f"{100 * row.relevant_share.mean:.1f}", *percentages(row.exposure_share)]
            for row in items.groups
        ]
        _print_table(f"{items.title}: exposure, %", ["", "relevant", *measured], rows)
        if items.contrast is not None:
            _print_table("Protected against unprotected", ["", *measured], contrast_rows(items))
    for users in found.user_audits:
        rows = [[row.label, f"{row.users:,}", *cells(row.ndcg_at_10, 4)] for row in users.groups]
        _print_table(f"{users.title}: NDCG@10", ["", "users", *measured], rows)
        if users.ndcg_difference is not None:
            rows = [["NDCG@10, difference", *cells(users.ndcg_difference, 4)]]
            _print_table("Protected against unprotected", ["", *measured], rows)
    gini = cells(found.gini, 4)
    console.print(
        f"[green]✓[/green] Gini of exposure {escape(gini[0])}" + (f", after {escape(gini[1])}" if gini[1:] else "")
    )


def _print_table(title: str, headings: list[str], rows: list[list[str]]) -> None:
    table = Table(title=escape(title), title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
