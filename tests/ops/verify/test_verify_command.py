"""``ebbtide verify`` as a user runs it: tables, exit status, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ebbtide.cli.app import app
from ebbtide.serve import TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.verify import read_requests


def ebbtide(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def bundle_folder(bundle: InterestBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "bundle"
    bundle.save(folder)
    return folder


def test_command_passes_when_bundle_repository_and_server_go_together(
    bundle_folder: Path, repository: Path, server: TritonServer, tmp_path: Path
) -> None:
    saved = tmp_path / "requests.jsonl"
    status, said = ebbtide(
        *("verify", repository, "--bundle", bundle_folder, "--server", server.grpc_url),
        *("--count", 12, "--seed", 5, "--save-requests", saved),
    )
    assert status == 0, said
    assert "torch, in process: the same" in said
    assert "in process, Triton: the same" in said
    assert len(read_requests(saved)) == 12


def test_command_fails_and_names_the_stage_when_the_head_is_another(bundle_folder: Path, with_other_head: Path) -> None:
    status, said = ebbtide("verify", with_other_head, "--bundle", bundle_folder, "--count", 8)
    assert status == 1, said
    assert "differs first at scoring_head, score: request" in said


def test_command_says_what_is_missing_when_there_is_nothing_to_compare_with(repository: Path) -> None:
    status, said = ebbtide("verify", repository)
    assert status == 2
    assert "--bundle" in said
    assert "--server" in said


def test_command_has_a_status_of_its_own_when_no_comparison_was_made(repository: Path, tmp_path: Path) -> None:
    status, said = ebbtide("verify", repository, "--server", "127.0.0.1:9", "--count", 1)
    assert status == 2, said
    assert "error:" in said
    assert "127.0.0.1:9" in said
    status, said = ebbtide("verify", tmp_path, "--server", "127.0.0.1:9")
    assert status == 2, said
    assert "ebbtide export" in " ".join(said.split())


def test_command_reads_recorded_requests_when_they_are_given(
    bundle_folder: Path, repository: Path, bundle: InterestBundle, tmp_path: Path
) -> None:
    recorded = tmp_path / "requests.jsonl"
    item_id = bundle.catalog.item_id[5]
    recorded.write_text(
        f'{{"events": [{{"item_id": "{item_id}", "time": "2024-01-02T03:04:05Z"}}]}}\n', encoding="utf-8"
    )
    status, said = ebbtide("verify", repository, "--bundle", bundle_folder, "--requests", recorded)
    assert status == 0, said
    assert "requests: 1" in said
    recorded.write_text('{"histroy": []}\n', encoding="utf-8")
    status, said = ebbtide("verify", repository, "--bundle", bundle_folder, "--requests", recorded)
    assert status == 2, said
    assert "line 1" in said


def test_command_compares_requests_as_they_are_when_all_have_texts(
    bundle_folder: Path, repository: Path, server: TritonServer, bundle: InterestBundle, tmp_path: Path
) -> None:
    """As the line that docs/verify.md writes by hand."""
    recorded = tmp_path / "requests.jsonl"
    known, left_out = bundle.catalog.item_id[5:7]
    recorded.write_text(
        f'{{"history": [{{"item_id": "{known}", "time": "2024-01-02T03:04:05Z", "weight": 4}}], "current": [{{"text": '
        '"space opera", "time": "2024-01-02T05:00:00Z"}], "now": "2024-01-02T05:00:01Z", "exclude_item_ids": '
        f'["{left_out}"], "alpha": 0.25}}\n',
        encoding="utf-8",
    )
    given = ("verify", repository, "--requests", recorded, "--server", server.grpc_url, "--bundle", bundle_folder)
    status, said = ebbtide(*given)
    assert status == 0, said
    assert "in process, Triton: the same" in said
    assert "torch, in process: the same" in said
    assert "Not compared: answers by user (requests: got none without texts" in " ".join(said.split())
