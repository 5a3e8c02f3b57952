"""``ebbtide recommend``: asks a running server for recommendations to a user, and shows why.

The events of the user come from the log of a bundle, or from the state that the server keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.access import Tls, TlsCa, TlsCertificate, TlsKey, TlsServerName, TokenFile
from ebbtide.cli.bundle_data import BundleEvents, moved
from ebbtide.cli.console import working
from ebbtide.cli.slate_options import (
    AtLeast,
    AtMost,
    Calibrate,
    Diversity,
    DiversityMethod,
    Exposure,
    slate_of,
)
from ebbtide.cli.states import LOCAL, Server, open_client, timestamp
from ebbtide.cli.titles import ITEM_COL, TEMPLATE, CatalogItemCol, TitleSource, TitleTemplate
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Limits

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ebbtide.client import (
        Explanation,
        InterestClient,
        NumberRange,
        Ranking,
        RecommendResponse,
        Slate,
        UserKeywords,
    )

_TOP_N = 10


@dataclass(frozen=True)
class Query:
    """What a request asks for, in addition to the user's events."""

    top_n: int | None = None
    """None: 10, or as many as an answer holds."""
    now: datetime | None = None
    """None: a minute after the last event of the log; for a state, the clock of this machine."""
    alpha: float | None = None
    decay_scale: float | None = None
    texts: tuple[str, ...] = ()
    """Free texts that the user typed just before the request."""
    seen: bool | None = None
    allow: dict[str, list[str] | NumberRange] = field(default_factory=dict)
    slate: Slate | None = None
    """What the list shall be like; None for the items with the best scores."""
    candidates: tuple[str, ...] = ()
    """Items to rank, in place of the whole catalog."""
    explain: bool = False
    allow_stateless: bool = False
    """Whether the server may answer without the state if its store is down."""


def command(
    user: Annotated[
        str, typer.Argument(help="Id of the user: one whom the server knows, or with --bundle one of its event log.")
    ],
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Bundle that supplies titles and the event log with the user's events. Default: the server uses the "
            "events that it has observed of the user."
        ),
    ] = None,
    server: Server = LOCAL,
    state: Annotated[
        bool,
        typer.Option(
            "--state", help="With --bundle: use the events that the server has observed, not those of the log."
        ),
    ] = False,
    allow_stateless: Annotated[
        bool,
        typer.Option("--allow-stateless", help="Accept an answer without the state if the server's store is down."),
    ] = False,
    top_n: Annotated[
        int | None, typer.Option(min=1, help="Number of items to recommend. Default: 10, or all that an answer holds.")
    ] = None,
    now: Annotated[
        str | None,
        typer.Option(
            help="Time of the request, ISO 8601. Default: now; with a log, a minute after the user's last event."
        ),
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
    number_range: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            metavar="COLUMN=A..B",
            help="Range of a numeric attribute, both bounds included, as in price=..20, price=5..20 or price=5.. "
            "Repeat the option for other columns.",
        ),
    ] = None,
    candidates: Annotated[
        str | None, typer.Option(metavar="ID,ID,...", help="Item ids to rank, in place of the whole catalog.")
    ] = None,
    diversity: Diversity = None,
    diversity_method: DiversityMethod = "mmr",
    at_most: AtMost = None,
    at_least: AtLeast = None,
    calibrate: Calibrate = None,
    exposure: Exposure = None,
    events: BundleEvents = None,
    catalog: Annotated[
        str | None,
        typer.Option(
            help="Catalog file: with --bundle, if it is not where the training read it; else it supplies the titles."
        ),
    ] = None,
    catalog_item_col: CatalogItemCol = ITEM_COL,
    title_template: TitleTemplate = TEMPLATE,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show how much each event and the popularity prior add to each score.")
    ] = False,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    token_file: TokenFile = None,
) -> None:
    """Recommend items to a user, through the client SDK and a running server.

    The server counts the events that it has observed (`ebbtide observe`); with --bundle, those of the bundle's log.

    **Examples**

    ebbtide recommend 547 --server localhost:8001

    ebbtide recommend 547 --bundle artifacts/bundle --server localhost:8001

    ebbtide recommend 547 --bundle artifacts/bundle --text "space opera with robots" --explain

    ebbtide recommend 547 --bundle artifacts/bundle --candidates 318,296,260

    ebbtide recommend 547 --allow genres=War --range price=..20

    ebbtide recommend 547 --diversity .3 --at-most genres=3 --at-least genres=War=2
    """
    slate = slate_of(diversity, diversity_method, at_most or (), at_least or (), calibrate, exposure or ())
    if candidates is not None and slate is not None:
        raise typer.BadParameter(
            "--candidates: got it together with options of a slate; expected only one of them: slates are composed "
            "from the best items of the whole catalog"
        )
    for option, filters in (("--allow", allow), ("--range", number_range)):
        if candidates is not None and filters:
            raise typer.BadParameter(
                f"{option}: got it together with --candidates; expected only one of them: {option} filters the whole "
                "catalog"
            )
    conditions = _conditions(allow or ())
    query = Query(
        top_n=top_n,
        now=None if now is None else timestamp("--now", now),
        alpha=alpha,
        decay_scale=decay_scale,
        texts=tuple(text or ()),
        seen=seen,
        allow={**conditions, **_ranges(number_range or (), conditions)},
        slate=slate,
        candidates=tuple(filter(None, (candidates or "").split(","))),
        explain=explain,
        allow_stateless=allow_stateless,
    )
    if candidates is not None and not query.candidates:
        raise typer.BadParameter(f"--candidates: got {candidates!r}; expected item ids, as in 318,296,260")
    if events is not None and (bundle is None or state):
        raise typer.BadParameter("--events: got a log; expected it with --bundle and without --state")
    with open_client(server, tls, tls_ca, tls_certificate, tls_key, tls_server_name, token_file) as client:
        if bundle is not None and not state:
            show_recommendations(client, bundle, user, query, events, catalog)
        else:
            show_by_state(client, user, query, TitleSource(bundle, catalog, catalog_item_col, title_template).read())


