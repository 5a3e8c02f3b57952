"""A log with its split: what is held out, which instants are predicted, and what came at each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ebbtide.data.catalog import Catalog
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventLog
from ebbtide.data.splits import Instants, Ints, Mask, held_out, instants_of
from ebbtide.train.evaluation.accuracy import owners
from ebbtide.train.evaluation.relevance import Relevance


@dataclass(frozen=True)
class TestSet:
    """The same for every model that is compared."""

    __test__ = False  # The name is no test of pytest's.

    log: EventLog
    catalog: Catalog
    is_test: Mask
    """``[n]``."""
    instants: Instants
    """C instants of the test events, those with a strictly earlier event of the person."""
    relevance: Relevance
    owner: Ints
    """``[C]``, the person of each instant."""

    @classmethod
    def of(cls, log: EventLog, catalog: Catalog, holdout: str) -> TestSet:
        """Splits a log.

        Raises:
            DataError: An unknown protocol, or one that leaves nothing to predict.
        """
        return cls.where(log, catalog, held_out(log, holdout))

    @classmethod
    def where(cls, log: EventLog, catalog: Catalog, is_test: Mask) -> TestSet:
        """Takes the test events as they are given, ``[n]``.

        Raises:
            DataError: Nothing to predict.
        """
        instants = instants_of(log, is_test)
        if not len(instants):
            raise DataError(
                f"holdout: got {int(is_test.sum()):,} test events, none with an earlier event of the same person; "
                "expected some to predict"
            )
        return cls(log, catalog, is_test, instants, Relevance.of(log, instants), owners(log, instants))

    @property
    def training_item(self) -> Ints:
        """Items of the events that are not held out."""
        return self.log.item[~self.is_test]

    @property
    def training_user(self) -> Ints:
        """People of the events that are not held out."""
        return self.log.user[~self.is_test]

    def seldom(self, at_most: int) -> Mask:
        """Items with at most so many training events, ``[N]``: the cold and the long tail."""
        return np.asarray(np.bincount(self.training_item, minlength=len(self.catalog)) <= at_most)
