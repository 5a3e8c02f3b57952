"""What the page asks beside the gateway's methods, and its files, over a real gateway."""

import asyncio
import json
import re
import urllib.error
import urllib.request
from importlib.resources import files

import polars as pl
import pytest

from ebbtide.data.catalog import Catalog
from ebbtide.data.dataset import Dataset
from ebbtide.data.errors import DataError
from ebbtide.data.events import build_log
from ebbtide.gateway import Gateway, GatewayConfig
from ebbtide.studio import StudioData, pages
from ebbtide.studio.titles import MOST_EVENTS, MOST_FOUND

STATIC = files("ebbtide.studio").joinpath("static")


def data_of(users, titles, *, weighted=False):
    """Users by id with their items, an event a minute."""
    catalog = Catalog([str(item) for item in range(len(titles))], list(titles), list(titles))
    rows = [
        {"user": user, "item": str(item), "time_ms": 60_000 * minute, "weight": 2.0}
        for user, items in users.items()
        for minute, item in enumerate(items)
    ]
    frame = pl.DataFrame(rows, schema={"user": str, "item": str, "time_ms": pl.Int64, "weight": pl.Float32})
    return StudioData(Dataset(build_log(frame, catalog.index), catalog, None, None), weighted=weighted)


@pytest.fixture(scope="module")
def data():
    titles = ["Heat (1995)", "Heat [and] Dust", "The Matrix", "Amélie", "<b>Bold</b> & co."]
    return data_of({"ann": [0, 1, 1, 2], "bob": [1], "eve": [3, 3, 3, 3, 3]}, titles)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("heat", ["1", "0"]),
        ("HEAT dust", ["1"]),
        ("heat [and]", ["1"]),
        ("amélie", ["3"]),
        ("nothing", []),
        ("", ["3", "1", "0", "2", "4"]),
    ],
)
def test_search_finds_items_with_all_words_and_the_popular_ones_first(data, words, found):
    assert [item["item_id"] for item in data.search(words)] == found


def test_search_finds_a_limited_number_of_items():
    many = data_of({"ann": [0]}, [f"film {number}" for number in range(100)])
    assert len(many.search("film")) == MOST_FOUND


def test_titles_leave_out_what_the_catalog_does_not_have(data):
    assert data.titles(["3", "99"]) == {"3": "Amélie"}


def test_events_of_a_user_are_the_newest_in_order(data):
    events = data.events("ann")
    assert [event["title"] for event in events] == ["Heat (1995)", "Heat [and] Dust", "Heat [and] Dust", "The Matrix"]
    assert [event["time_ms"] for event in events] == [0, 60_000, 120_000, 180_000]
    assert {event["weight"] for event in events} == {None}
    assert {event["weight"] for event in data_of({"ann": [0]}, ["a"], weighted=True).events("ann")} == {2.0}
    long = data_of({"ann": [0] * 600}, ["a"]).events("ann")
    assert (len(long), long[-1]["time_ms"]) == (MOST_EVENTS, 60_000 * 599)
    with pytest.raises(DataError, match="'an'"):
        data.events("an")


def test_examples_are_users_with_a_usual_number_of_events():
    users = {f"u{number}": [0] * number for number in range(1, 101)}
    examples = data_of(users, ["a"]).examples()
    assert len(examples) == 8
    assert all(50 <= int(user[1:]) <= 91 for user in examples)


def test_gateway_serves_the_page_and_its_questions(data):
    def get(url):
        try:
            with urllib.request.urlopen(url, timeout=300) as answer:  # noqa: S310 - the gateway's own URL
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    async def run():
        # Nothing of the page asks Triton.
        async with Gateway(GatewayConfig(triton="127.0.0.1:9", http_port=0), pages=pages(data)) as gateway:
            paths = [f"/studio/{file.name}" for file in STATIC.iterdir() if file.name != "index.html"]
            paths += ["/studio/search?words=heat", "/studio/titles?item_id=3&item_id=9", "/studio/users"]
            paths += ["/studio/events?user_id=bob", "/studio/events?user_id=nobody", "/", "/openapi.json"]
            return {path: await asyncio.to_thread(get, gateway.http_url + path) for path in paths}

    answers = asyncio.run(run())
    unknown_user = answers.pop("/studio/events?user_id=nobody")
    assert unknown_user[0] == 404
    assert "nobody" in json.loads(unknown_user[2])["detail"]
    assert {status for status, _, _ in answers.values()} == {200}
    assert [item["item_id"] for item in json.loads(answers["/studio/search?words=heat"][2])["items"]] == ["1", "0"]
    assert json.loads(answers["/studio/titles?item_id=3&item_id=9"][2]) == {"titles": {"3": "Amélie"}}
    assert json.loads(answers["/studio/events?user_id=bob"][2])["events"][0]["item_id"] == "1"
    assert "default-src 'self'" in answers["/"][1]["content-security-policy"]


def test_page_loads_nothing_from_elsewhere_and_writes_no_html():
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn", text), file.name
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", text), file.name


def test_all_words_of_the_page_are_there_in_both_languages():
    words = STATIC.joinpath("words.js").read_text(encoding="utf-8")
    english, chinese = (re.search(rf"const {name} = (\{{.*?\n\}});", words, re.DOTALL)[1] for name in ("EN", "ZH"))
    keys = [re.findall(r"^  (\w+):", part, re.MULTILINE) for part in (english, chinese)]
    assert keys[0] == keys[1]
    used = re.findall(r'data-words="(\w+)"', STATIC.joinpath("index.html").read_text(encoding="utf-8"))
    assert set(used) <= set(keys[0])
