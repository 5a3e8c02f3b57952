"""Ranges of numbers on a real server: exact lists for any bound, in every method that filters, for added items too."""

import json
import math
import random
from datetime import datetime, timezone

import polars as pl
import pytest
from typer.testing import CliRunner

from deadlines import PATIENT, until
from ebbtide.cli.app import app
from ebbtide.client import InterestClient, InvalidArgumentError, NumberRange, event, new_item, slate
from ebbtide.export.attributes import read_attributes
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import export_repository
from ebbtide.serve import ServerConfig
from servers import serving

from .test_client_http import ask

NOW = datetime(2020, 9, 13, 12, 26, 41, tzinfo=timezone.utc)
SETTINGS = {"EBBTIDE_NEW_ITEMS_SECONDS": "0.1"}


@pytest.fixture(scope="module")
def prices(tiny_bundle):
    """The price of each item, with cents; None for one in eight."""
    source = random.Random(5)  # noqa: S311
    drawn = {item_id: source.randint(-300, 9_999) / 100 for item_id in tiny_bundle.catalog.item_id}
    return {item_id: None if source.random() < 1 / 8 else price for item_id, price in drawn.items()}


@pytest.fixture(scope="module")
def repository(tiny_bundle, movielens, prices, tmp_path_factory):
    """An export whose requests filter by genres, price and year, and whose answers hold the whole catalog."""
    folder = tmp_path_factory.mktemp("ranges")
    movies = pl.read_parquet(movielens / "movies.parquet").with_columns(pl.col("movieId").cast(pl.String))
    priced = pl.DataFrame({"movieId": list(prices), "price": list(prices.values())})
    movies.join(priced, on="movieId").write_parquet(folder / "items.parquet")
    ids = tiny_bundle.catalog.item_id
    found = read_attributes(folder / "items.parquet", ["genres"], ids, item_column="movieId", numeric=["price", "year"])
    options = ExportOptions(top_n=len(ids))
    return export_repository(tiny_bundle, folder / "model_repository", options, attributes=found).folder


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    state = f"embedded:{tmp_path_factory.mktemp('ranges-states')}"
    with serving(ServerConfig(repository, state=state, environment=SETTINGS)) as running:
        yield running


def events_of(prices):
    return [
        event(item_id=item_id, time_ms=1_600_000_000_000 - 86_400_000 * at) for at, item_id in enumerate([*prices][:3])
    ]


def ids_of(answer):
    return [item.item_id for item in answer.items]


CASES = {
    "below": (NumberRange(below=20), lambda price: price < 20),
    "at most": (NumberRange(at_most=20), lambda price: price <= 20),
    "above": (NumberRange(above=20), lambda price: price > 20),
    "between": (NumberRange(at_least=-1.5, at_most=20), lambda price: -1.5 <= price <= 20),
    "any": (NumberRange(at_least=-math.inf), lambda _: True),
    "nothing": (NumberRange(above=1e6), lambda _: False),
}


@pytest.mark.parametrize("name", CASES)
def test_lists_hold_just_the_items_of_a_range(server, connect, prices, name):
    allowed, is_inside = CASES[name]
    inside = {item for item, price in prices.items() if price is not None and is_inside(price)}
    with connect(server.grpc_url) as client:
        request = {"events": events_of(prices), "now": NOW, "top_n": len(prices)}
        every = ids_of(client.recommend(**request))
        found = client.recommend(**request, allow={"price": allowed})
        assert ids_of(found) == [item for item in every if item in inside]


def test_bound_is_exact_when_it_is_the_price_of_an_item_or_next_to_it(server, prices):
    with InterestClient(server.grpc_url, config=PATIENT) as client:
        request = {"now": NOW, "top_n": len(prices), "exclude_seen": False}
        for item in [item for item, price in prices.items() if price is not None][:5]:
            for bound, has in (
                (NumberRange(at_most=prices[item]), True),
                (NumberRange(below=prices[item]), False),
                (NumberRange(at_least=prices[item]), True),
                (NumberRange(above=prices[item]), False),
                (NumberRange(at_most=math.nextafter(prices[item], -math.inf)), False),
                (NumberRange(at_least=prices[item], at_most=prices[item]), True),
            ):
                assert (item in ids_of(client.recommend(**request, allow={"price": bound}))) == has


