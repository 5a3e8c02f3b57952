"""``ebbtide recommend``: asks a running server for recommendations to a user of the log, and shows why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.bundle_data import BundleCatalog, BundleEvents, moved
from ebbtide.cli.console import working
from ebbtide.interest import contract
from ebbtide.interest.contract import Limits

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ebbtide.client import Explanation, InterestClient, Ranking, RecommendResponse, UserKeywords

_TOP_N = 10


@dataclass(frozen=True)
class Query:
    """What a request asks for, in addition to the user's events."""

    top_n: int | None = None
    """None: 10, or as many as an answer holds."""
    now: datetime | None = None
    """None: a minute after the last event."""
    alpha: float | None = None
    decay_scale: float | None = None
    texts: tuple[str, ...] = ()
    """Free texts that the user typed just before the request."""
    seen: bool | None = None
    allow: dict[str, list[str]] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()
    """Items to rank, in place of the whole catalog."""
    explain: bool = False


def command(
    user: Annotated[str, typer.Argument(help="A user of the bundle's event log.")],
    bundle: Annotated[Path, typer.Option(help="Bundle that supplies titles and the path of the event log.")],
    server: Annotated[
        str, typer.Option(help="gRPC address of the server (host:port); `ebbtide serve` prints it.")
    ] = "localhost:8001",
    top_n: Annotated[
        int | None, typer.Option(min=1, help="Number of items to recommend. Default: 10, or all that an answer holds.")
    ] = None,
    now: Annotated[
        str | None,
        typer.Option(help="Time of the request, ISO 8601. Default: a minute after the user's last event."),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="Share of history in the blend (alpha), 0 to 1. Default: the learned gate decides."),
    ] = None,
    decay_scale: Annotated[
        float | None,
        typer.Option(help="Factor on every decay rate by age: 2 halves the half-lives, 0 turns decay by age off."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Free text that the user has just typed, such as a search. Repeat the option for several texts."
        ),
    ] = None,
    seen: Annotated[
        bool | None, typer.Option(help="Whether seen items may be recommended. Default: as trained.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Attribute value that items must have. Repeat the option: one of the values of each column "
            "must match.",
        ),
    ] = None,
    candidates: Annotated[
        str | None, typer.Option(metavar="ID,ID,...", help="Item ids to rank, in place of the whole catalog.")
    ] = None,
    events: BundleEvents = None,
    catalog: BundleCatalog = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show how much each event and the popularity prior add to each score.")
    ] = False,
) -> None:
    """Recommend items to a user of the log, through the client SDK and a running server.

    **Examples**

    ebbtide recommend 547 --bundle artifacts/bundle --server localhost:8001

    ebbtide recommend 547 --bundle artifacts/bundle --text "space opera with robots" --explain

    ebbtide recommend 547 --bundle artifacts/bundle --candidates 318,296,260
    """
    if candidates is not None and allow:
        raise typer.BadParameter(
            "--allow: got it together with --candidates; expected only one of them: --allow filters the whole catalog"
        )
    query = Query(
        top_n=top_n,
        now=None if now is None else _timestamp(now),
        alpha=alpha,
        decay_scale=decay_scale,
        texts=tuple(text or ()),
        seen=seen,
        allow=_conditions(allow or ()),
        candidates=tuple(filter(None, (candidates or "").split(","))),
        explain=explain,
    )
    if candidates is not None and not query.candidates:
        raise typer.BadParameter(f"--candidates: got {candidates!r}; expected item ids, as in 318,296,260")
    show_recommendations(server, bundle, user, query, events, catalog)


def show_recommendations(
    server: str,
    bundle_folder: Path,
    user: str,
    query: Query | None = None,
    events_file: str | None = None,
    catalog_file: str | None = None,
) -> None:
    """Prints a user's recent events with ages and weights, alpha, and the recommended titles with scores."""
    query = query or Query()
    with working("Reading the user's events"):
        import numpy as np

        from ebbtide.cli.recommend_display import PastEvents, print_answer, print_events
        from ebbtide.client import InterestClient, event
        from ebbtide.data.dataset import read_dataset
        from ebbtide.train.bundle import InterestBundle

        bundle = moved(InterestBundle.load(bundle_folder), events_file, catalog_file)
        log = read_dataset(bundle.config.data).log
    span = log.of_user(user)
    times, items, weights = log.time_ms[span], log.item[span], log.weight[span]
    now = query.now or datetime.fromtimestamp(int(times[-1]) / 1000, timezone.utc) + timedelta(minutes=1)
    now_ms = round(now.timestamp() * 1000)
    ids = bundle.catalog.item_id
    weighted = bundle.config.data.weight_column is not None
    with InterestClient(server) as client:
        max_events, most_items = _limits(client)
        if query.top_n is None:
            query = replace(query, top_n=min(_TOP_N, most_items))
        past = np.flatnonzero(times <= now_ms)[-(max_events - len(query.texts)) :]
        times, items, weights = times[past], items[past], weights[past]
        events = [
            event(item_id=ids[item], time_ms=int(time_ms), weight=float(weight) if weighted else None)
            for item, time_ms, weight in zip(items, times, weights, strict=True)
        ]
        events += [event(text=text, time_ms=now_ms) for text in query.texts]
        answer = _answer(
            client,
            query,
            events=events,
            now=now,
            alpha=query.alpha,
            decay_scale=query.decay_scale,
            exclude_seen=None if query.seen is None else not query.seen,
        )

    past_events = PastEvents(times, [bundle.catalog.title[item] for item in items])
    print_events(user, past_events, now, bundle.model, query.decay_scale)
    heading = "Ranked" if query.candidates else "Recommended"
    print_answer(heading, answer, dict(zip(ids, bundle.catalog.title, strict=True)), query.texts)


def _limits(client: InterestClient) -> tuple[int, int]:
    """Events that one request may carry, and items of an answer, as the server states them."""
    served = client.model_metadata(contract.RECOMMEND.name)
    items = next((output.shape[-1] for output in served.outputs if output.name == contract.ITEM_ID.name), _TOP_N)
    return served.limits.get("max_events", Limits().max_events), items


def _answer(
    client: InterestClient, query: Query, **user: Unpack[UserKeywords]
) -> RecommendResponse | Ranking | Explanation:
    """Calls `recommend`, `rank` or `explain`, as the query needs."""
    if not query.candidates:
        ask = client.explain if query.explain else client.recommend
        return ask(top_n=query.top_n, allow=query.allow, **user)
    ranking = client.rank(candidates=query.candidates, top_n=query.top_n, **user)
    if not query.explain:
        return ranking
    in_order = [item.item_id for item in ranking.items]
    return client.explain(item_ids=[*in_order, *ranking.unknown_item_ids, *ranking.excluded_item_ids], **user)


def _timestamp(text: str) -> datetime:
    try:
        timestamp = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"--now: got {text!r}; expected ISO 8601, as in 2016-10-16T18:00:00") from error
    return timestamp if timestamp.tzinfo is not None else timestamp.replace(tzinfo=timezone.utc)


def _conditions(texts: Sequence[str]) -> dict[str, list[str]]:
    """The allowed values of each column."""
    conditions: dict[str, list[str]] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not column or not equals:
            raise typer.BadParameter(f"--allow: got {text!r}; expected COLUMN=VALUE, as in genre=Comedy")
        conditions.setdefault(column, []).append(value)
    return conditions
