"""``ebbtide evaluate``: measures how well a bundle ranks the held-out events."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ebbtide.cli.bundle_data import BundleCatalog, BundleEvents, moved
from ebbtide.cli.console import console, counting_progress, escape, working
from ebbtide.cli.errors import CommandError
from ebbtide.cli.held_out import Popularity, flaw_of_lists, require_as_trained, require_holdout
from ebbtide.cli.modules import require_modules
from ebbtide.cli.outputs import require_different, require_file, require_folder

if TYPE_CHECKING:
    from ebbtide.train.bundle import InterestBundle
    from ebbtide.train.evaluation.breakdowns import Breakdown
    from ebbtide.train.evaluation.evaluate import Online, Run
    from ebbtide.train.evaluation.intervals import Difference
    from ebbtide.train.evaluation.report import Rival
    from ebbtide.train.evaluation.testset import TestSet


_LEARNING_RATE = 0.5
_NOTABLE_SHARE = 0.2
"""Share of relevant events with a seen item that is worth a note."""
_TABLES = (".parquet", ".csv")


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle written by `ebbtide train --holdout ...`.")],
    popularity: Annotated[
        Popularity,
        typer.Option(
            help="updated: counts of all events strictly before each prediction; "
            "frozen: counts as of the end of training."
        ),
    ] = Popularity.updated,
    repeats: Annotated[
        bool | None,
        typer.Option(
            "--repeats/--no-repeats",
            help="Whether seen items may be in the lists. Default: as trained.",
        ),
    ] = None,
    all_events: Annotated[
        bool,
        typer.Option(
            "--all-events",
            help="All events of a user count, as in the state that a server keeps. Default: the newest 512, as in a "
            "request.",
        ),
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Another bundle with the same data and holdout, or a predictions file of any recommender. "
            "The paired difference is tested."
        ),
    ] = None,
    online: Annotated[
        bool,
        typer.Option(
            "--online",
            help="Also replay the test baskets with learning online: after each basket the user's alpha is adapted to "
            "its items. The paired difference is tested.",
        ),
    ] = False,
    online_learning_rate: Annotated[
        float | None, typer.Option(min=0, help=f"Step size of --online; 0 learns nothing. Default: {_LEARNING_RATE}.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Also NDCG@10 for each value of this column of the catalog (segments of items) or of the event log "
            "(segments of users). May be given several times.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Write every ranked list to this file, Parquet or CSV by its name: user, time, rank, item, score, "
            "is_relevant, relevant_items."
        ),
    ] = None,
    baskets: Annotated[
        Path | None,
        typer.Option(
            help="Write user and time of every basket to predict to this file (Parquet or CSV) and exit: the task of "
            "your own recommender, whose lists --against compares."
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write report.md, report.json and plots to this folder.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the metrics to this file.")] = None,
    events: BundleEvents = None,
    catalog: BundleCatalog = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the intervals and tests.")] = 0,
) -> None:
    """Rank the whole catalog before each held-out basket and report how well its items were ranked.

    The training chose the held-out events (`--holdout time:0.2`, `time:2024-03-01` or `leave-last-out`). A basket is
    everything that a user did at one time; it is predicted from the events strictly before it, without retraining. New
    users count from their second basket on. Metrics are averaged within each user, then over users; the 95 % interval
    is a bootstrap over users.

    If seen items are excluded, an item that a user interacts with again counts as missed. Repeat consumption
    (groceries, songs) is detected in training; `--repeats` allows seen items here as well.

    **Example**

    ebbtide train ... --holdout time:0.2 --out artifacts/held-out

    ebbtide evaluate artifacts/held-out --report artifacts/report --predictions artifacts/lists.parquet

    ebbtide evaluate artifacts/held-out --baskets artifacts/baskets.csv

    Is decay worth it? ebbtide evaluate artifacts/held-out --against artifacts/held-out-no-decay

    Where is it good? ebbtide evaluate artifacts/held-out --by genres --by country

    Is learning online worth it? ebbtide evaluate artifacts/held-out --online
    """
    if online_learning_rate is not None and not online:
        raise typer.BadParameter("expected --online with --online-learning-rate")
    if baskets is not None:
        for option, is_given in (
            ("--against", against is not None),
            ("--online", online),
            ("--by", bool(by)),
            ("--predictions", predictions is not None),
            ("--report", report is not None),
            ("--json", json_file is not None),
        ):
            if is_given:
                raise typer.BadParameter(f"expected --baskets without {option}: it writes the baskets and exits")
    require_file("--predictions", predictions, _TABLES)
    require_file("--json", json_file)
    require_folder("--report", report)
    require_file("--baskets", baskets, _TABLES)
    require_different({"--predictions": predictions, "--json": json_file, "--report": report, "--baskets": baskets})
    if report is not None:
        require_modules("--report", "evaluate", "matplotlib")
    _require_rival(against)
    require_holdout(bundle)
    with working("Loading the bundle"):
        from ebbtide.data.dataset import read_dataset
        from ebbtide.train.bundle import InterestBundle
        from ebbtide.train.evaluation.lists import write_baskets, write_predictions
        from ebbtide.train.evaluation.online import require_gate
        from ebbtide.train.evaluation.report import as_json, write_json, write_report
        from ebbtide.train.evaluation.segments import segments
        from ebbtide.train.evaluation.testset import TestSet

        loaded = InterestBundle.load(bundle)
        if online:
            require_gate(loaded.model)
        loaded = moved(loaded, events, catalog)
        data = read_dataset(loaded.config.data)
        test = TestSet.of(data.log, data.catalog, loaded.config.data.holdout)
    if baskets is not None:
        write_baskets(baskets, test.log, test.baskets)
        console.print(f"[green]✓[/green] {len(test.baskets):,} baskets to predict in {escape(str(baskets))}")
        return
    run = _run(loaded, test, "Ranking", popularity, repeats, seed, all_events=all_events)
    rival = None if against is None else _rival(against, run, popularity, repeats, seed, events, catalog)
    learned = None
    if online:
        step = _LEARNING_RATE if online_learning_rate is None else online_learning_rate
        learned = _online(run, popularity, step, seed)
    by_column = [segments(run, column, seed) for column in by or ()]
    _print(run, popularity, rival, learned)
    for segment in by_column:
        _print_segments(segment)
    if predictions is not None:
        write_predictions(predictions, run.lists, test.log, test.baskets, test.relevance, test.catalog)
        console.print(f"[green]✓[/green] ranked lists in {escape(str(predictions))}")
    if json_file is not None:
        write_json(json_file, as_json(run, popularity.value, rival, learned, by_column))
    if report is not None:
        with working("Drawing"):
            written = write_report(report, run, popularity.value, rival, learned, by_column)
        console.print(f"[green]✓[/green] report: {escape(', '.join(map(str, written)))}")


def _require_rival(path: Path | None) -> None:
    """Refuses early what is neither a bundle nor a predictions file."""
    if path is None or (path / "bundle.json").is_file():
        return
    seen = "got a folder without bundle.json" if path.is_dir() else flaw_of_lists(path)
    if seen is None:
        return
    raise CommandError(
        f"--against: {path}: {seen}; expected a bundle or a predictions file in Parquet or CSV (see docs/evaluation.md)"
    )


def _run(
    bundle: InterestBundle,
    test: TestSet,
    what: str,
    popularity: Popularity,
    repeats: bool | None,
    seed: int,
    *,
    all_events: bool,
) -> Run:
    from ebbtide.train.evaluation.evaluate import evaluate_bundle

    if popularity is Popularity.frozen:
        require_as_trained(bundle, test)
    with counting_progress() as progress:
        task = progress.add_task(what, total=len(test.baskets))

        def ranked(baskets: int) -> None:
            progress.advance(task, baskets)
            if progress.finished:
                progress.update(task, description="Measuring")

        return evaluate_bundle(
            bundle,
            test,
            frozen=popularity is Popularity.frozen,
            repeats=repeats,
            all_events=all_events,
            seed=seed,
            progress=ranked,
        )


def _rival(
    path: Path,
    ours: Run,
    popularity: Popularity,
    repeats: bool | None,
    seed: int,
    events: str | None,
    catalog: str | None,
) -> Rival:
    """The evaluation to compare with: of a bundle if the path is a folder, else of a predictions file."""
    from ebbtide.data.dataset import read_dataset
    from ebbtide.train.bundle import InterestBundle
    from ebbtide.train.evaluation.evaluate import check_comparable, compare, evaluate_file
    from ebbtide.train.evaluation.report import Rival
    from ebbtide.train.evaluation.testset import TestSet

    if not path.is_dir():
        evaluation = evaluate_file(path, ours, seed)
        return Rival(path.name, evaluation, compare(ours.evaluation, evaluation, seed))
    theirs = moved(InterestBundle.load(path), events, catalog)
    check_comparable(ours.bundle, theirs, path)
    # The other bundle may weigh events by another column.
    data = read_dataset(theirs.config.data)
    test = TestSet.of(data.log, data.catalog, theirs.config.data.holdout)
    what = f"Ranking with {path.name}"
    evaluation = _run(theirs, test, what, popularity, repeats, seed, all_events=ours.all_events).evaluation
    return Rival(f"{path.name} ({theirs.fingerprint})", evaluation, compare(ours.evaluation, evaluation, seed))


def _online(run: Run, popularity: Popularity, learning_rate: float, seed: int) -> Online:
    from ebbtide.interest.online import OnlineLearning
    from ebbtide.train.evaluation.evaluate import evaluate_online

    with counting_progress() as progress:
        task = progress.add_task("Learning online", total=len(run.test.baskets))
        return evaluate_online(
            run,
            OnlineLearning(learning_rate),
            frozen=popularity is Popularity.frozen,
            seed=seed,
            progress=lambda baskets: progress.advance(task, baskets),
        )


def _print_repeats_missed(run: Run) -> None:
    """Says so if most relevant items could not be in any list, because their user had seen them before."""
    from ebbtide.data.baskets import seen_share

    share = seen_share(run.test.log, run.test.baskets)
    if share < _NOTABLE_SHARE:
        return
    all_of = "all" if share == 1 else f"{share:.0%}"
    console.print(
        f"[yellow]note:[/yellow] in {all_of} of the relevant events the user interacts again with a seen item, and "
        "seen items are left out of the lists, so these count as missed. For repeat consumption use --repeats, here "
        "and in `ebbtide train`",
        soft_wrap=True,
    )


def _print(run: Run, popularity: Popularity, rival: Rival | None, online: Online | None) -> None:
    from ebbtide.train.evaluation.accuracy import CUT_OFFS
    from ebbtide.train.evaluation.report import BEYOND, HEADINGS, online_line, protocol_line, ratings_line

    measured = run.evaluation
    console.print(
        f"{protocol_line(run, popularity.value)}: {measured.users:,} users, {measured.baskets:,} baskets, "
        f"{measured.events:,} relevant items"
    )
    table = Table()
    for heading in ("", "@5", "@10", "95 % of @10", "@20"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, heading in HEADINGS.items():
        five, ten, twenty = (measured.metrics[f"{name}_at_{cut}"] for cut in CUT_OFFS)
        table.add_row(
            *(heading, f"{five.mean:.4f}", f"[bold]{ten.mean:.4f}[/bold]"),
            *(ten.interval, f"{twenty.mean:.4f}"),
        )
    console.print(table)
    for name, heading in BEYOND.items():
        console.print(f"{heading} (first ten): {getattr(measured.beyond, name):.4g}")
    console.print(f"RMSE, MAE: {escape(ratings_line(run.ratings))}")
    ndcg = measured.metrics["ndcg_at_10"]
    if not run.repeats:
        _print_repeats_missed(run)
    console.print(f"[green]✓[/green] NDCG@10 {ndcg.mean:.4f}, 95 % {ndcg.interval}")
    if rival is not None:
        title = f"Against {escape(rival.name)}, paired over users"
        _print_compared(title, ("ours", measured.means), ("theirs", rival.evaluation.means), rival.differences)
    if online is not None:
        line = online_line(online)
        console.print(f"{line[0].upper()}{line[1:]}", soft_wrap=True)
        title = "Learning online, paired over users"
        _print_compared(title, ("online", online.metrics), ("without", measured.means), online.differences)


def _print_segments(segment: Breakdown) -> None:
    table = Table(title=escape(segment.title), title_justify="left")
    for heading in ("", "users", "baskets", "NDCG@10", "95 %"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in segment.bins:
        found = row.ndcg_at_10
        table.add_row(
            escape(row.label),
            *(f"{row.users:,}", f"{row.baskets:,}", f"{found.mean:.4f}", found.interval),
        )
    console.print(table)


def _print_compared(
    title: str,
    first: tuple[str, dict[str, float]],
    second: tuple[str, dict[str, float]],
    differences: dict[str, Difference],
) -> None:
    from ebbtide.train.evaluation.report import HEADINGS

    table = Table(title=title, title_justify="left")
    for heading in ("", first[0], second[0], "difference", "95 %", "p"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in ("ndcg_at_10", "recall_at_10", "mrr_at_10", "hit_rate_at_10"):
        found = differences[name]
        table.add_row(
            f"{HEADINGS[name.removesuffix('_at_10')]}@10",
            f"{first[1][name]:.4f}",
            f"{second[1][name]:.4f}",
            f"{found.mean:+.4f}",
            f"{found.low:+.4f} to {found.high:+.4f}",
            f"{found.p_value:.3f}",
        )
    console.print(table)
