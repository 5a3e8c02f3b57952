"""Follows the items that are added to a server, the stock and the rules, in the store, for one served model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ebbtide.interest.item_records import PARTS, ItemStore
from ebbtide.interest.new_items import NewItem, NewItems, new_items
from ebbtide.interest.pipeline import InterestPipeline
from ebbtide.interest.popularity import CountedPopularity, PriorOfOthers
from ebbtide.interest.rule_records import RuleStore
from ebbtide.interest.rules import RuleTables, parse_rules
from ebbtide.interest.stock_records import StockStore
from ebbtide.interest.users import Users

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

ITEMS_VARIABLE = "EBBTIDE_NEW_ITEMS_SECONDS"
"""Names the seconds between two reads of the added items and the stock, or ``off``."""
DEFAULT_ITEMS_SECONDS = 0.5


class ItemsReader:
    """Follows the added items of one set of states, and what is out of stock."""

    def __init__(
        self,
        pipeline: InterestPipeline,
        users: Users,
        counted: CountedPopularity | None = None,
        factors: Floats | None = None,
        rules: RuleTables | None = None,
    ) -> None:
        """Takes what one export wrote.

        Args:
            pipeline: Answers with the items from each `poll` on.
            users: Of the export.
            counted: What the export's prior was computed from; None in an export without counts, or if nothing is
                scored.
            factors: ``[items, d + p]``; None if nothing is scored.
            rules: What rules need of the export; None to follow none.
        """
        pipeline.follows_items = True
        self._pipeline = pipeline
        self._store = ItemStore(users)
        self._weight = pipeline.parameters.prior_weight.astype(np.float64)
        self._factors = factors
        self._frozen = None if counted is None else PriorOfOthers(counted, self._weight)
        self._columns: Floats | None = None
        self._numbers = np.zeros(PARTS, dtype=np.int64)
        self._parts: dict[int, list[NewItem]] = {}
        self._prior: PriorOfOthers | None = None
        pipeline.rule_tables = rules
        self._rules = RuleStore(users)
        self._rules_number: bytes | None = None
        self._stock = StockStore(users)
        self._stock_numbers = np.zeros(PARTS, dtype=np.int64)
        self._stock_keys: dict[int, Ints] = {}

    def poll(self) -> None:
        """Reads what has changed since the last call; items and stock stay as they are if it fails.

        Raises:
            StoreError: The store failed.
            ValueError: A record is damaged.
        """
        pipeline, prior = self._pipeline, self._pipeline.prior_of_others
        index = self._store.index()
        changed = np.flatnonzero(index.numbers != self._numbers).tolist()
        if changed:
            self._parts.update(zip(changed, self._store.parts(changed), strict=True))
            if self._columns is None:
                self._columns = self._unseen()
            items = [item for part in self._parts.values() for item in part]
            pipeline.add(self._with_gain(new_items(items, pipeline.index.items, pipeline.attributes, self._columns)))
        elif prior is not self._prior and pipeline.items.new is not None:
            pipeline.add(self._with_gain(pipeline.items.new))
        self._prior, self._numbers = prior, index.numbers
        self._poll_stock()
        if pipeline.rule_tables is not None:
            self._poll_rules()

    def _poll_rules(self) -> None:
        number = self._rules.number()
        if number != self._rules_number:
            self._pipeline.take_rules(parse_rules(self._rules.document()))
            self._rules_number = number
        book = self._pipeline.items.rules
        if book is not None and book.left_out:
            raise ValueError(f"rules {', '.join(book.left_out)} are left out: all would be about too many items")

    def _poll_stock(self) -> None:
        index = self._stock.index()
        changed = np.flatnonzero(index.numbers != self._stock_numbers).tolist()
        if changed:
            self._stock_keys.update(zip(changed, self._stock.keys(changed), strict=True))
            self._pipeline.take_out_of_stock(np.concatenate(list(self._stock_keys.values())))
        self._stock_numbers = index.numbers

    def _with_gain(self, new: NewItems | None) -> NewItems | None:
        """The items with what their live prior adds now."""
        prior = self._pipeline.prior_of_others or self._frozen
        if new is None or prior is None or self._columns is None:
            return new
        gain = prior.scores(new.key, new.added_ms) - self._columns.astype(np.float64) @ self._weight
        return replace(new, gain=gain.astype(np.float32))

    def _unseen(self) -> Floats:
        """The prior's columns of an item that the export's log lacks, ``[p]``."""
        if self._frozen is not None:
            return self._frozen.columns()
        if self._factors is None:
            return np.zeros(self._weight.size, dtype=np.float32)
        # The least popular item has no event, or few.
        columns: Floats = self._factors[:, self._pipeline.parameters.vector_width :].min(axis=0)
        return columns
