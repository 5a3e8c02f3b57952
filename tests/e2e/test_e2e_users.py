"""Users whom the server knows by their ids, on the command line: observe, recommend, interest, forget, load test."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from commands import run
from ebbtide.client import StateStatus
from ebbtide.loadtest import USER_PREFIX

MOVIELENS = Path(__file__).parents[2] / "examples" / "movielens-small"
TITLES = (
    *("--catalog", str(MOVIELENS / "movies.parquet"), "--catalog-item-col", "movieId"),
    *("--title-template", "{title} ({year})"),
)


@pytest.fixture
def user(request, client):
    """The id of a user of this test alone."""
    yield request.node.name
    client.forget(request.node.name)


def test_list_changes_when_an_event_is_observed(command, server, user, trained):
    address = ("--server", server.grpc_url)
    unknown = command("recommend", user, *address)
    assert "the server has no state of user" in unknown
    assert "cold start" in unknown
    assert "2 events added" in command("observe", user, "1", "260@2016-05-01T20:15", "--weight", "5", *address)
    assert "1 event known before" in command("observe", user, "260@2016-05-01T20:15", *address)
    asked = ("recommend", user, *address, "--now", "2030-01-01", "--top-n", "7")
    shown = command(*asked, *TITLES)
    assert "Toy Story (1995)" in shown
    assert "2 events counted" in shown
    titles = set(trained.bundle.catalog.title)
    assert sum(title in shown.split("Recommended")[1] for title in titles if len(title) > 12) >= 5
    # The bundle gives the titles, and its log is left aside.
    assert command(*asked, "--bundle", trained.bundle_folder, "--state") == shown


def test_explanation_shows_the_observed_events_when_asked_by_user(command, server, user):
    address = ("--server", server.grpc_url)
    command("observe", user, "1", "260", *address)
    shown = command("recommend", user, "--explain", "--top-n", "2", "--text", "space opera", *address, *TITLES)
    assert "Toy Story (1995)" in shown.split("Recommended")[1]
    assert "text just typed: space opera" in shown
    assert "Ranked" in command("recommend", user, "--candidates", "47,50,110", *address, *TITLES)


def test_interest_and_forget_tell_what_the_server_knows(command, server, user):
    address = ("--server", server.grpc_url)
    command("observe", user, "1", "260@2016-05-01T20:15", *address)
    shown = command("interest", user, *address, *TITLES)
    assert "Toy Story (1995)" in shown
    assert "2 events counted" in shown
    assert "half of the interest" in " ".join(shown.split())
    assert "1 record, one for each model version" in " ".join(command("forget", user, *address).split())
    assert "nothing to erase" in command("forget", user, *address)
    assert "no state of user" in command("interest", user, *address)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("observe", "u", "1@yesterday"), 2, "got 'yesterday'; expected ISO 8601"),
        (("observe", "u", "@2016-05-01"), 2, "expected the id of an item before @"),
        (("observe", "u", "no such item", "--unknown-items", "error"), 1, "events[0].item_id: got 'no such item'"),
        (("observe", "", "1"), 1, "user_id: got ''; expected an id, not empty"),
        (("interest", "u", "--now", "soon"), 2, "--now: got 'soon'; expected ISO 8601"),
        (("recommend", "u", "--events", "log.csv"), 2, "--events: got a log; expected it with --bundle"),
        (("recommend", "u", "--bundle", "nowhere", "--state"), 1, "nowhere/catalog.parquet: no such file"),
        (("interest", "u", "--bundle", "b", "--catalog", "c"), 2, "got it together with --bundle"),
    ],
)
def test_mistake_is_one_clear_line_when_a_state_is_asked_for(server, monkeypatch, arguments, status, message):
    monkeypatch.setenv("COLUMNS", "300")
    done = run(*arguments, "--server", server.grpc_url)
    assert done.returncode == status
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_an_event_of_decades_ago_is_told_and_taken(server, user, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    done = run("observe", user, "1@1990-05-01", "260@2024-05-01", "47", "--server", server.grpc_url)
    assert "3 events added" in done.stdout
    assert done.stderr == "note: 1@1990-05-01 is over 20 years old: correct the time if it is mistyped\n"


BARE_COMMANDS = """
import sys
sys.modules["polars"] = sys.modules["torch"] = None
from ebbtide.cli.main import main

server, done = sys.argv[1], 0
for command in (["observe", "bare", "1"], ["interest", "bare"], ["recommend", "bare"], ["forget", "bare"]):
    sys.argv = ["ebbtide", *command, "--server", server]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    done += 1
print(done, "commands")
"""


def test_state_commands_need_neither_polars_nor_torch_when_ids_are_shown(server):
    done = subprocess.run(
        [sys.executable, "-c", BARE_COMMANDS, server.grpc_url], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "4 commands"


def users_of(trained):
    return pl.read_csv(trained.bundle_folder.parent / "ratings.csv")["userId"].unique().to_list()


@pytest.mark.parametrize("flags", [("--by-user", "--workers", "1"), ()], ids=["by user", "with histories"])
def test_loadtest_observes_and_asks_by_user_when_told(trained, command, server, client, tmp_path, flags):
    command(
        *("loadtest", server.grpc_url, "--bundle", trained.bundle_folder, "--duration", "3s", "--rate", "20", *flags),
        *("--mix", "recommend=4,observe=3,rank=1", "--warm-up", "none", "--requests", "60", "--timeout", "60s"),
        *("--json", tmp_path / "out.json"),
    )
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["answered"] == result["sent"] > 30
    assert result["requests"]["by_user"] == bool(flags)
    assert {name for name, one in result["endpoints"].items() if one["answered"]} == {"recommend", "observe", "rank"}
    # Nothing of the test is left.
    assert not any(client.interest(f"{USER_PREFIX}{user}").is_known for user in users_of(trained))


def test_users_stay_when_perf_analyzer_is_to_ask_for_them(trained, command, server, client, tmp_path):
    output = command(
        *("loadtest", server.grpc_url, "--bundle", trained.bundle_folder, "--requests", "20", "--by-user"),
        *("--mix", "recommend=1,observe=1", "--perf-analyzer-input", tmp_path),
    )
    assert "users are in the server's states" in output
    assert json.loads((tmp_path / "observe.json").read_text())["data"][0]["user"]["shape"] == [2]
    assert set(json.loads((tmp_path / "recommend.json").read_text())["data"][0]) == {"now", "user"}
    known = [f"{USER_PREFIX}{user}" for user in users_of(trained)]
    found = [client.interest(user).response.state_status for user in known]
    assert StateStatus.STATE_STATUS_USED in found
    for user in known:
        client.forget(user)
