"""What the models themselves tell on the metrics page of a real server: numbers that follow from the requests."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timezone

import pytest

from deadlines import PATIENT, until
from ebbtide.client import InterestClient, InvalidArgumentError, event
from ebbtide.interest import meters
from ebbtide.serve import ServerConfig, TritonServer
from servers import only, serving

NOW = datetime(2023, 11, 14, tzinfo=timezone.utc)
NOW_MS = int(NOW.timestamp() * 1000)
HOUR_MS, DAY_MS = 3_600_000, 86_400_000

SERIES = re.compile(r"^(ebbtide_\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
Page = dict[tuple[str, frozenset[tuple[str, str]]], float]


def page_of(server: TritonServer) -> Page:
    """The value of each series of ours, summed over the processes of a model; of a time, one of them."""
    with urllib.request.urlopen(server.metrics_url) as answer:  # noqa: S310 - an address of this machine
        text = answer.read().decode()
    page: Page = defaultdict(float)
    for name, labels, number in SERIES.findall(text):
        of_model = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        assert of_model.pop("process").isdecimal()
        series = (name, frozenset(of_model.items()))
        page[series] = float(number) + (0 if "timestamp" in name else page[series])
    return dict(page)


def value(page: Page, name: str, model: str = "adaptive_weights", **labels: str) -> float | None:
    return page.get((name, frozenset({**labels, "model": model, "version": "1"}.items())))


def counted(page: Page, family: meters.Counter, model: str = "adaptive_weights") -> dict[str, float | None]:
    assert family.label is not None
    return {one: value(page, family.name, model, **{family.label: one}) for one in family.values}


def page_with(server: TritonServer, is_there: Callable[[Page], bool]) -> Page:
    """The page, once it has what the models hand on every 2 seconds."""
    until(lambda: is_there(page_of(server)), pause_s=0.1)
    return page_of(server)


@pytest.fixture(scope="module")
def server(tiny_export, tmp_path_factory) -> Iterator[TritonServer]:
    state = f"embedded:{tmp_path_factory.mktemp('states')}"
    with serving(ServerConfig(tiny_export.folder, state=state, environment={meters.METRICS_VARIABLE: "on"})) as running:
        yield running


@pytest.fixture(scope="module")
def warmed_up(server) -> Page:
    """With the requests of the warm-up: the page once two hand-ons have not changed it."""
    before: Page = {}
    for _ in range(20):
        page = {series: number for series, number in page_of(server).items() if "timestamp" not in series[0]}
        if page == before:
            return page
        before = page
        time.sleep(5)
    pytest.fail("the page changed without requests")


@pytest.fixture(scope="module")
def page(server, warmed_up) -> Page:
    """What was counted while six users were answered, one of whom the store knows, and one was refused."""

    def seen(*item_ids: str, age_ms: int) -> list:
        return [event(item_id=item_id, time_ms=NOW_MS - age_ms) for item_id in item_ids]

    with InterestClient(server.grpc_url, config=PATIENT) as client:
        ask = {"now": NOW, "top_n": 5}
        client.recommend(**ask)
        client.recommend(history=seen("1", "2", age_ms=3 * DAY_MS), **ask)
        client.recommend(current=seen("3", age_ms=HOUR_MS // 2), allow={"genres": ["Drama"]}, **ask)
        client.recommend(
            history=seen("1", age_ms=DAY_MS), current=seen("2", "no such item", age_ms=0), unknown_items="ignore", **ask
        )
        client.observe("somebody", seen("1", "2", "no such item", age_ms=2 * DAY_MS), unknown_items="ignore")
        client.observe("somebody", seen("1", age_ms=2 * DAY_MS))
        client.recommend(user_id="somebody", alpha=0.25, current=seen("5", age_ms=0), **ask)
        client.recommend(user_id="nobody", **ask)
        with pytest.raises(InvalidArgumentError):
            client.recommend(history=seen("no such item", age_ms=DAY_MS), unknown_items="error", **ask)
        client.explain(item_ids=["7"], user_id="somebody", now=NOW)
    after = page_with(
        server,
        lambda page: (
            value(page, "ebbtide_states_total", status="unknown_user") == 1
            and value(page, "ebbtide_states_total", "explainer", status="used") == 1
            and value(page, "ebbtide_observed_events_total", "observer", outcome="duplicate") == 1
            and value(page, "ebbtide_items_read_timestamp_seconds") is not None
        ),
    )
    return {series: number - warmed_up.get(series, 0) for series, number in after.items()}


def test_users_and_events_are_counted_by_kind_when_they_were_answered(page):
    assert counted(page, meters.ANSWERS) == {"none": 2, "history": 1, "session": 1, "both": 2}
    assert counted(page, meters.EVENTS) == {"history": 5, "session": 3, "unknown_item": 1}
    assert value(page, "ebbtide_filtered_answers_total") == 1


def test_histograms_tell_what_the_answers_had(page):
    buckets = {bound: value(page, "ebbtide_newest_event_age_seconds_bucket", le=bound) for bound in ("60", "3600")}
    assert buckets == {"60": 2, "3600": 3}
    assert value(page, "ebbtide_newest_event_age_seconds_bucket", le="+Inf") == 4
    assert value(page, "ebbtide_newest_event_age_seconds_count") == 4
    assert value(page, "ebbtide_newest_event_age_seconds_sum") == pytest.approx(3 * 86_400 + 1_800)
    # Of those with a history and a session, one asked for its own alpha.
    assert value(page, "ebbtide_alpha_count") == 2
    below = [value(page, "ebbtide_alpha_bucket", le=bound) for bound in ("0.2", "0.3", "+Inf")]
    assert below == sorted(below)
    assert below[1] - below[0] >= 1


def test_states_and_failures_are_counted_by_what_became_of_them(page):
    states = {"used": 1, "unknown_user": 1, "unavailable": 0, "raw_only": 0, "partly_scaled": 0}
    assert counted(page, meters.STATES) == states
    assert counted(page, meters.STATES, "explainer") == {**states, "unknown_user": 0}
    assert counted(page, meters.FAILED) == {"request": 1, "store": 0, "model": 0}
    assert value(page, "ebbtide_store_seconds_count") == 2
    assert counted(page, meters.OBSERVED, "observer") == {
        "added": 2,
        "duplicate": 1,
        "late": 0,
        "unknown_item": 1,
    }


def test_time_of_the_last_read_is_told_when_the_catalog_is_followed(page):
    read = value(page, meters.ITEMS_READ.name)
    assert read is not None
    assert abs(time.time() - read) < 600


def test_series_do_not_grow_with_requests_when_users_and_items_differ(server, page):
    with InterestClient(server.grpc_url, config=PATIENT) as client:
        for one in range(20):
            client.recommend(user_id=f"user {one}", current=[event(item_id=str(one + 1), time_ms=NOW_MS)], now=NOW)
    page_with(server, lambda later: value(later, "ebbtide_states_total", status="unknown_user") == 21)
    assert page_of(server).keys() == page.keys()


def test_server_shows_no_metrics_of_models_unless_they_are_turned_on(tiny_export):
    config = ServerConfig(tiny_export.folder, **only("recommend"))
    with serving(config) as server, InterestClient(server.grpc_url, config=PATIENT) as client:
        client.recommend()
        assert page_of(server) == {}
