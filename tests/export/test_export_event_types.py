"""Event types from a log to a server: evaluation, requests, states, backfill and lists give the same scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from deadlines import PATIENT
from ebbtide.backfill import BackfillError, LogFiles, backfill
from ebbtide.batch import batch_recommend
from ebbtide.client import Event, InterestClient, InvalidArgumentError, event
from ebbtide.data.event_types import EventTypeNames
from ebbtide.data.events import EventColumns, EventLog, build_log, read_events
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import export_repository
from ebbtide.serve import ServerConfig
from ebbtide.store import StoreConfig
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.evaluation.scores import frozen_popularity, score_baskets
from ebbtide.train.windows import LogTensors
from servers import only, serving

NAMES = ("purchase", "dislike", "view")
COLUMNS = EventColumns(weight="stars", event_type="did")
START = datetime(2023, 1, 1, tzinfo=timezone.utc)
TOP_N = 20
COUNTS = {"few": 6, "many": 60}
"""Users and their events; of many, a state folds most."""


@pytest.fixture(scope="module")
def bundle(make_bundle: Callable[..., InterestBundle]) -> InterestBundle:
    made = make_bundle(seed=4, event_types=NAMES, repeat_score=True, exclude_seen=False)
    made.model.event_type_raw.data[:] = made.model.event_type_raw.new_tensor([-1.5, 0.4])
    data = made.config.data.model_copy(
        update={"event_types": NAMES, "target_types": ("purchase",), "event_type_column": "did"}
    )
    return replace(made, config=made.config.model_copy(update={"data": data}))


@pytest.fixture(scope="module")
def repository(bundle: InterestBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("event types") / "model_repository"
    return export_repository(bundle, folder, ExportOptions(top_n=TOP_N)).folder


@pytest.fixture(scope="module")
def frame(bundle: InterestBundle) -> pl.DataFrame:
    random = np.random.default_rng(8)
    parts = []
    for user, count in COUNTS.items():
        # The last event only says when the user is asked for.
        hours = np.cumsum(random.choice([0.1, 30.0], count + 1))
        parts.append(
            pl.DataFrame(
                {
                    "user": [user] * (count + 1),
                    "item": random.choice(bundle.catalog.item_id[:40], count + 1),
                    "time": [START + timedelta(hours=hour) for hour in hours.tolist()],
                    "stars": random.uniform(0.5, 3, count + 1).astype(np.float32),
                    "did": random.choice(NAMES, count + 1),
                }
            )
        )
    return pl.concat(parts)


@pytest.fixture(scope="module")
def log(frame: pl.DataFrame, bundle: InterestBundle, tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    frame.write_parquet(path)
    read, _ = read_events(path, COLUMNS, bundle.catalog.index)
    return build_log(read, bundle.catalog.index, EventTypeNames(NAMES, 1))


@pytest.fixture(scope="module")
def evaluated(bundle: InterestBundle, log: EventLog) -> dict[str, dict[str, float]]:
    """The scores of the catalog before each user's last event, as evaluation has them."""
    tensors = LogTensors.of(log, bundle.model.config.session_gap_ms)
    heads = log.start[1:] - 1
    [scored] = score_baskets(bundle.model, log, tensors, heads, frozen_popularity(bundle))
    rows = scored.scores().numpy()
    return {
        log.users[int(log.user[head])]: dict(zip(bundle.catalog.item_id, row.tolist(), strict=True))
        for head, row in zip(scored.head.tolist(), rows, strict=True)
    }


@pytest.fixture(scope="module")
def past(frame: pl.DataFrame) -> dict[str, tuple[list[Event], datetime]]:
    """The events of each user before the last one, and its time."""
    found = {}
    for (user,), rows in frame.group_by("user", maintain_order=True):
        events = [
            event(item_id=item, time=time, weight=stars, event_type=did)
            for _, item, time, stars, did in rows[:-1].iter_rows()
        ]
        found[user] = events, rows["time"][-1]
    return found


@pytest.fixture(scope="module")
def client(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InterestClient]:
    store = f"embedded:{tmp_path_factory.mktemp('states') / 'store'}"
    config = ServerConfig(repository, state=store, **only("recommend", "observe"))
    with serving(config) as server, InterestClient(server.grpc_url, config=PATIENT) as opened:
        yield opened