def test_every_method_with_a_filter_takes_ranges(server, connect, prices, genres):
    allow = {"price": NumberRange(below=20), "genres": ["Drama", "Comedy"], "year": NumberRange(at_least=1990)}
    inside = {
        item
        for item, price in prices.items()
        if price is not None and price < 20 and genres[item] & {"Drama", "Comedy"}
    }
    with connect(server.grpc_url) as client:
        request = {"events": events_of(prices), "now": NOW, "allow": allow}
        plain = ids_of(client.recommend(**request, top_n=20))
        assert len(plain) > 5
        assert set(plain) < inside
        typed = {**request, "events": [*request["events"], event(text="a heist", time=NOW)]}
        of_text = ids_of(client.recommend(**typed, top_n=20))
        assert set(of_text) < inside
        assert ids_of(client.recommend(**request, top_n=5, slate=slate(diversity=0.0))) == plain[:5]
        assert set(ids_of(client.recommend(**typed, top_n=5, slate=slate(at_most={"genres": 2})))) < inside
        assert [item.item_id for item in client.explain(**request, top_n=5).items] == plain[:5]


@pytest.mark.parametrize(
    ("allow", "field", "message"),
    [
        ({"cost": NumberRange(below=1)}, "allow[0].range", "a range of a numeric column .*: price, year"),
        ({"genres": NumberRange(below=1)}, "allow[0].range", "values: genres was not exported as a numeric column"),
        ({"price": "20"}, "allow[0].values[0]", "a range of price, a numeric column from -"),
        ({"price": NumberRange(at_least=2, at_most=1)}, "allow[0].range", "a lower bound that is not greater"),
        ({"price": NumberRange(below=math.nan)}, "allow[0].range.below", "a number"),
    ],
)
def test_error_says_what_to_do_when_a_range_cannot_be_served(server, connect, allow, field, message):
    with connect(server.grpc_url) as client, pytest.raises(InvalidArgumentError, match=message) as caught:
        client.recommend(allow=allow)
    assert caught.value.field == field


def test_added_items_are_filtered_by_their_numbers(server, prices):
    items = [
        new_item("new cheap", "A film about a heist", attributes={"genres": ["Drama"], "price": 19.99}),
        new_item("new dear", "A film about a heist", attributes={"genres": ["Drama"], "price": "20.01"}),
        new_item("new priceless", "A film about a heist", attributes={"genres": ["Drama"]}),
    ]
    with InterestClient(server.grpc_url, config=PATIENT) as client:
        client.add_items(items)

        def new_ones(**allow):
            answer = client.recommend(now=NOW, top_n=len(prices), allow=allow)
            return {item.item_id for item in answer.items} & {item.item_id for item in items}

        # Each process of the server reads the items at its own time.
        until(lambda: new_ones(genres="Drama") == {item.item_id for item in items})
        until(lambda: new_ones(price=NumberRange(below=20), genres="Drama") == {"new cheap"})
        both = NumberRange(at_least=19.99, at_most=20.01)
        until(lambda: new_ones(price=both, genres="Drama") == {"new cheap", "new dear"})
        assert new_ones(price=NumberRange(at_least=1e3)) == set()
        listed = {item.item_id: item for item in client.list_items()}
        assert {one.column: list(one.values) for one in listed["new cheap"].attributes}["price"] == ["19.99"]
        client.remove_items([item.item_id for item in items])
        until(lambda: not new_ones(genres="Drama"))


def test_gateway_answers_over_http_when_a_request_has_a_range(server, prices):
    async def run(caller):
        cheap = {"allow": [{"column": "price", "range": {"below": 20}}], "now": NOW.isoformat(), "top_n": len(prices)}
        empty = {"allow": [{"column": "price", "range": {"at_least": 3, "below": 3}}]}
        return await caller.post("recommend", cheap), await caller.post("recommend", empty)

    found, refused = ask(server.grpc_url, run)
    assert found.status == 200
    items = [item["item_id"] for item in found.json["items"]]
    assert set(items) == {item for item, price in prices.items() if price is not None and price < 20}
    assert refused.status == 400
    assert "allow[0].range: got at_least 3.0, below 3.0; expected a lower bound" in json.dumps(refused.json)


def test_command_recommends_items_of_a_range(server, prices):
    command = ["recommend", "somebody", "--server", server.grpc_url, "--range", "price=..20", "--top-n", "5"]
    run = CliRunner().invoke(app, [*command, "--allow", "genres=Drama"], env={"COLUMNS": "200"})
    assert run.exit_code == 0, run.output
    cheap = {item for item, price in prices.items() if price is not None and price <= 20}
    shown = [word for line in run.output.splitlines() for word in line.replace("│", " ").split() if word in prices]
    assert len(set(shown) & cheap) >= 5
    for text in ("price", "price=20", "price=..", "price=a..b"):
        refused = CliRunner().invoke(app, [*command, "--range", text])
        assert refused.exit_code == 2
        assert "expected COLUMN=A..B" in " ".join(refused.output.replace("│", " ").split())
