"""Items that are added to real servers, stock and rules: recommended, ranked, explained, observed, on every server."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import torch

from ebbtide.client import InterestClient, StateStatus, event, new_item, recommend_request, rule
from ebbtide.export.attributes import read_attributes
from ebbtide.export.inprocess import InProcessPipeline, tensors_of
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import export_repository
from ebbtide.interest import contract, served_models
from ebbtide.interest.checks import Request
from ebbtide.interest.keys import item_keys
from ebbtide.serve import ServerConfig
from ebbtide.train.bundle import InterestBundle, fingerprint_of
from ebbtide.train.popularity import counted_at
from redis_servers import HOW_TO_GET, RedisServer, redis_program
from servers import serving

NOW = datetime(2023, 11, 14, tzinfo=timezone.utc)
NOW_MS = int(NOW.timestamp() * 1000)
DAY_MS = 86_400_000
LIKED = 30
"""The item whose text the new item has."""
NEW = "new-1"
FEW = "Film-Noir"
"""A genre of few items of the catalog."""
GENRES = [FEW, "a genre of its own"]
SETTINGS = {
    "EBBTIDE_STATE_TIMEOUT_MS": "20000",
    "EBBTIDE_POPULARITY_SECONDS": "0.2",
    "EBBTIDE_NEW_ITEMS_SECONDS": "0.1",
}
PATIENCE_S = 120
LATER = NOW + timedelta(minutes=2)


@pytest.fixture(scope="module", params=["embedded", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the store; the bundle has a repeat score or none."""
    return str(request.param)


@pytest.fixture(scope="module")
def bundle(make_bundle: Callable[..., InterestBundle], kind: str) -> InterestBundle:
    """A bundle with counts, as training and `ebbtide refresh` leave it."""
    made = make_bundle(repeat_score=kind == "redis", exclude_seen=kind != "redis")
    random = np.random.default_rng(0)
    items = len(made.catalog)
    log = random.integers(0, items, 500), NOW_MS - random.integers(1, 40 * DAY_MS, 500)
    model = copy.deepcopy(made.model)
    model.prior_smoothing_events.fill_(20.0)
    counted = counted_at(*log, items, model.smoothing, NOW_MS)
    columns = counted.columns()
    fingerprint = fingerprint_of(model, columns, made.catalog, made.config.encoder)
    config = made.config.model_copy(update={"fingerprint": fingerprint, "prior_counted_at_ms": NOW_MS})
    return replace(made, config=config, model=model, prior_columns=columns, prior_counts=counted.counts)


