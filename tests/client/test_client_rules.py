"""Rules of the house are set, listed and removed by both clients and from the command line, on a real server."""

import asyncio
import io
import sys
from datetime import datetime, timezone
from unittest import mock

import pytest

import commands
from deadlines import PATIENT
from ebbtide.client import AsyncInterestClient, InterestClient, InvalidArgumentError, rule
from ebbtide.v1 import RemoveRulesRequest, SetRulesRequest

TOML = """
[spring]
boost = 1.5
items = ["1", 2]
attributes = { genres = ["Drama", "Comedy"] }
since = 2026-03-01T00:00:00Z
until = 2026-04-01T00:00:00+02:00

["front page"]
pin = 1
items = ["3"]
"""


@pytest.fixture
def client(triton_of_items):
    with InterestClient(triton_of_items.grpc_url, config=PATIENT) as client:
        yield client
        names = [one.name for one in client.list_rules().rules]
        if names:
            client.remove_rules(names)


def test_command_line_sets_lists_and_removes(client, triton_of_items, tmp_path):
    server = ("--server", triton_of_items.grpc_url)
    file = tmp_path / "rules.toml"
    file.write_text(TOML)
    done = commands.run("rules", "set", file, *server)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rules: 2 added, 0 replaced; 2 now" in done.stdout
    spring, front = client.list_rules().rules
    assert (spring.name, spring.boost, list(spring.item_ids)) == ("spring", 1.5, ["1", "2"])
    assert [(one.column, list(one.values)) for one in spring.attributes] == [("genres", ["Drama", "Comedy"])]
    assert spring.since.ToDatetime(timezone.utc) == datetime(2026, 3, 1, tzinfo=timezone.utc)
    assert spring.until.ToDatetime(timezone.utc) == datetime(2026, 3, 31, 22, tzinfo=timezone.utc)
    assert (front.name, front.pin) == ("front page", 1)

    # What is listed may be set again, and is the same.
    listed = commands.run("rules", "list", *server).stdout
    assert (
        "2 removed, 1 that nobody set; 0 now"
        in commands.run("rules", "remove", "spring", "front page", "none", *server).stdout
    )
    with mock.patch.object(sys, "stdin", io.StringIO(listed)):
        assert "2 added" in commands.run("rules", "set", "-", *server).stdout
    assert list(client.list_rules().rules) == [spring, front]


@pytest.mark.usefixtures("client")
def test_command_line_tells_of_items_that_nobody_knows(triton_of_items, tmp_path):
    file = tmp_path / "rules.toml"
    file.write_text('[a]\nboost = 1\nitems = ["1", "no such item", "01"]\n["b"]\npin = 1\nitems = ["01", "2"]\n')
    done = commands.run("rules", "set", file, "--server", triton_of_items.grpc_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 of their items are known to nobody yet, such as 'no such item':" in done.stdout


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[a]\nboost = 1\n", "rules.toml: rule a: item_ids: got none"),
        ("[a]\nboost = 1\nitems = ['1']\n[b]\nboost = -0.5\nitems = ['1']\n", "rules.toml: rule b: boost: got -0.5"),
        ("[a]\nitems = ['1']\n", "rules.toml: rule a: rule: got no effect"),
        ("[a]\nboost = 1\npin = 2\nitems = ['1']\n", "expected one of boost, bury and pin"),
        ("[a]\nboost = true\nitems = ['1']\n", "rule a: boost: got True"),
        ("[a]\npin = 1.5\nitems = ['1']\n", "rule a: pin: got 1.5"),
        ("[a]\nraise = 1\n", "got ['raise']"),
        ("a = 1\n", "rule a: got 1"),
        ("[a]\nboost = 1\nitems = ['1']\nsince = '2026'\n", "rule a: since: got '2026'"),
        ("[a]\nboost = 1\nitems = ['1']\nsince = 2026-01-01T00:00:00\n", "a time with a timezone"),
        ("[a", "is not TOML"),
        ("[a]\nboost = 1\nattributes = { genres = ['No genre'] }\n", "the unknown attribute value genres=No genre"),
    ],
)
def test_faulty_rule_is_told(client, triton_of_items, tmp_path, toml, said):
    file = tmp_path / "rules.toml"
    file.write_text(toml)
    done = commands.run("rules", "set", file, "--server", triton_of_items.grpc_url)
    assert done.returncode == 1
    assert said in " ".join(done.stderr.split())
    assert not client.list_rules().rules


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set",), "got 0 sources; expected one TOML file, or -"),
        (("remove",), "got no name"),
        (("list", "a"), "expected nothing behind it"),
    ],
)
def test_command_line_says_what_is_missing(triton_of_items, arguments, said):
    done = commands.run("rules", *arguments, "--server", triton_of_items.grpc_url)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda client: client.set_rules([]), "rules"),
        (lambda client: client.set_rules([rule("a", pin=1, item_ids=["1"])] * 2), "rules[1].name"),
        (lambda client: client.set_rules([rule("", pin=1, item_ids=["1"])]), "rules[0].name"),
        (lambda client: client.set_rules([rule("a", bury=0, item_ids=["1"])]), "rules[0].bury"),
        (lambda client: client.set_rules([rule("a", boost=1, item_ids=["1", ""])]), "rules[0].item_ids[1]"),
        (lambda client: client.set_rules([rule(f"{n}", pin=1, item_ids=["1"]) for n in range(65)]), "rules"),
        (lambda client: client.remove_rules([]), "names"),
        (
            lambda client: client.set_rules(
                [
                    rule(
                        "a",
                        pin=1,
                        item_ids=["1"],
                        since=datetime(2026, 1, 2, tzinfo=timezone.utc),
                        until=datetime(2026, 1, 1, tzinfo=timezone.utc),
                    )
                ]
            ),
            "rules[0].until",
        ),
    ],
)
def test_faulty_call_is_refused_with_its_field(client, call, field):
    with pytest.raises(InvalidArgumentError) as caught:
        call(client)
    assert caught.value.field == field
    assert not client.list_rules().rules


@pytest.mark.usefixtures("client")
def test_async_client_sets_lists_and_removes(triton_of_items):
    async def run():
        async with AsyncInterestClient(triton_of_items.grpc_url, config=PATIENT) as other:
            given = rule("async", bury=2, attributes={"genres": "Drama"})
            answer = await other.set_rules(request=SetRulesRequest(rules=[given]))
            listed = await other.list_rules()
            removed = await other.remove_rules(request=RemoveRulesRequest(names=["async"]))
            return given, answer, listed, removed

    given, answer, listed, removed = asyncio.run(run())
    assert (answer.added_rules, answer.total_rules, removed.removed_rules, removed.total_rules) == (1, 1, 1, 0)
    assert list(listed.rules) == [given]