def show_by_state(
    client: InterestClient, user: str, query: Query, titles: Mapping[str, str]
) -> RecommendResponse | Ranking | Explanation:
    """Prints what the server knows of a user, alpha, and the recommended titles with scores; returns the answer."""
    from ebbtide.cli.interest_display import print_interest
    from ebbtide.cli.recommend_display import print_answer
    from ebbtide.client import StateUnavailableError, event

    now = query.now or datetime.now(timezone.utc)
    try:
        print_interest(user, client.interest(user, now=now, decay_scale=query.decay_scale), titles)
    except StateUnavailableError:
        if not query.allow_stateless:
            raise
    answer = _answer(
        client,
        query,
        user_id=user,
        allow_stateless=query.allow_stateless,
        events=[event(text=text, time=now) for text in query.texts],
        now=now,
        alpha=query.alpha,
        decay_scale=query.decay_scale,
        exclude_seen=None if query.seen is None else not query.seen,
    )
    print_answer("Ranked" if query.candidates else "Recommended", answer, titles, query.texts)
    return answer


def show_recommendations(
    client: InterestClient,
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
        from ebbtide.client import event
        from ebbtide.data.dataset import read_dataset
        from ebbtide.train.bundle import InterestBundle

        bundle = moved(InterestBundle.load(bundle_folder), events_file, catalog_file)
        log = read_dataset(bundle.config.data).log
    span = log.of_user(user)
    times, items, weights = log.time_ms[span], log.item[span], log.weight[span]
    now = query.now or datetime.fromtimestamp(int(times[-1]) / 1000, timezone.utc) + timedelta(minutes=1)
    now_ms = round(now.timestamp() * 1000)
    max_events, most_items = _limits(client)
    if query.top_n is None:
        query = replace(query, top_n=min(_TOP_N, most_items))
    past = np.flatnonzero(times <= now_ms)[-(max_events - len(query.texts)) :]
    times, items, weights = times[past], items[past], weights[past]
    types = [log.type_of(span.start + index) for index in past.tolist()]

    ids = bundle.catalog.item_id
    weighted = bundle.config.data.weight_column is not None
    events = [
        event(
            item_id=ids[item],
            time_ms=int(time_ms),
            weight=float(weight) if weighted else None,
            event_type=event_type,
        )
        for item, time_ms, weight, event_type in zip(items, times, weights, types, strict=True)
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
    """Events that one request to the server may carry, and items of an answer, as the served model says."""
    served = client.model_metadata(served_models.RECOMMEND.name)
    items = {tensor.name: tensor.shape[-1] for tensor in served.outputs}
    return served.limits.get("max_events", Limits().max_events), items.get(contract.ITEM_ID.name, _TOP_N)


def _answer(
    client: InterestClient, query: Query, **user: Unpack[UserKeywords]
) -> RecommendResponse | Ranking | Explanation:
    """Calls `recommend`, `rank` or `explain`, as the query needs."""
    if not query.candidates:
        ask = client.explain if query.explain else client.recommend
        return ask(top_n=query.top_n, allow=query.allow, slate=query.slate, **user)
    ranking = client.rank(candidates=query.candidates, top_n=query.top_n, **user)
    if not query.explain:
        return ranking
    in_order = [item.item_id for item in ranking.items]
    return client.explain(item_ids=[*in_order, *ranking.unknown_item_ids, *ranking.excluded_item_ids], **user)


def _conditions(texts: Sequence[str]) -> dict[str, list[str]]:
    """The allowed values of each column."""
    conditions: dict[str, list[str]] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not column or not equals:
            raise typer.BadParameter(f"--allow: got {text!r}; expected COLUMN=VALUE, as in genre=Comedy")
        conditions.setdefault(column, []).append(value)
    return conditions


def _ranges(texts: Sequence[str], conditions: Mapping[str, list[str]]) -> dict[str, NumberRange]:
    """The range of each numeric column."""
    from ebbtide.client import NumberRange

    ranges: dict[str, NumberRange] = {}
    for text in texts:
        column, _, bounds = text.partition("=")
        least, dots, most = bounds.partition("..")
        try:
            found = NumberRange(at_least=float(least) if least else None, at_most=float(most) if most else None)
        except ValueError:
            found = NumberRange()
        if not column or not dots or not found.ListFields():
            raise typer.BadParameter(
                f"--range: got {text!r}; expected COLUMN=A..B with one or two numbers, as in price=5..20 or price=..20"
            )
        if column in ranges or column in conditions:
            raise typer.BadParameter(f"--range: got {column} again; expected one condition for each column")
        ranges[column] = found
    return ranges