def require_like(answer: object, scores: dict[str, float]) -> None:
    found = {item.item_id: item.score for item in answer.items}  # type: ignore[attr-defined]
    assert len(found) == TOP_N
    best = sorted(scores.values(), reverse=True)[:TOP_N]
    np.testing.assert_allclose(list(found.values()), best, atol=1e-4)
    np.testing.assert_allclose(list(found.values()), [scores[item] for item in found], atol=1e-4)


@pytest.mark.parametrize("user", COUNTS)
def test_server_answers_as_evaluated_when_events_have_types(
    client: InterestClient,
    past: dict[str, tuple[list[Event], datetime]],
    evaluated: dict[str, dict[str, float]],
    user: str,
) -> None:
    events, now = past[user]
    require_like(client.recommend(events=events, now=now, top_n=TOP_N), evaluated[user])
    untyped = [event(item_id=one.item_id, time=one.time.ToDatetime(timezone.utc), weight=one.weight) for one in events]
    other = client.recommend(events=untyped, now=now, top_n=TOP_N)
    with pytest.raises(AssertionError):
        require_like(other, evaluated[user])


@pytest.mark.parametrize("user", COUNTS)
def test_state_answers_as_evaluated_when_events_with_types_were_observed(
    client: InterestClient,
    past: dict[str, tuple[list[Event], datetime]],
    evaluated: dict[str, dict[str, float]],
    user: str,
) -> None:
    events, now = past[user]
    for start in range(0, len(events), 7):
        client.observe(f"observed {user}", events[start : start + 7])
    require_like(client.recommend(user_id=f"observed {user}", now=now, top_n=TOP_N), evaluated[user])


def test_unknown_type_is_refused_with_its_name_and_the_known_ones(client: InterestClient) -> None:
    events = [event(item_id="1", time=START, event_type=name) for name in ("view", "dislikes")]
    calls: list[Callable[[], object]] = [
        lambda: client.recommend(events=events),
        lambda: client.observe("refused", events),
    ]
    for call in calls:
        with pytest.raises(InvalidArgumentError) as refused:
            call()
        assert (refused.value.field, refused.value.value) == ("events[1].event_type", "'dislikes'")
        assert "'dislike', 'purchase', 'view'" in str(refused.value)


def test_backfill_and_lists_give_what_is_evaluated_when_a_log_has_types(
    repository: Path, frame: pl.DataFrame, evaluated: dict[str, dict[str, float]], tmp_path: Path
) -> None:
    path = tmp_path / "log.parquet"
    before_last = frame.filter(pl.col("time") < pl.col("time").max().over("user"))
    before_last.write_parquet(path)
    store = f"embedded:{tmp_path / 'store'}"
    backfill(repository, LogFiles([path], COLUMNS), store, StoreConfig(timeout_ms=60_000))
    now = {str(user): time for user, time in frame.group_by("user").agg(pl.col("time").max()).iter_rows()}
    with (
        serving(ServerConfig(repository, state=store, **only("recommend", "observe"))) as server,
        InterestClient(server.grpc_url, config=PATIENT) as client,
    ):
        for user, time in now.items():
            require_like(client.recommend(user_id=user, now=time, top_n=TOP_N), evaluated[user])
    for user, time in now.items():
        folder = tmp_path / f"lists of {user}"
        time_ms = round(time.timestamp() * 1000)
        batch_recommend(repository, LogFiles([path], COLUMNS), folder, now_ms=time_ms, top_n=TOP_N)
        mine = pl.read_parquet(folder / "*.parquet").filter(pl.col("user") == user).sort("rank")
        expected = sorted(evaluated[user].values(), reverse=True)[:TOP_N]
        np.testing.assert_allclose(mine["score"], expected, atol=1e-4)


def test_log_is_refused_when_a_type_is_not_of_the_training(
    repository: Path, tiny_export: object, frame: pl.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "log.parquet"
    frame.with_columns(did=pl.lit("viewed")).write_parquet(path)
    store = f"embedded:{tmp_path / 'store'}"
    with pytest.raises(BackfillError, match=r"column did: got 'viewed'; expected an event type .* such as 'view'"):
        backfill(repository, LogFiles([path], COLUMNS), store)
    with pytest.raises(BackfillError, match="got column 'did' for a model that was trained without event types"):
        backfill(tiny_export.folder, LogFiles([path], COLUMNS), store)  # type: ignore[attr-defined]
