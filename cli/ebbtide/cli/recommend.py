"""``ebbtide recommend``: asks a running server what a person of the log would like next, and shows why."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ebbtide.cli.console import console
from ebbtide.interest.contract import Limits

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ebbtide.client import RecommendResponse
    from ebbtide.interest.events import EventBatch

_SHOWN_EVENTS = 8


def command(
    user: Annotated[str, typer.Argument(help="A person of the bundle's event log.")],
    bundle: Annotated[Path, typer.Option(help="Bundle with the log's place and the titles.")],
    server: Annotated[
        str, typer.Option(help="gRPC address of the server, as printed by `ebbtide serve`.")
    ] = "localhost:8001",
    top_n: Annotated[int, typer.Option(min=1, help="Items to recommend.")] = 10,
    now: Annotated[
        str | None,
        typer.Option(help="Moment of the request, ISO 8601. Unless given, a minute after the last event."),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Share of history, 0 to 1, instead of the learned gate's.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Free text that the person just typed, such as a search; may be repeated.")
    ] = None,
    seen: Annotated[
        bool | None, typer.Option(help="Whether items that the person knows may come again. As trained unless given.")
    ] = None,
) -> None:
    """Recommend items to a person of the log, through the client SDK and a running server.

    **Examples**

    ebbtide recommend 547 --bundle artifacts/bundle --server localhost:8001

    ebbtide recommend 547 --bundle artifacts/bundle --text "space opera with robots"
    """
    moment = None
    if now is not None:
        try:
            moment = datetime.fromisoformat(now)
        except ValueError as error:
            raise typer.BadParameter(f"--now: got {now!r}; expected ISO 8601, as in 2016-10-16T18:00:00") from error
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
    show_recommendations(server, bundle, user, top_n=top_n, now=moment, alpha=alpha, texts=text or (), seen=seen)


def show_recommendations(
    server: str,
    bundle_folder: Path,
    user: str,
    *,
    top_n: int = 10,
    now: datetime | None = None,
    alpha: float | None = None,
    texts: list[str] | tuple[str, ...] = (),
    seen: bool | None = None,
) -> None:
    """Prints a person's recent events with ages and weights, alpha, and the recommended titles with scores."""
    with console.status("Reading the person's events"):
        import numpy as np

        from ebbtide.client import InterestClient, event
        from ebbtide.interest.events import order_events
        from ebbtide.train.bundle import InterestBundle
        from ebbtide.train.stage import read_data

        bundle = InterestBundle.load(bundle_folder)
        log = read_data(bundle.config.data).log
    span = log.of_user(user)
    times, items, weights = log.time_ms[span], log.item[span], log.weight[span]
    if now is None:
        now = datetime.fromtimestamp(int(times[-1]) / 1000, timezone.utc) + timedelta(minutes=1)
    now_ms = round(now.timestamp() * 1000)
    past = np.flatnonzero(times <= now_ms)[-(Limits().max_events - len(texts)) :]
    times, items, weights = times[past], items[past], weights[past]

    ids, titles = bundle.catalog.item_id, [escape(title) for title in bundle.catalog.title]
    weighted = bundle.config.data.weight_column is not None
    events = [
        event(item_id=ids[item], time_ms=int(time_ms), weight=float(weight) if weighted else None)
        for item, time_ms, weight in zip(items, times, weights, strict=True)
    ]
    events += [event(text=text, time_ms=now_ms) for text in texts]
    with InterestClient(server) as client:
        response = client.recommend(
            events=events, now=now, alpha=alpha, exclude_seen=None if seen is None else not seen, top_n=top_n
        )

    batch = order_events(
        counts=np.array([len(times)]),
        time_ms=times,
        now_ms=np.array([now_ms]),
        weight=weights,
        is_current=[None],
        session_gap_ms=bundle.config.model.session_gap_ms,
    )
    rates = bundle.model.decay_rate_per_day.detach().numpy(), bundle.model.rank_decay_rate.detach().numpy()
    _print_events(
        f"What {escape(user)} did last, as of {now:%Y-%m-%d %H:%M} UTC", batch, rates, [titles[item] for item in items]
    )
    for text in texts:
        console.print(f"  just typed: [italic]{escape(text)}[/italic]")
    _print_answer(response, dict(zip(ids, titles, strict=True)))


def _print_events(
    heading: str,
    batch: EventBatch,
    rates: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    titles: list[str],
) -> None:
    from ebbtide.interest.blend import event_multipliers

    multiplier = event_multipliers(batch, *rates).mean(axis=1)
    table = Table(title=heading, title_justify="left", caption_justify="left")
    table.add_column("item")
    table.add_column("age", justify="right")
    table.add_column("part of")
    table.add_column("weight", justify="right")
    for place in range(len(titles) - 1, max(-1, len(titles) - 1 - _SHOWN_EVENTS), -1):
        table.add_row(
            titles[batch.source[place]],
            _age(float(batch.age_days[place])),
            "session" if batch.is_current[place] else "history",
            f"{multiplier[place]:.3f}",
        )
    if len(titles) > _SHOWN_EVENTS:
        older = float(multiplier[:-_SHOWN_EVENTS].mean())
        table.add_row(
            f"[dim]{len(titles) - _SHOWN_EVENTS:,} earlier events[/dim]", "", "", f"[dim]mean {older:.3f}[/dim]"
        )
    table.caption = "weight: what is left of the event, on average over the interest dimensions"
    console.print(table)


def _print_answer(response: RecommendResponse, titles: dict[str, str]) -> None:
    table = Table(
        title=f"Recommended: alpha {response.alpha_used:.2f} (share of history), {response.events_used} events counted",
        title_justify="left",
    )
    table.add_column("", justify="right")
    table.add_column("title")
    table.add_column("score", justify="right")
    for place, item in enumerate(response.items, start=1):
        table.add_row(str(place), titles.get(item.item_id, escape(item.item_id)), f"{item.score:.3f}")
    console.print(table)


def _age(days: float) -> str:
    """A readable age: ``40 s``, ``12 min``, ``5 h``, ``3 d``, ``2.1 y``."""
    seconds = days * 86_400
    for limit, unit, name in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h"), (63_072_000, 86_400, "d")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{days / 365.25:.1f} y"