@pytest.fixture(scope="module")
def repository(bundle: InterestBundle, movielens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    genres = read_attributes(movielens / "movies.parquet", ["genres"], bundle.catalog.item_id, item_column="movieId")
    folder = tmp_path_factory.mktemp("new") / "model_repository"
    return export_repository(bundle, folder, ExportOptions(top_n=20), attributes=genres).folder


@pytest.fixture
def store(kind: str, tmp_path: Path) -> Iterator[str]:
    if kind == "embedded":
        yield f"embedded:{tmp_path / 'states'}"
        return
    program = redis_program()
    if program is None:
        pytest.fail(HOW_TO_GET)
    server = RedisServer(program, tmp_path)
    server.start()
    yield server.address
    server.stop()


def until(is_so: Callable[[], bool]) -> None:
    """Waits for what the server does in the background."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def opened(repository: Path, store: str) -> Iterator[InterestClient]:
    config = ServerConfig(repository, state=store, environment=SETTINGS)
    with serving(config) as server, InterestClient(server.grpc_url) as client:
        yield client


@contextmanager
def asked_all_the_time(client: InterestClient) -> Iterator[list[Exception]]:
    """Asks for recommendations in a thread; gives the errors."""
    failures: list[Exception] = []
    ends = threading.Event()

    def ask() -> None:
        while not ends.wait(0.02):
            try:
                client.recommend(user_id="asks", now=NOW, timeout_s=PATIENCE_S)
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield failures
    finally:
        ends.set()
        thread.join()


def listed(client: InterestClient, **request: object) -> dict[str, float]:
    """Scores of the recommended items, best first."""
    answer = client.recommend(**{"now": NOW, "top_n": 20, "exclude_seen": False, **request})
    scores = [item.score for item in answer.items]
    assert scores == sorted(scores, reverse=True)
    return {item.item_id: item.score for item in answer.items}


def score_of_text(bundle: InterestBundle, repository: Path, item: str, time_ms: int) -> float:
    """The score, after one event, of an item with the text of `LIKED`, without residual and events, from torch.

    An item that was just added is as popular as the average one, for which the prior's columns are 0.
    """
    pipeline = InProcessPipeline(repository)
    request = Request(item_keys([item]), np.array([time_ms]), np.array([NOW_MS]))
    weights = served_models.ADAPTIVE_WEIGHTS
    interest = pipeline.run(weights.name, tensors_of(request, weights))[contract.INTEREST.name][0]
    model = bundle.model
    with torch.inference_mode():
        factor = (model.text_vectors[LIKED] @ model.item_projection * model.gamma).numpy()
    return float(interest[: factor.size] @ factor)


def test_added_item_is_served_everywhere_until_it_is_removed(
    bundle: InterestBundle, repository: Path, store: str
) -> None:
    liked = bundle.catalog.item_id[LIKED]
    events = [event(item_id=liked, time=NOW - timedelta(days=1))]
    given = new_item(NEW, bundle.catalog.text[LIKED], title="A new film", attributes={"genres": GENRES, "year": "2023"})
    # So few items pass that all of them are listed.
    of_few = {"allow": {"genres": FEW}, "events": events}

    with opened(repository, store) as client, asked_all_the_time(client) as failures:
        before = listed(client, events=events)
        answer = client.add_items([given, new_item(liked, "the catalog has it")], timeout_s=PATIENCE_S)
        assert (answer.added_items, answer.catalog_items, answer.total_items) == (1, 1, 1)
        assert NEW not in before

        # Recommended, ranked and explained with the score that its text gives; each process reads at its own time.
        until(lambda: NEW in listed(client, **of_few))
        expected = score_of_text(bundle, repository, liked, NOW_MS - DAY_MS)
        until(lambda: list(client.rank(candidates=[NEW], now=NOW, events=events).items))
        until(lambda: client.explain(item_ids=[NEW], now=NOW, events=events).items[0].score)
        ranked = client.rank(candidates=[NEW, "none"], now=NOW, events=events)
        (explained,) = client.explain(item_ids=[NEW], now=NOW, events=events).items
        assert ranked.items[0].score == pytest.approx(expected, abs=1e-4)
        assert ranked.unknown_item_ids == ["none"]
        assert explained.score == pytest.approx(expected, abs=1e-4)
        shares = sum(explained.event_shares) + explained.prior_share + explained.adjustment_share
        assert shares == pytest.approx(explained.score, abs=1e-4)
        assert listed(client, **of_few)[NEW] == pytest.approx(expected, abs=1e-4)
        assert NEW not in listed(client, events=events, allow={"genres": "Comedy"})
        # Requests with texts are answered by models of their own.
        said = [event(text="space opera", time=NOW)]
        until(lambda: NEW in listed(client, events=said, allow={"genres": FEW}))
        of_text = client.rank(candidates=[NEW, liked], events=said, now=NOW, exclude=[liked])
        assert [item.item_id for item in of_text.items] == [NEW]
        assert of_text.items[0].score == pytest.approx(
            listed(client, events=said, allow={"genres": FEW})[NEW], abs=1e-4
        )
        assert NEW not in listed(client, **of_few, exclude=[NEW])
        assert client.rank(candidates=[NEW], exclude=[NEW], now=NOW).excluded_item_ids == [NEW]

        # Its events count.
        until(lambda: client.observe("u1", [event(item_id=NEW, time=NOW)], unknown_items="ignore").unknown_events == 0)
        seen = client.recommend(user_id="u1", now=LATER, exclude_seen=True, top_n=20)
        assert (seen.state_status, seen.events_used) == (StateStatus.STATE_STATUS_USED, 1)
        assert NEW not in [item.item_id for item in seen.items]
        until(lambda: client.interest("u1", now=NOW).events[0].event.item_id == NEW)
        same = client.rank(user_id="u1", candidates=[NEW], exclude_seen=True, now=LATER)
        assert same.excluded_item_ids == [NEW]
        # A state folds all but the newest events into sums, and knows their item by its slot.
        hours = range(30)
        client.observe("many", [event(item_id=NEW, time=NOW - timedelta(hours=hour)) for hour in hours])
        folded = client.recommend(user_id="many", exclude_seen=True, now=LATER, top_n=20)
        assert folded.events_used == len(hours)
        assert NEW not in [item.item_id for item in folded.items]

        # A trend among all users puts it at the head.
        for user in range(80):
            client.observe(f"trend {user}", [event(item_id=NEW, time=NOW + timedelta(seconds=user))])
        until(lambda: next(iter(listed(client, now=LATER))) == NEW)
        until(lambda: client.rank(candidates=[liked, NEW], now=LATER).items[0].item_id == NEW)
        trending = settled(lambda: listed(client, now=LATER))

        # It survives: another server finds it in the store. What one server does, the other follows.
        with opened(repository, store) as beside:
            until(lambda: listed(beside, now=LATER) == pytest.approx(trending, abs=1e-4))
            (there,) = beside.list_items()
            assert (there.item_id, there.title, list(there.attributes[0].values)) == (NEW, "A new film", GENRES)
            changed = copy.deepcopy(given)
            changed.text = bundle.catalog.text[0]
            assert beside.add_items([changed], only_update=True, timeout_s=PATIENCE_S).replaced_items == 1
            old = client.rank(candidates=[NEW], now=NOW, events=events).items[0].score
            for one in (client, beside):
                until(lambda one=one: one.explain(item_ids=[NEW], now=NOW, events=events).items[0].score != old)
            gone = beside.remove_items([NEW, liked])
            assert (gone.removed_items, gone.unknown_items, gone.total_items) == (1, 1, 0)
            for one in (beside, client):
                until(lambda one=one: NEW not in listed(one, now=LATER))
                until(lambda one=one: list(one.rank(candidates=[NEW], now=LATER).unknown_item_ids) == [NEW])
        assert client.recommend(user_id="many", exclude_seen=True, now=LATER).items
        assert client.add_items([given], only_update=True, timeout_s=PATIENCE_S).unknown_items == 1
    assert failures == []


def test_item_out_of_stock_is_in_no_list_of_any_server(bundle: InterestBundle, repository: Path, store: str) -> None:
    ids = bundle.catalog.item_id
    liked = ids[LIKED]
    events = [event(item_id=liked, time=NOW - timedelta(days=1))]
    given = new_item(NEW, bundle.catalog.text[LIKED], attributes={"genres": GENRES})
    later = new_item("later", bundle.catalog.text[LIKED])

    with opened(repository, store) as client, asked_all_the_time(client) as failures:
        client.add_items([given], timeout_s=PATIENCE_S)
        until(lambda: NEW in listed(client, allow={"genres": FEW}))
        asks = {"events": events, "exclude_seen": False, "now": NOW}
        until(lambda: list(client.rank(candidates=[NEW], **asks).items))
        scores = {item.item_id: item.score for item in client.rank(candidates=[*ids, NEW], **asks).items}
        # All but a few.
        left = sorted(scores, key=lambda item: -scores[item])[7::20]
        out = [item for item in (*ids, NEW, "later") if item not in left]
        answer = client.set_stock(out_of_stock=out, timeout_s=PATIENCE_S)
        assert (answer.changed_items, answer.unknown_items, answer.out_of_stock_items) == (len(out), 1, len(out))
        expected = dict(sorted(((item, scores[item]) for item in left), key=lambda pair: -pair[1])[:20])
        until(lambda: NEW not in listed(client, events=events))
        until(lambda: listed(client, events=events) == pytest.approx(expected, abs=1e-4))
        said = [event(text="space opera", time=NOW)]
        until(lambda: set(listed(client, events=said)) <= set(left))
        assert set(listed(client, events=events, allow={"genres": "Drama"})) <= set(left)
        assert set(listed(client, events=events, exclude_seen=True)) <= set(left)

        # What is out of stock is ranked and explained as before, and said.
        until(lambda: liked in client.rank(candidates=[liked], now=NOW).out_of_stock_item_ids)
        until(lambda: client.explain(item_ids=[liked], now=NOW).items[0].is_out_of_stock)
        ranked = client.rank(candidates=[liked, left[0], NEW], **asks)
        assert {item.item_id: item.score for item in ranked.items} == pytest.approx(
            {item: scores[item] for item in (liked, left[0], NEW)}, abs=1e-4
        )
        assert ranked.out_of_stock_item_ids == [liked, NEW]
        (explained, other) = client.explain(item_ids=[liked, left[0]], **asks).items
        assert explained.score == pytest.approx(scores[liked], abs=1e-4)
        assert not other.is_out_of_stock

        # Another server, and an item that comes later, find it in the store.
        client.add_items([later], timeout_s=PATIENCE_S)
        with opened(repository, store) as beside:
            until(lambda: listed(beside, events=events) == pytest.approx(expected, abs=1e-4))
            until(lambda: beside.rank(candidates=["later"], now=NOW).out_of_stock_item_ids == ["later"])
            assert sorted(beside.list_out_of_stock()) == sorted(out)
            again = beside.set_stock(in_stock=out, out_of_stock=left[:1], timeout_s=PATIENCE_S)
            assert (again.changed_items, again.out_of_stock_items) == (len(out) + 1, 1)
            best = {item: score for item, score in scores.items() if item != left[0]} | {"later": scores[NEW]}
            best = dict(sorted(best.items(), key=lambda pair: -pair[1])[:20])
            for one in (client, beside):
                until(lambda one=one: listed(one, events=events) == pytest.approx(best, abs=1e-4))
            # Its events count.
            assert client.observe("u1", [event(item_id=left[0], time=NOW)]).added_events == 1
    assert failures == []


def test_rules_move_items_in_the_lists_of_every_server(bundle: InterestBundle, repository: Path, store: str) -> None:
    ids = bundle.catalog.item_id
    events = [event(item_id=ids[LIKED], time=NOW - timedelta(days=1))]
    given = new_item(NEW, bundle.catalog.text[LIKED], attributes={"genres": GENRES})

    with opened(repository, store) as client, asked_all_the_time(client) as failures:
        client.add_items([given], timeout_s=PATIENCE_S)
        until(lambda: NEW in listed(client, allow={"genres": FEW}))
        asks = {"events": events, "exclude_seen": False, "now": NOW}
        until(lambda: list(client.rank(candidates=[NEW], **asks).items))
        scores = {item.item_id: item.score for item in client.rank(candidates=[*ids, NEW], **asks).items}
        best = sorted(scores, key=lambda item: -scores[item])
        of_few = set(listed(client, events=events, allow={"genres": FEW}))
        assert NEW in of_few
        rules = [
            rule("few up", boost=3, attributes={"genres": FEW}),
            rule("best down", bury=2.5, item_ids=best[:3]),
            rule("seen up", boost=1, item_ids=[ids[LIKED], best[0]]),
            rule("campaign", boost=50, item_ids=best[-2:], since=LATER),
            rule("front", pin=2, item_ids=best[-3:-1]),
        ]
        answer = client.set_rules(rules, timeout_s=PATIENCE_S)
        assert (answer.added_rules, answer.total_rules) == (5, 5)
        gains = {item: 3.0 * (item in of_few) for item in scores}
        for item in best[:3]:
            gains[item] -= 2.5
        for item in {ids[LIKED], best[0]}:
            gains[item] += 1
        expected = {item: score + gains[item] for item, score in scores.items()}
        order = sorted(expected, key=lambda item: -expected[item])[:19]
        pinned = max(best[-3:-1], key=lambda item: expected[item])
        order.insert(1, pinned)

        def answers(one: InterestClient) -> list[str]:
            return [item.item_id for item in one.recommend(**asks, top_n=20).items]

        until(lambda: answers(client) == order)
        for item in client.recommend(**asks, top_n=20).items:
            assert item.score == pytest.approx(expected[item.item_id], abs=1e-4)
            names = [
                name
                for name, about in (
                    ("few up", item.item_id in of_few),
                    ("best down", item.item_id in best[:3]),
                    ("seen up", item.item_id in (ids[LIKED], best[0])),
                )
                if about
            ]
            assert list(item.rules) == (["front"] if item.item_id == pinned else names)
        # Of several users in one call, of those with texts, and at the time of the campaign.
        results = client.recommend_many([recommend_request(**asks, top_n=20)] * 3)
        assert [[item.item_id for item in result.response.items] for result in results] == [order] * 3
        said = [event(text="space opera", time=NOW)]
        until(lambda: client.recommend(events=said, now=NOW).items[1].rules == ["front"])
        assert set(best[-2:]) <= set(answers_at(client, LATER)[:4])
        # What a request does not allow stays out, pins too; ranks and explanations are those of the model.
        assert not {NEW, pinned} & set(listed(client, **{**asks, "exclude": [NEW, *best[-3:-1]]}))
        same = {item.item_id: item.score for item in client.rank(candidates=[*ids, NEW], **asks).items}
        assert same == pytest.approx(scores, abs=1e-4)

        with opened(repository, store) as beside:
            until(lambda: answers(beside) == order)
            assert [one.name for one in beside.list_rules().rules] == [one.name for one in rules]
            gone = beside.remove_rules([one.name for one in rules], timeout_s=PATIENCE_S)
            assert (gone.removed_rules, gone.total_rules) == (5, 0)
            for one in (client, beside):
                until(lambda one=one: answers(one) == best[:20])
        assert not any(item.rules for item in client.recommend(**asks).items)
    assert failures == []


def answers_at(client: InterestClient, now: datetime) -> list[str]:
    return [item.item_id for item in client.recommend(now=now, top_n=20).items]


def settled(read: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What stays the same from one reading to the next, while servers write and read what they counted."""
    found = [read()]

    def is_same() -> bool:
        time.sleep(2)
        found.append(read())
        return found[-1] == found[-2]

    until(is_same)
    return found[-1]
