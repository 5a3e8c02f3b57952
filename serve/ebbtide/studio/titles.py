"""What the page shows beside the server's answers: titles of items, and the events of users in a log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from ebbtide.data.dataset import Dataset

MOST_FOUND = 20
"""Items that a search finds."""
MOST_EVENTS = 512
"""Events of a user that the page gets, the newest; the default limit of a request."""
_EXAMPLES = 8


class StudioData:
    """A catalog to search, and a log to choose users from."""

    def __init__(self, data: Dataset, *, weighted: bool) -> None:
        """Takes what was read.

        Args:
            data: Event log and catalog.
            weighted: Whether the log has a column with weights.
        """
        self._catalog, self._log, self._weighted = data.catalog, data.log, weighted
        self._titles = dict(zip(data.catalog.item_id, data.catalog.title, strict=True))
        self._lower = pl.Series(data.catalog.title, dtype=pl.String).str.to_lowercase()
        self._popularity = np.bincount(data.log.item, minlength=len(data.catalog))

    def titles(self, item_ids: Iterable[str]) -> dict[str, str]:
        """The title of each item that the catalog has."""
        return {item_id: self._titles[item_id] for item_id in item_ids if item_id in self._titles}

    def search(self, words: str) -> list[dict[str, str]]:
        """Items whose titles have all the words, those with most events first; the most popular ones for no words."""
        found = pl.Series(np.ones(len(self._lower), dtype=np.bool_))
        for word in words.lower().split():
            found &= self._lower.str.contains(word, literal=True)
        index = found.arg_true().to_numpy()
        best = index[np.argsort(-self._popularity[index], kind="stable")[:MOST_FOUND]]
        return [{"item_id": self._catalog.item_id[item], "title": self._catalog.title[item]} for item in best]

    def examples(self) -> list[str]:
        """Ids of some users whose events are neither few nor very many, those with the newest events first."""
        log = self._log
        counts = np.diff(log.start)
        usual = np.flatnonzero((counts >= np.quantile(counts, 0.5)) & (counts <= np.quantile(counts, 0.9)))
        newest = log.time_ms[log.start[usual + 1] - 1]
        return [log.users[user] for user in usual[np.argsort(-newest, kind="stable")[:_EXAMPLES]]]

    def events(self, user_id: str) -> list[dict[str, Any]]:
        """The newest events of a user, oldest first.

        Raises:
            DataError: The log has no such user.
        """
        log, span = self._log, self._log.of_user(user_id)
        first = max(span.start, span.stop - MOST_EVENTS)
        return [
            {
                "item_id": self._catalog.item_id[item],
                "title": self._catalog.title[item],
                "time_ms": int(time_ms),
                "weight": float(weight) if self._weighted else None,
            }
            for item, time_ms, weight in zip(
                log.item[first : span.stop], log.time_ms[first : span.stop], log.weight[first : span.stop], strict=True
            )
        ]
