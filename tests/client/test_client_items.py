"""Items are added, replaced, listed and removed by both clients and from the command line, on a real server."""

import asyncio
import io
import json
import sys
from unittest import mock

import pytest

import commands
from deadlines import PATIENT
from ebbtide.client import AsyncInterestClient, InterestClient, InvalidArgumentError, new_item
from ebbtide.v1 import AddItemsRequest, RemoveItemsRequest, SetStockRequest

MANY = 70
"""More items than one call to the server takes."""


@pytest.fixture
def client(triton_of_items):
    with InterestClient(triton_of_items.grpc_url, config=PATIENT) as client:
        yield client


def details(client, item_ids):
    return {item.item_id: item for item in client.list_items() if item.item_id in item_ids}


def test_many_items_are_added_and_replaced_in_parts_by_both_clients(client, triton_of_items):
    items = [new_item(f"many {index}", f"film {index}", title=f"Film {index}") for index in range(MANY)]
    answer = client.add_items(items)
    assert (answer.added_items, answer.replaced_items) == (MANY, 0)

    async def again():
        async with AsyncInterestClient(triton_of_items.grpc_url, config=PATIENT) as other:
            replaced = await other.add_items(request=AddItemsRequest(items=items[:65], only_update=True))
            listed = await other.list_items()
            removed = await other.remove_items(request=RemoveItemsRequest(item_ids=[item.item_id for item in items]))
            return replaced, listed, removed

    replaced, listed, removed = asyncio.run(again())
    assert (replaced.added_items, replaced.replaced_items) == (0, 65)
    assert {item.item_id: item.title for item in listed} | {item.item_id: item.title for item in items} == {
        item.item_id: item.title for item in listed
    }
    assert removed.removed_items == MANY


def test_error_names_the_item_in_the_whole_list(client):
    items = [new_item(f"long {index}", "film") for index in range(MANY)]
    items[68].text = "x" * 5_000
    with pytest.raises(InvalidArgumentError, match="at most 4096 bytes") as caught:
        client.add_items(items)
    assert caught.value.field == "items[68].text"
    with pytest.raises(InvalidArgumentError) as caught:
        client.add_items([new_item("", "film")])
    assert caught.value.field == "items[0].item_id"
    client.remove_items([item.item_id for item in items])


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda client: client.add_items([]), "items"),
        (lambda client: client.add_items([new_item("a", "b", attributes={"": "c"})]), "items[0].attributes[0].column"),
        (lambda client: client.add_items([new_item("a", "b", title="c" * 20_000)]), "items[0].title"),
        (lambda client: client.remove_items([]), "item_ids"),
        (lambda client: client.remove_items(["a", ""]), "item_ids[1]"),
        (lambda client: client.remove_items("abc"), "item_ids"),
        (lambda client: client.set_stock(), "out_of_stock_item_ids"),
        (lambda client: client.set_stock(out_of_stock=["a"], in_stock=["b", "a"]), "in_stock_item_ids[1]"),
        (lambda client: client.set_stock(in_stock=["a", "b" * 300]), "in_stock_item_ids[1]"),
        (lambda client: client.set_stock(out_of_stock=map(str, range(8_193))), "out_of_stock_item_ids"),
    ],
)
def test_faulty_call_is_refused_with_its_field(client, call, field):
    with pytest.raises(InvalidArgumentError) as caught:
        call(client)
    assert caught.value.field == field


