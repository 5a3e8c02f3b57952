"""Writes synthetic worlds as event logs with catalogs, and what their oracle reaches.

python -m benchmarks.quality.worlds FOLDER [--world news] [--seed 0] [--scale 1] [--inferred]

Writes FOLDER/<world>/events.parquet (user, item, time in Unix milliseconds), catalog.parquet (item, text) and
oracle.json (NDCG@10 of the oracle and of two simple baselines). The choice model is in zoo/choice.py. The oracle knows
the users' tastes, which no recommender can; --inferred adds an oracle that infers them from the events (minutes).
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
from benchmarks.quality.zoo.choice import Floats, Ints, World, simulate
from benchmarks.quality.zoo.evergreen import evergreen
from benchmarks.quality.zoo.fashion import fashion
from benchmarks.quality.zoo.groceries import groceries
from benchmarks.quality.zoo.inferred import inferred_lists
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
ORACLE = "oracle"
"""Name of the best possible lists."""
INFERRED = "oracle, users inferred"
"""Name of the lists of an oracle that knows no user."""
HOLDOUT = "time:0.2"
_HALF_LIVES_DAYS = (1 / 96, 1 / 48, 1 / 24, 2 / 24, 4 / 24, 0.5, 1.0, 3.0, 7.0, 30.0, 90.0, math.inf)


def world(name: str, seed: int = 0, scale: float = 1.0) -> World:
    """Generates a world; the same arguments always give the same world.

    Args:
        name: One of `WORLDS`.
        seed: Seed of all random numbers.
        scale: Factor of the number of users and items.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return simulate(rng, WORLDS[name](rng, scale))


def write(made: World, folder: Path) -> DataReference:
    """Writes events and catalog as Parquet and returns how to read them."""
    folder.mkdir(parents=True, exist_ok=True)
    events, catalog = folder / "events.parquet", folder / "catalog.parquet"
    order = np.argsort(made.design.schedule.time_ms[made.basket], kind="stable")
    basket = made.basket[order]
    pl.DataFrame(
        {
            "user": user_ids(made).gather(made.design.schedule.user[basket]),
            "item": item_ids(made).gather(made.item[order]),
            "time": made.design.start_ms + made.design.schedule.time_ms[basket],
        }
    ).write_parquet(events)
    pl.DataFrame({"item": item_ids(made), "text": made.design.texts}).write_parquet(catalog)
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
    """The ids of a world's users, ``[users]``."""
    return pl.Series([f"u{user:05d}" for user in range(int(made.design.schedule.user.max()) + 1)])


def item_ids(made: World) -> pl.Series:
    """The ids of a world's items, ``[items]``."""
    return pl.Series([f"i{item:05d}" for item in range(len(made.design.texts))])


def oracle_lists(made: World, split: Split) -> RankedLists:
    """The oracle's lists before the test baskets of a split of the world's log; the scores are probabilities."""
    return _lists(made, split, made.oracle_item, made.oracle_probability)


def inferred_oracle_lists(made: World, split: Split) -> RankedLists:
    """The lists of an oracle that knows the world and its items, but has to infer the users; takes minutes."""
    return _lists(made, split, *inferred_lists(made))


def _lists(made: World, split: Split, items: Ints, probabilities: Floats) -> RankedLists:
    """Picks the lists of the test baskets from those of all baskets, and names items by their catalog index."""
    test = split.test
    head = test.baskets.head
    schedule = pl.DataFrame(
        {
            "user": user_ids(made).gather(made.design.schedule.user),
            "time": made.design.start_ms + made.design.schedule.time_ms,
            "row": np.arange(made.design.schedule.user.shape[0]),
        }
    )
    cases = pl.DataFrame({"user": pl.Series(test.log.users).gather(test.owner), "time": test.log.time_ms[head]})
    row = cases.join(schedule, on=["user", "time"], how="left", maintain_order="left")["row"].to_numpy()
    of_item = np.asarray([test.catalog.index[item] for item in item_ids(made).to_list()])
    probability = probabilities[row]
    possible = probability > 0
    return RankedLists(
        np.where(possible, of_item[items[row]], NO_ITEM),
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
    parser.add_argument("--inferred", action="store_true", help="also the oracle that infers the users (minutes)")
    arguments = parser.parse_args()
    for name in arguments.world or WORLDS:
        made = world(name, arguments.seed, arguments.scale)
        folder = arguments.folder / name
        data = read_dataset(write(made, folder))
        validation, test = splits(data.log, data.catalog, HOLDOUT, made.design.repeats)
        oracle = ndcg_at_10(test, oracle_lists(made, test))
        baselines = simple_baselines(validation, test)
        report: dict[str, object] = {
            "world": name,
            "seed": arguments.seed,
            "scale": arguments.scale,
            "repeats": made.design.repeats,
            "events": data.log.events,
            "users": len(data.log.users),
            "items": len(data.catalog),
            "test_baskets": len(test.test.baskets),
            "test_users": int(np.unique(test.test.owner).size),
            ORACLE: {"ndcg_at_10": oracle},
            **baselines,
        }
        if arguments.inferred:
            report[INFERRED] = {"ndcg_at_10": ndcg_at_10(test, inferred_oracle_lists(made, test))}
        (folder / "oracle.json").write_text(json.dumps(report, indent=2) + "\n")
        console.print(
            f"[bold]{name}[/bold]: {data.log.events:,} events, {len(data.log.users):,} users, {len(data.catalog):,} "
            f"items, {len(test.test.baskets):,} baskets to predict"
        )
        for row, values in report.items():
            if isinstance(values, dict):
                life = f", half-life {float(values['half_life_days']):.3g} days" if "half_life_days" in values else ""
                console.print(f"  {row}: NDCG@10 {values['ndcg_at_10']:.4f}{life}")


if __name__ == "__main__":
    main()
