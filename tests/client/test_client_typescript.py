"""The TypeScript example against a real gateway, and its stubs against the schema."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deadlines import PATIENT
from ebbtide.gateway import Gateway, GatewayConfig

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "typescript"

pytestmark = [
    pytest.mark.slow,
    # The one test that needs tools which no Python package brings.
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js and npm"),
]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A built copy, beside a copy of the schema."""
    root = tmp_path_factory.mktemp("typescript")
    shutil.copytree(ROOT / "proto", root / "proto")
    folder = root / "examples" / "typescript"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    for command in (["npm", "ci"], ["npm", "run", "build"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    return folder


def test_example_prints_recommendations_and_errors_when_it_calls_a_gateway(example, triton):
    async def run():
        async with Gateway(GatewayConfig(triton=triton.grpc_url, client=PATIENT)) as gateway:
            found = []
            for item in ("1", "no such item"):
                command = ("node", str(example / "dist" / "recommend.js"), gateway.url, item)
                called = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
                found.append((*await called.communicate(), called.returncode))
            return found

    (answer, _, status), (_, said, refused) = asyncio.run(run())
    assert (status, refused) == (0, 1)
    assert len(json.loads(answer)["items"]) == 5
    assert said.decode().startswith("INVALID_ARGUMENT: current[0].item_id: got 'no such item'; expected")


def test_example_composes_a_slate_when_it_calls_a_gateway(example, triton):
    async def run():
        async with Gateway(GatewayConfig(triton=triton.grpc_url, client=PATIENT)) as gateway:
            command = ("node", str(example / "dist" / "slate.js"), gateway.url, "genres", "1", "2")
            called = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
            return (*await called.communicate(), called.returncode)

    answer, said, status = asyncio.run(run())
    assert status == 0, said
    found = json.loads(answer)
    assert len(found["items"]) == 5
    assert all(item["scoreRank"] for item in found["items"])


def test_example_observes_and_asks_by_user_when_it_calls_a_gateway(example, triton):
    async def run():
        async with Gateway(GatewayConfig(triton=triton.grpc_url, client=PATIENT)) as gateway:
            command = ("node", str(example / "dist" / "observe.js"), gateway.url, "of typescript", "1", "2")
            called = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
            return (*await called.communicate(), called.returncode)

    answer, said, status = asyncio.run(run())
    assert (status, said) == (0, b"")
    found = json.loads(answer)
    assert (found["added"], found["eventsUsed"], len(found["items"])) == (2, 2, 5)


def test_example_adds_an_item_and_lists_it_when_it_calls_a_gateway(example, triton_of_items):
    async def run():
        async with Gateway(GatewayConfig(triton=triton_of_items.grpc_url, client=PATIENT)) as gateway:
            command = ("node", str(example / "dist" / "items.js"), gateway.url, "of typescript", "a new film")
            called = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
            return (*await called.communicate(), called.returncode)

    answer, said, status = asyncio.run(run())
    assert (status, said) == (0, b"")
    found = json.loads(answer)
    assert found["added"] + found["replaced"] == 1
    assert "of typescript" in found["itemIds"]


def test_example_says_and_lists_what_is_out_of_stock_when_it_calls_a_gateway(example, triton_of_items):
    async def run():
        async with Gateway(GatewayConfig(triton=triton_of_items.grpc_url, client=PATIENT)) as gateway:
            found = []
            for where in ("out", "in"):
                command = ("node", str(example / "dist" / "stock.js"), gateway.url, where, "stock of typescript")
                called = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
                found.append((json.loads((await called.communicate())[0]), called.returncode))
            return found

    (out, _), (back, status) = asyncio.run(run())
    assert (out["changed"], back["changed"], status) == (1, 1, 0)
    assert "stock of typescript" in out["outOfStock"]
    assert "stock of typescript" not in back["outOfStock"]


def test_example_sets_lists_and_removes_rules_when_it_calls_a_gateway(example, triton_of_items):
    async def run():
        async with Gateway(GatewayConfig(triton=triton_of_items.grpc_url, client=PATIENT)) as gateway:
            found = []
            for arguments in (
                ("boost", "comedies of typescript", "0.5", "genres=Comedy"),
                ("pin", "film of typescript", "2", "1"),
                ("remove", "comedies of typescript", "film of typescript"),
                ("pin", "too far", "100000", "1"),
            ):
                command = ("node", str(example / "dist" / "rules.js"), gateway.url, *arguments)
                called = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
                found.append((*await called.communicate(), called.returncode))
            return found

    *changes, (_, said, refused) = asyncio.run(run())
    listed = [json.loads(answer)["rules"] for answer, _, _ in changes]
    boosted, pinned, removed = ({rule["name"]: (rule["kind"], rule["value"]) for rule in rules} for rules in listed)
    assert boosted["comedies of typescript"] == ("boost", 0.5)
    assert pinned.items() >= boosted.items() | {"film of typescript": ("pin", 2)}.items()
    assert removed.keys() == pinned.keys() - {"comedies of typescript", "film of typescript"}
    assert refused == 1
    assert said.decode().startswith("INVALID_ARGUMENT: rules[0].pin")


def test_generated_stubs_are_those_of_the_schema_when_written_anew(example):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["npm", "run", "generate"],
        cwd=example,
        check=True,
        capture_output=True,
        timeout=300,
        env={**os.environ, "PATH": path},
    )
    for file in (EXAMPLE / "src" / "generated").rglob("*.ts"):
        again = example / "src" / "generated" / file.relative_to(EXAMPLE / "src" / "generated")
        assert again.read_text() == file.read_text(), "run `npm run generate` in examples/typescript"