def test_command_line_adds_updates_lists_and_removes(client, triton_of_items, tmp_path):
    server = ("--server", triton_of_items.grpc_url)
    columns = ("--item-col", "id", "--text-template", "{name} ({year})", "--attribute-col", "genres")
    file = tmp_path / "new.csv"
    file.write_text("id,name,year,genres\ncli-1,A film,2026,Drama|Comedy\ncli-2,Another,,\n")
    done = commands.run("items", "add", file, *columns, *server)
    assert (done.returncode, done.stderr) == (0, "")
    assert "items: 2 added" in done.stdout
    found = details(client, {"cli-1", "cli-2"})
    assert (found["cli-1"].text, found["cli-2"].text) == ("A film (2026)", "Another")
    assert [(one.column, list(one.values)) for one in found["cli-1"].attributes] == [("genres", ["Drama", "Comedy"])]

    rows = [{"id": "cli-1", "name": "Renamed", "year": 2027, "genres": ["Drama"]}, {"id": "cli-3", "name": "New"}]
    with mock.patch.object(sys, "stdin", io.StringIO("\n".join(map(json.dumps, rows)))):
        done = commands.run("items", "update", "-", *columns, *server)
    assert "0 added, 1 replaced, 1 not added before (left out)" in done.stdout
    done = commands.run("items", "list", *server)
    listed = {row["item_id"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert listed["cli-1"] == {
        "item_id": "cli-1",
        "text": "Renamed (2027)",
        "title": "Renamed (2027)",
        "genres": ["Drama"],
    }
    row = {**listed["cli-1"], "item_id": "cli-4", "title": "Its title"}
    with mock.patch.object(sys, "stdin", io.StringIO(json.dumps(row))):
        commands.ebbtide("items", "add", "-", *server)
    again = commands.ebbtide("items", "list", *server).splitlines()
    assert row in map(json.loads, again)
    commands.ebbtide("items", "remove", "cli-4", *server)
    done = commands.run("items", "remove", "cli-1", "cli-2", "cli-3", *server)
    assert "items: 2 removed, 1 that nobody added" in done.stdout
    assert details(client, {"cli-1", "cli-2"}) == {}


def test_command_line_says_lists_and_streams_stock(client, triton_of_items, tmp_path):
    server = ("--server", triton_of_items.grpc_url)
    done = commands.run("items", "out-of-stock", "1", "cli stock", *server)
    assert (done.returncode, done.stderr) == (0, "")
    assert "stock: 2 changed, 1 that nobody knows yet; 2 out of stock now" in done.stdout
    file = tmp_path / "stock.csv"
    file.write_text("id,left\n1,3\n2,0\ncli stock,0\n")
    done = commands.run("items", "stock", file, "--item-col", "id", "--stock-col", "left", *server)
    assert "stock: 2 changed, 1 that nobody knows yet; 2 out of stock now" in done.stdout
    assert sorted(commands.run("items", "stock", *server).stdout.split("\n")) == ["", "2", "cli stock"]
    lines = '{"item_id": 2, "in_stock": true}\n{"item_id": "cli stock", "in_stock": 7}\n'
    with mock.patch.object(sys, "stdin", io.StringIO(lines)):
        done = commands.run("items", "stock", "-", *server)
    assert "; 0 out of stock now" in done.stdout
    assert client.list_out_of_stock() == []
    with mock.patch.object(sys, "stdin", io.StringIO("cli stock\n2\n")):
        commands.run("items", "out-of-stock", "-", *server)
    done = commands.run("items", "in-stock", "2", "cli stock", *server)
    assert "stock: 2 changed" in done.stdout

    async def again():
        async with AsyncInterestClient(triton_of_items.grpc_url, config=PATIENT) as other:
            answer = await other.set_stock(out_of_stock=["3"])
            listed = await other.list_out_of_stock()
            await other.set_stock(request=SetStockRequest(in_stock_item_ids=["3"]))
            return answer.changed_items, listed

    assert asyncio.run(again()) == (1, ["3"])


@pytest.mark.parametrize("line", ['{"item_id": "1"}', '{"item_id": "1", "in_stock": "perhaps"}', "[]", "no json"])
def test_line_that_says_nothing_of_stock_is_named(triton_of_items, line):
    lines = '{"item_id": "1", "in_stock": true}\n' + line
    with mock.patch.object(sys, "stdin", io.StringIO(lines)):
        done = commands.run("items", "stock", "-", "--server", triton_of_items.grpc_url)
    assert done.returncode == 1
    assert "standard input: line 2" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add",), "got 0 sources; expected one file, or -"),
        (("remove",), "got no id"),
        (("list", "a"), "expected nothing behind it"),
        (("out-of-stock",), "out-of-stock: got no id"),
        (("stock", "a", "b"), "got 2 sources; expected one file, - or nothing"),
    ],
)
def test_command_line_says_what_is_missing(triton_of_items, arguments, said):
    done = commands.run("items", *arguments, "--server", triton_of_items.grpc_url)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


def test_line_that_is_no_item_is_named(triton_of_items):
    with mock.patch.object(sys, "stdin", io.StringIO('{"item_id": "a", "text": "b"}\nnot json\n')):
        done = commands.run("items", "add", "-", "--server", triton_of_items.grpc_url)
    assert done.returncode == 1
    assert "line 2: got 'not json'" in " ".join(done.stderr.split())
