"""A held-out log, replayed through a server that keeps the users' states, beside `ebbtide evaluate` on the same log.

The states of all users are built from the events before the held-out period. Then every user of that period comes back
at each timestamp of the log: the server recommends by user id, and observes what the user did. The lists must be those
that `ebbtide evaluate --all-events --popularity frozen` ranks. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ebbtide.backfill import LogFiles, backfill
from ebbtide.client import ClientConfig, InterestClient, event
from ebbtide.data.dataset import read_dataset
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import export_repository
from ebbtide.interest.contract import Limits
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.evaluation.evaluate import evaluate_bundle, evaluate_lists
from ebbtide.train.evaluation.lists import LENGTH, NO_ITEM, RankedLists
from ebbtide.train.evaluation.testset import TestSet

ROOT = Path(__file__).parents[1]
_THREADS = 16
# Users come back one after the other, not in the order of time, so what they do must not count for the next.
_ENVIRONMENT = {"EBBTIDE_STATE_TIMEOUT_MS": "10000", "EBBTIDE_POPULARITY_SECONDS": "off"}
console = Console()


@dataclass(frozen=True)
class Replay:
    """What a replay gave."""

    lists: RankedLists
    recommended_per_s: float
    """Baskets per second: a recommendation and an observation each."""


@dataclass(frozen=True)
class Served:
    """A running server that knows the users as of the beginning of the held-out period."""

    url: str
    bytes_per_user: float


@contextmanager
def serving(bundle: InterestBundle, test: TestSet, folder: Path) -> Iterator[Served]:
    """Exports a bundle, builds the states of all users and starts the server.

    Args:
        bundle: Trained on the events that `test` does not hold out.
        test: Its log by time.
        folder: For the export and the store.
    """
    repository, state = folder / "repository", f"embedded:{folder / 'states'}"
    # A record keeps as many seen items as a request may exclude: here all of every user's.
    longest = int(np.diff(test.log.start).max())
    export_repository(bundle, repository, ExportOptions(top_n=LENGTH, limits=Limits(max_exclude_items=longest)))
    data = bundle.config.data
    until_ms = int(test.log.time_ms[test.is_test].min())
    log = LogFiles([data.events], data.columns, until_ms=until_ms, max_bad_rows=data.max_bad_rows)
    summary = backfill(repository, log, state)
    with TritonServer(ServerConfig(repository, state=state, environment=_ENVIRONMENT)) as server:
        yield Served(server.grpc_url, summary.bytes_per_user)


def replay(url: str, test: TestSet) -> Replay:
    """Recommends before each timestamp of the held-out period, and observes its events after that.

    Args:
        url: gRPC address of the server.
        test: Its log by time.
    """
    log, ids = test.log, test.catalog.item_id
    index_of = {item_id: index for index, item_id in enumerate(ids)}
    basket_of = {head: basket for basket, head in enumerate(test.baskets.head.tolist())}
    weighted = bool((log.weight != 1).any())
    item = np.full((len(test.baskets), LENGTH), NO_ITEM, dtype=np.int64)
    score = np.full((len(test.baskets), LENGTH), -np.inf, dtype=np.float32)

    def run_user(user: int) -> None:
        events = log.start[user] + np.flatnonzero(test.is_test[log.start[user] : log.start[user + 1]])
        for part in np.split(events, np.flatnonzero(np.diff(log.time_ms[events])) + 1):
            now = datetime.fromtimestamp(int(log.time_ms[part[0]]) / 1000, timezone.utc)
            basket = basket_of.get(int(part[0]))
            if basket is not None:
                answer = client.recommend(user_id=log.users[user], now=now, top_n=LENGTH)
                found = len(answer.items)
                item[basket, :found] = [index_of[one.item_id] for one in answer.items]
                score[basket, :found] = [one.score for one in answer.items]
            done = [
                event(item_id=ids[int(log.item[at])], time=now, weight=float(log.weight[at]) if weighted else None)
                for at in part
            ]
            client.observe(log.users[user], done)

    users = np.flatnonzero(np.add.reduceat(test.is_test, log.start[:-1]))
    began = time.monotonic()
    with (
        InterestClient(url, config=ClientConfig(timeout_s=60)) as client,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        # The longest first, so that all threads end at about the same time.
        by_length = sorted(users.tolist(), key=lambda user: log.start[user] - log.start[user + 1])
        list(pool.map(run_user, by_length))
    return Replay(RankedLists(item, score), len(test.baskets) / (time.monotonic() - began))


def main() -> None:
    """Replays and reports."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=ROOT / "artifacts" / "held-out", help="trained with --holdout")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "replay.json")
    arguments = parser.parse_args()
    bundle = InterestBundle.load(arguments.bundle)
    data = read_dataset(bundle.config.data)
    test = TestSet.of(data.log, data.catalog, bundle.config.data.holdout)
    with tempfile.TemporaryDirectory() as folder, serving(bundle, test, Path(folder)) as served:
        replayed = replay(served.url, test)
    by_server = evaluate_lists(test, replayed.lists, bundle.text_vectors)
    by_evaluate = evaluate_bundle(bundle, test, frozen=True, repeats=None, all_events=True)
    of_requests = evaluate_bundle(bundle, test, frozen=True, repeats=None)
    ndcg = {
        "replay": by_server.metrics["ndcg_at_10"].mean,
        "evaluate_all_events": by_evaluate.evaluation.metrics["ndcg_at_10"].mean,
        "evaluate_512_events": of_requests.evaluation.metrics["ndcg_at_10"].mean,
    }
    same = float((replayed.lists.item[:, :10] == by_evaluate.lists.item[:, :10]).all(axis=1).mean())
    table = Table(title=f"{len(test.baskets):,} baskets of {by_server.users:,} users", title_justify="left")
    table.add_column("")
    table.add_column("NDCG@10", justify="right")
    for name, value in ndcg.items():
        table.add_row(name.replace("_", ", ", 1).replace("_", " "), f"{value:.5f}")
    console.print(table)
    console.print(
        f"{same:.2%} of the lists have the same first ten items; {replayed.recommended_per_s:,.0f} baskets/s, "
        f"{served.bytes_per_user:,.0f} bytes per user before the replay"
    )
    result = {
        "fingerprint": bundle.fingerprint,
        "users": by_server.users,
        "baskets": len(test.baskets),
        "ndcg_at_10": ndcg,
        "difference": abs(ndcg["replay"] - ndcg["evaluate_all_events"]),
        "same_first_ten": same,
    }
    arguments.json.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
