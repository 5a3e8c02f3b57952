"""A log with its split: what is held out, which baskets are predicted, and the relevant items of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ebbtide.data.baskets import Baskets, Ints, Mask, baskets_of
from ebbtide.data.catalog import Catalog
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventLog
from ebbtide.data.splits import held_out
from ebbtide.train.evaluation.accuracy import owners
from ebbtide.train.evaluation.relevance import Relevance


@dataclass(frozen=True)
class TestSet:
    """The same for every model that is compared."""

    __test__ = False  # The name is no test of pytest's.

    log: EventLog
    catalog: Catalog
    is_test: Mask
    """``[events]``, of target types only."""
    baskets: Baskets
    """Baskets of the test events that have a strictly earlier event of the user."""
    relevance: Relevance
    owner: Ints
    """``[baskets]``, the user of each basket."""

    @classmethod
    def of(cls, log: EventLog, catalog: Catalog, holdout: str) -> TestSet:
        """Splits a log.

        Raises:
            DataError: An unknown protocol, or one that leaves nothing to predict.
        """
        return cls.where(log, catalog, held_out(log, holdout))

    @classmethod
    def where(cls, log: EventLog, catalog: Catalog, is_test: Mask) -> TestSet:
        """Takes the test events as they are given, ``[events]``.

        Raises:
            DataError: Nothing to predict.
        """
        is_test = is_test & log.is_target
        baskets = baskets_of(log, is_test)
        if not len(baskets):
            raise DataError(
                f"holdout: got {int(is_test.sum()):,} test events, none with an earlier event of the same user; "
                "expected some to predict"
            )
        return cls(log, catalog, is_test, baskets, Relevance.of(log, baskets), owners(log, baskets))

    @property
    def training_item(self) -> Ints:
        """Items of the events of target types that are not held out."""
        return self.log.item[self._is_training]

    @property
    def training_user(self) -> Ints:
        """Users of the events of target types that are not held out."""
        return self.log.user[self._is_training]

    @property
    def _is_training(self) -> Mask:
        return ~self.is_test & self.log.is_target

    def seldom(self, at_most: int) -> Mask:
        """Items with at most so many training events, ``[items]``: the cold and the long tail."""
        return np.asarray(np.bincount(self.training_item, minlength=len(self.catalog)) <= at_most)
