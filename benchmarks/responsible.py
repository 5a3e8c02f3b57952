"""What responsible ranking gives and what it costs: the lists of a held-out log, composed in several ways and audited.

The best 200 items before each held-out basket are ranked by a bundle, and the maths that the server composes slates
with makes lists of ten from them. `ebbtide audit` compares each set with the lists by score alone. Prints a table and
writes JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.serving.machine import facts
from ebbtide.data.baskets import Ints, Mask
from ebbtide.data.dataset import read_dataset
from ebbtide.interest.slate import ExposedGroup, Groups, Wishes, compose
from ebbtide.interest.slate_diversity import unit_rows
from ebbtide.interest.slate_exposure import least_by_position
from ebbtide.train.audit.audit import Audit, audit, built_in_item_groups
from ebbtide.train.audit.groups import NEW, TAIL, contrast, values_of
from ebbtide.train.audit.report import cells
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.evaluation.evaluate import rank_bundle
from ebbtide.train.evaluation.lists import LENGTH, NO_ITEM, RankedLists
from ebbtide.train.evaluation.report import without_nan
from ebbtide.train.evaluation.segments import item_values
from ebbtide.train.evaluation.testset import TestSet

ROOT = Path(__file__).parents[1]
CANDIDATES, SIZE = 200, 10
_SIGNIFICANCE = 0.1
_FIRST_CAUSE = 2
console = Console(highlight=False)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Catalog:
    """What limits look at."""

    directions: Floats
    """``[items, d]``, factors of length 1."""
    genre: Mask
    """``[items, genres]``."""
    is_tail: Mask
    """``[items]``."""
    is_new: Mask
    """``[items]``."""

    @classmethod
    def of(cls, bundle: InterestBundle, test: TestSet, column: str) -> Catalog:
        """Reads the values of a column, and the tiers of popularity."""
        reference = bundle.config.data
        if reference.catalog is None:
            raise SystemExit("expected a bundle with a catalog file")
        values = item_values(reference.catalog, reference.catalog_item_column, column)
        names = {name: index for index, name in enumerate(values["value"].unique().sort())}
        genre = np.zeros((len(test.catalog), len(names)), dtype=np.bool_)
        for item_id, value in values.select("id", "value").iter_rows():
            if item_id in test.catalog.index:
                genre[test.catalog.index[item_id], names[value]] = True
        tiers = built_in_item_groups(test)
        tier = {label: tiers.weight[:, index] > 0 for index, label in enumerate(tiers.labels)}
        with torch.inference_mode():
            directions = unit_rows(bundle.model.item_factors().cpu().numpy())
        nobody = np.zeros(len(test.catalog), dtype=np.bool_)
        return cls(directions, genre, tier.get(TAIL, nobody), tier.get(NEW, nobody))

    def diverse(self, item: Ints, weight: float) -> Wishes:
        """Maximal marginal relevance."""
        return Wishes(SIZE, weight, "mmr", self.directions[item])

    def capped(self, item: Ints, count: int) -> Wishes:
        """At most so many items of each genre."""
        member = self.genre[item]
        each = np.full(member.shape[1], count)
        return Wishes(SIZE, caps=Groups(member, each, np.full(member.shape[1], _FIRST_CAUSE)))

    def with_new(self, item: Ints, count: int) -> Wishes:
        """At least so many new items."""
        member = self.is_new[item][:, None]
        return Wishes(SIZE, minimums=Groups(member, np.array([count]), np.array([_FIRST_CAUSE])))

    def exposed(self, item: Ints, share: float) -> Wishes:
        """FA*IR with the tail as the protected group."""
        least = least_by_position(SIZE, share, _SIGNIFICANCE)
        return Wishes(SIZE, exposures=[ExposedGroup(self.is_tail[item], least, _FIRST_CAUSE)])

    def constraints(self) -> dict[str, Callable[[Ints], Wishes]]:
        """What the lists are composed with, by name."""
        return {
            "diversity 0.1 (MMR)": lambda item: self.diverse(item, 0.1),
            "diversity 0.3 (MMR)": lambda item: self.diverse(item, 0.3),
            "at most 3 of each genre": lambda item: self.capped(item, 3),
            "at least 1 new item": lambda item: self.with_new(item, 1),
            "tail at least 20 % (FA*IR)": lambda item: self.exposed(item, 0.2),
            "tail at least 40 % (FA*IR)": lambda item: self.exposed(item, 0.4),
        }


def composed(candidates: RankedLists, wishes_of: Callable[[Ints], Wishes]) -> RankedLists:
    """Lists of ten from the candidates of each basket.

    Args:
        candidates: ``[baskets, CANDIDATES]``.
        wishes_of: What the list shall be like, for the candidates' catalog indices.
    """
    item = np.full((candidates.item.shape[0], LENGTH), NO_ITEM, dtype=np.int64)
    score = np.full(item.shape, -np.inf, dtype=np.float32)
    for basket, (row, scores) in enumerate(zip(candidates.item, candidates.score, strict=True)):
        count = int((row != NO_ITEM).sum())
        if count:
            chosen = compose(scores[:count], wishes_of(row[:count])).chosen
            item[basket, : len(chosen)] = row[chosen]
            score[basket, : len(chosen)] = -np.arange(len(chosen))
    return RankedLists(item, score)


def main() -> None:
    """Composes, audits and reports."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.responsible", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=ROOT / "artifacts" / "held-out", help="trained with --holdout")
    parser.add_argument("--column", default="genres", help="of the catalog, for the caps")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "responsible.json")
    arguments = parser.parse_args()
    bundle = InterestBundle.load(arguments.bundle)
    data = read_dataset(bundle.config.data)
    test = TestSet.of(data.log, data.catalog, bundle.config.data.holdout)
    candidates, _, _ = rank_bundle(bundle, test, frozen=False, repeats=None, length=CANDIDATES)
    before = RankedLists(candidates.item[:, :LENGTH], candidates.score[:, :LENGTH])
    catalog = Catalog.of(bundle, test, arguments.column)
    ids = test.catalog.item_id
    tail = contrast("popularity", "", values_of(built_in_item_groups(test), ids), ids, TAIL)
    found: dict[str, Audit] = {}
    seconds: dict[str, float] = {}
    for name, wishes_of in catalog.constraints().items():
        began = time.monotonic()
        lists = composed(candidates, wishes_of)
        seconds[name] = time.monotonic() - began
        found[name] = audit(test, before, lists, [tail])
        console.print(f"{name}: {seconds[name]:.0f} s for {len(test.baskets):,} lists")
    _print(found)
    machine = facts()
    result = {
        "date": machine.pop("date"),
        "machine": machine,
        "fingerprint": bundle.fingerprint,
        "holdout": bundle.config.data.holdout,
        "users": int(np.unique(test.owner).size),
        "baskets": len(test.baskets),
        "items": len(test.catalog),
        "candidates": CANDIDATES,
        "constraints": [{"name": name, **_numbers(one)} for name, one in found.items()],
    }
    arguments.json.write_text(json.dumps(without_nan(result), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _numbers(found: Audit) -> dict[str, Any]:
    """What the table shows, and the shares of the tiers."""
    tiers, tail = found.item_audits
    if tail.contrast is None:
        raise ValueError("contrast: got none; expected the tail as the protected group")
    return {
        "ndcg_at_10": asdict(found.ndcg_at_10),
        "gini": asdict(found.gini),
        "coverage_at_10": list(found.coverage_at_10),
        "tail_ratio": asdict(tail.contrast.relevant_ratio),
        "exposure_share": {row.label: asdict(row.exposure_share) for row in tiers.groups},
        "relevant_share": {row.label: row.relevant_share.mean for row in tiers.groups},
    }


def _print(found: dict[str, Audit]) -> None:
    table = Table(title="Lists by score, then with a constraint", title_justify="left")
    for heading in ("constraint", "NDCG@10", "difference", "Gini", "coverage", "tail ratio"):
        table.add_column(heading, justify="left" if heading == "constraint" else "right")
    for name, one in found.items():
        ratio = one.item_audits[1].contrast
        table.add_row(
            name,
            *cells(one.ndcg_at_10, 4)[1:],
            cells(one.gini, 4)[1],
            f"{one.coverage_at_10[1] or 0:.1%}",
            "-" if ratio is None else cells(ratio.relevant_ratio, 2)[1],
        )
    console.print(table)


if __name__ == "__main__":
    main()
