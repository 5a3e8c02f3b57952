"""Writes synthetic worlds as event logs with catalogs, and what their oracle reaches.

python -m benchmarks.quality.worlds FOLDER [--world news] [--seed 0] [--scale 1]

Writes FOLDER/<world>/events.parquet (user, item, time in Unix milliseconds), catalog.parquet (item, text) and
oracle.json (NDCG@10 of the oracle and of two simple baselines). The choice model is in zoo/choice.py.
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.quality.console import console
from benchmarks.quality.personal import personal_frequency
from benchmarks.quality.popularity import popularity
from benchmarks.quality.split import Split, ndcg_at_10, splits
from benchmarks.quality.zoo.choice import World
from benchmarks.quality.zoo.evergreen import evergreen
from benchmarks.quality.zoo.fashion import fashion
from benchmarks.quality.zoo.groceries import groceries
from benchmarks.quality.zoo.music import music
from benchmarks.quality.zoo.news import news
from benchmarks.quality.zoo.series import series
from ebbtide.data.dataset import DataReference, read_dataset
from ebbtide.train.evaluation.lists import NO_ITEM, RankedLists

WORLDS = {
    "news": news,
    "series": series,
    "fashion": fashion,
    "music": music,
    "groceries": groceries,
    "evergreen": evergreen,
}
HOLDOUT = "time:0.2"
_HALF_LIVES_DAYS = (1 / 48, 1 / 24, 2 / 24, 4 / 24, 0.5, 1.0, 3.0, 7.0, 30.0, 90.0, math.inf)


def world(name: str, seed: int = 0, scale: float = 1.0) -> World:
    """Generates a world; the same arguments always give the same world.

    Args:
        name: One of `WORLDS`.
        seed: Seed of all random numbers.
        scale: Factor of the number of users and items.
    """
    return WORLDS[name](np.random.default_rng([seed, zlib.crc32(name.encode())]), scale)


def write(made: World, folder: Path) -> DataReference:
    """Writes events and catalog as Parquet and returns how to read them."""
    folder.mkdir(parents=True, exist_ok=True)
    events, catalog = folder / "events.parquet", folder / "catalog.parquet"
    order = np.argsort(made.schedule.time_ms[made.basket], kind="stable")
    basket = made.basket[order]
    pl.DataFrame(
        {
            "user": user_ids(made).gather(made.schedule.user[basket]),
            "item": item_ids(made).gather(made.item[order]),
            "time": made.start_ms + made.schedule.time_ms[basket],
        }
    ).write_parquet(events)
    pl.DataFrame({"item": item_ids(made), "text": made.texts}).write_parquet(catalog)
    return reference(events, catalog)


def reference(events: Path, catalog: Path) -> DataReference:
    """How a world's files are read."""
    return DataReference(
        events=str(events),
        catalog=str(catalog),
        user_column="user",
        item_column="item",
        time_column="time",
        weight_column=None,
        catalog_item_column="item",
        text_template="{text}",
        title_template=None,
        max_bad_rows=0.0,
        holdout=HOLDOUT,
    )


def user_ids(made: World) -> pl.Series:
    """The ids of a world's users, ``[U]``."""
    return pl.Series([f"u{user:05d}" for user in range(int(made.schedule.user.max()) + 1)])


def item_ids(made: World) -> pl.Series:
    """The ids of a world's items, ``[N]``."""
    return pl.Series([f"i{item:05d}" for item in range(len(made.texts))])


def oracle_lists(made: World, split: Split) -> RankedLists:
    """The oracle's lists before the test baskets of a split of the world's log; the scores are probabilities."""
    test = split.test
    head = test.baskets.head
    schedule = pl.DataFrame(
        {
            "user": user_ids(made).gather(made.schedule.user),
            "time": made.start_ms + made.schedule.time_ms,
            "row": np.arange(made.schedule.user.shape[0]),
        }
    )
    cases = pl.DataFrame({"user": pl.Series(test.log.users).gather(test.owner), "time": test.log.time_ms[head]})
    row = cases.join(schedule, on=["user", "time"], how="left", maintain_order="left")["row"].to_numpy()
    of_item = np.asarray([test.catalog.index[item] for item in item_ids(made).to_list()])
    probability = made.oracle_probability[row]
    possible = probability > 0
    return RankedLists(
        np.where(possible, of_item[made.oracle_item[row]], NO_ITEM),
        np.where(possible, probability, -np.inf).astype(np.float32),
    )


def simple_baselines(validation: Split, test: Split) -> dict[str, dict[str, float | str]]:
    """NDCG@10 of decayed popularity and of personal frequency, with half-lives chosen on the validation split."""
    found: dict[str, dict[str, float | str]] = {}
    for name, rank in (("decayed popularity", popularity), ("personal frequency with decay", personal_frequency)):
        if rank is personal_frequency and not test.repeats:
            continue
        scores = [ndcg_at_10(validation, rank(validation, updated=True, half_life_days=d)) for d in _HALF_LIVES_DAYS]
        best = _HALF_LIVES_DAYS[int(np.argmax(scores))]
        score = ndcg_at_10(test, rank(test, updated=True, half_life_days=best))
        found[name] = {"ndcg_at_10": score, "half_life_days": "inf" if math.isinf(best) else best}
    return found


def main() -> None:
    """Parses the command line and writes the worlds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--world", action="append", choices=[*WORLDS], help="can be repeated (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the number of users and items")
    arguments = parser.parse_args()
    for name in arguments.world or WORLDS:
        made = world(name, arguments.seed, arguments.scale)
        folder = arguments.folder / name
        data = read_dataset(write(made, folder))
        validation, test = splits(data.log, data.catalog, HOLDOUT, made.repeats)
        oracle = ndcg_at_10(test, oracle_lists(made, test))
        baselines = simple_baselines(validation, test)
        report = {
            "world": name,
            "seed": arguments.seed,
            "scale": arguments.scale,
            "repeats": made.repeats,
            "events": data.log.events,
            "users": len(data.log.users),
            "items": len(data.catalog),
            "test_baskets": len(test.test.baskets),
            "test_users": int(np.unique(test.test.owner).size),
            "oracle": {"ndcg_at_10": oracle},
            **baselines,
        }
        (folder / "oracle.json").write_text(json.dumps(report, indent=2) + "\n")
        simple = ", ".join(
            f"{row} {values['ndcg_at_10']:.4f} (half-life {values['half_life_days']} days)"
            for row, values in baselines.items()
        )
        console.print(
            f"[bold]{name}[/bold]: {data.log.events:,} events, {len(data.log.users):,} users, {len(data.catalog):,} "
            f"items, {len(test.test.baskets):,} baskets to predict. NDCG@10: oracle {oracle:.4f}, {simple}"
        )


if __name__ == "__main__":
    main()
