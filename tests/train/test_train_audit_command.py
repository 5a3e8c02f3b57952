"""``ebbtide audit`` on a real slice: its report, its refusals, and lists before and after a constraint."""

import json

import polars as pl
import pytest
from typer.testing import CliRunner

from ebbtide.cli.app import app
from ebbtide.train.audit.groups import MISSING
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.stage import train_bundle
from films import films_in

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def folder(small_files, tmp_path_factory):
    """A bundle, the bundle's lists, those lists turned around, and attributes of users and items."""
    folder = tmp_path_factory.mktemp("audited")
    data = films_in(small_files, title_template=None, max_bad_rows=0.0, holdout="time:0.3")
    model, training = ModelConfig(dimensions=8), TrainConfig(epochs=1, refit=False, loss="full-softmax")
    train_bundle(data, "packaged", model, training)[0].save(folder / "bundle")
    done = run("evaluate", folder / "bundle", "--predictions", folder / "lists.parquet")
    assert done.exit_code == 0, done.output
    lists = pl.read_parquet(folder / "lists.parquet")
    turned = lists.with_columns(rank=pl.col("rank").max().over("user", "time") + 1 - pl.col("rank"))
    turned.select("user", "time", "rank", "item").write_parquet(folder / "turned.parquet")
    users = pl.DataFrame({"userId": range(1, 31), "country": ["NL", "NZ", None] * 10})
    users.write_csv(folder / "users.csv")
    items = pl.read_parquet(small_files / "movies.parquet").select("movieId", studio=pl.col("movieId") % 7)
    items.filter(pl.col("movieId") % 2 == 0).write_parquet(folder / "items.parquet")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def audited(folder):
    """What one run of the command wrote, and printed."""
    done = run(
        *("audit", folder / "bundle", "--after", folder / "turned.parquet", "--report", folder / "report"),
        *(
            "--item-attributes",
            folder / "items.parquet",
            "--items-by",
            "studio",
            "--protected-items",
            "popularity=tail",
        ),
        *("--user-attributes", folder / "users.csv", "--users-by", "country", "--protected-users", "country=NZ"),
        *("--json", folder / "audit.json"),
    )
    assert done.exit_code == 0, done.output
    return json.loads((folder / "audit.json").read_text()), done.output


def test_audit_writes_a_report_with_all_groups_their_intervals_and_plots(folder, audited):
    found, output = audited
    assert json.loads((folder / "report" / "audit.json").read_text()) == found
    assert [one["name"] for one in found["item_audits"]] == ["popularity", "studio", "popularity=tail"]
    assert [one["name"] for one in found["user_audits"]] == ["activity", "newness", "country", "country=NZ"]
    text = (folder / "report" / "audit.md").read_text()
    pictures = list((folder / "report").glob("*.png"))
    assert len(pictures) == 8
    for picture in pictures:
        assert f"({picture.name})" in text
        assert picture.read_bytes().startswith(PNG)
    for title in ("Items by studio", "Users by country", "Protected users: country=NZ", "exposure per relevant item"):
        assert title in text
    for line in ("Items by popularity: exposure", "Protected against unprotected", "Gini of exposure"):
        assert line in output
    for one in found["item_audits"]:
        for measured in ("relevant_share", "before", "after"):
            rows = [row.get(measured) or row["exposure_share"][measured] for row in one["groups"]]
            assert sum(row["mean"] for row in rows) == pytest.approx(1)
    gini = found["gini"]
    assert gini["before"]["low"] < gini["before"]["mean"] < gini["before"]["high"]
    assert gini["difference"]["mean"] == pytest.approx(gini["after"]["mean"] - gini["before"]["mean"])


def test_audit_keeps_those_without_a_value_apart(folder, audited):
    [by_country] = [one for one in audited[0]["user_audits"] if one["name"] == "country"]
    groups = {row["label"]: row["users"] for row in by_country["groups"]}
    lists = pl.read_parquet(folder / "lists.parquet")
    tested = lists["user"].unique().cast(pl.Int64)
    assert groups[MISSING] == sum(user > 30 or user % 3 == 0 for user in tested)
    assert groups["NZ"] == sum(user <= 30 and user % 3 == 2 for user in tested)
    [protected] = [one for one in audited[0]["user_audits"] if one["name"] == "country=NZ"]
    means = {row["label"]: row["ndcg_at_10"]["before"]["mean"] for row in protected["groups"]}
    assert protected["ndcg_difference"]["before"]["mean"] == pytest.approx(means["NZ"] - means["not NZ"])


def test_audit_of_the_lists_in_a_file_equals_the_audit_of_the_bundle(folder, audited):
    lists = ("--lists", folder / "lists.parquet", "--json", folder / "of-lists.json")
    done = run("audit", folder / "bundle", *lists)
    assert done.exit_code == 0, done.output
    found = json.loads((folder / "of-lists.json").read_text())
    assert found["gini"]["before"] == audited[0]["gini"]["before"]
    assert found["ndcg_at_10"]["after"] is None
    assert found["item_audits"][0]["groups"][0]["exposure_share"]["before"]["mean"] == pytest.approx(
        audited[0]["item_audits"][0]["groups"][0]["exposure_share"]["before"]["mean"]
    )


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--after", "absent.parquet"), 1, "no such file"),
        (("--item-attributes", "absent.csv", "--items-by", "studio"), 1, "no such file"),
        (("--user-attributes", "{folder}/users.csv"), 2, "expected --users-by"),
        (("--protected-items", "studio"), 2, "expected COLUMN=VALUE"),
        (("--items-by", "colour"), 1, "colour"),
        (("--protected-items", "popularity=purple"), 1, "got popularity=purple, which nobody has"),
    ],
)
def test_audit_refuses_what_it_cannot_use(folder, options, status, message):
    done = run("audit", folder / "bundle", *(option.format(folder=folder) for option in options))
    assert done.exit_code == status
    assert message in (done.output if status == 2 else f"{done.output}{done.exception}")
