"""Requests for comparisons: what is written is read back, random ones are of every kind, bad lines are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebbtide.client.codec import encode
from ebbtide.export.errors import VersionError
from ebbtide.v1 import RecommendRequest
from ebbtide.verify import RecordedRequestError, random_requests, read_requests, write_requests
from ebbtide.verify.cases import read_cases


def test_requests_are_read_back_when_they_were_written(repository: Path, tmp_path: Path) -> None:
    written = random_requests(repository, 1, 60, seed=1)
    write_requests(tmp_path / "requests.jsonl", written)
    assert read_requests(tmp_path / "requests.jsonl") == written
    assert len((tmp_path / "requests.jsonl").read_text(encoding="utf-8").splitlines()) == 60


def test_random_requests_are_of_every_kind_and_the_same_for_equal_seeds(repository: Path) -> None:
    requests = random_requests(repository, 1, 60, seed=1)
    assert requests == random_requests(repository, 1, 60, seed=1)
    assert requests != random_requests(repository, 1, 60, seed=2)
    sizes = [len(one.history) + len(one.current) + len(one.events) for one in requests]
    assert min(sizes) == 0
    assert max(sizes) == 80
    assert any(one.history and one.current for one in requests)
    assert any(one.events for one in requests)
    assert any(one.exclude_item_ids for one in requests)
    assert (
        {one.HasField("alpha") for one in requests}
        == {one.HasField("exclude_seen") for one in requests}
        == {True, False}
    )
    assert any(one.HasField("decay_scale") for one in requests)
    assert any(one.unknown_items for one in requests)
    assert {condition.column for one in requests for condition in one.allow} == {"genres", "year"}
    assert any(event.fallback_text for one in requests for event in (*one.history, *one.current, *one.events))
    texts = [event.text for one in requests for event in (*one.history, *one.current, *one.events) if event.text]
    assert max(len(text.split()) for text in texts) > 256
    for request in requests:
        encode(request, 0)


def test_hand_written_lines_are_read_when_they_are_protobufs_json(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(
        '{"history": [{"itemId": "1", "time": "2024-01-02T03:04:05Z", "weight": 4.5}],'
        ' "current": [{"text": "space opera", "time": "2024-01-02T05:00:00Z"}], "now": "2024-01-02T05:00:01Z",'
        ' "exclude_item_ids": ["7"], "exclude_seen": true, "alpha": 0.25}\n\n{}\n',
        encoding="utf-8",
    )
    first, empty = read_requests(path)
    assert (first.history[0].item_id, first.history[0].weight, first.current[0].text) == ("1", 4.5, "space opera")
    assert first.now.ToMilliseconds() == 1_704_171_601_000
    assert empty == RecommendRequest()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{}\n{"history": 3}\n', "line 2: got .*expected an ebbtide.v1.RecommendRequest"),
        ('{"histroy": []}\n', "line 1: got .*histroy"),
        ("not json\n", "line 1"),
        ("\n\n", "got no request"),
    ],
)
def test_file_is_refused_when_a_line_is_no_request(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RecordedRequestError, match=says):
        read_requests(path)


def test_file_is_refused_when_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RecordedRequestError, match=r"none\.jsonl: got .*expected JSON Lines"):
        read_requests(tmp_path / "none.jsonl")


def test_request_is_refused_by_number_when_no_client_could_send_it() -> None:
    request = RecommendRequest()
    request.events.add(item_id="1")
    with pytest.raises(RecordedRequestError, match=r"request 2: events\[0\].time"):
        list(read_cases([RecommendRequest(), request], 0))


def test_random_requests_are_refused_when_the_version_is_not_there(repository: Path) -> None:
    with pytest.raises(VersionError, match="version 7"):
        random_requests(repository, 7, 1)
