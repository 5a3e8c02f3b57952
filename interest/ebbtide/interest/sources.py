"""Where the vector of each event comes from: the catalog, a text, or nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.checks import STANDALONE, refuse_entries
from ebbtide.interest.columns import Columns
from ebbtide.interest.lookup import UNKNOWN, KeyIndex

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EventSources:
    """The events that count, in the order given; those with unknown items are left out."""

    user: Ints
    """``[events]``."""
    item: Ints
    """``[events]``: catalog index, -1 where a text gives the vector."""
    text: Ints | None
    """``[events]``: row of the texts, -1 where the item gives the vector; None without texts."""
    text_vectors: Floats | None
    """``[texts, d]``."""
    counts: Ints
    """``[B]``: events that count."""
    left_out: Ints
    """``[B]``: events that do not."""
    kept: Ints | None
    """``[events]``: their indices among all that were given; None where all count."""

    def vectors(self, catalog: Floats, order: Ints) -> Floats:
        """The events' vectors in another order, float32 ``[events, d]``.

        Args:
            catalog: ``[items, d]``.
            order: ``[events]``, indices in this one.
        """
        item = self.item.take(order)
        if self.text is None or self.text_vectors is None:
            return catalog.take(item, axis=0)
        vectors = np.empty((item.size, self.text_vectors.shape[1]), dtype=np.float32)
        text, is_text = self.text[order], item == UNKNOWN
        vectors[~is_text] = catalog[item[~is_text]]
        vectors[is_text] = self.text_vectors[text[is_text]]
        return vectors


def find_sources(columns: Columns, index: KeyIndex, fingerprint: str) -> EventSources:
    """Looks the items of a batch up.

    A text that stands in for an event whose item is known is dropped.

    Args:
        columns: Of the batch.
        index: The catalog's keys.
        fingerprint: Of the export, for the error.

    Raises:
        RequestsRefused: An item is unknown, no text stands in for it, and the request does not say to leave it out.
    """
    user = columns.user
    if user.size == 0 and columns.texts is None:
        nothing = np.zeros(columns.users, dtype=np.int64)
        return EventSources(user, columns.event_item, None, None, columns.events, nothing, kept=None)
    item = index.find(columns.event_item)
    text = text_vectors = None
    if columns.texts is not None:
        item, text = _with_texts(columns, item, user)
        text_vectors = columns.texts.vector
    unknown = item == UNKNOWN
    if text is not None:
        unknown &= text == UNKNOWN
    if not np.count_nonzero(unknown):
        return EventSources(
            user, item, text, text_vectors, columns.events, np.zeros(columns.users, dtype=np.int64), kept=None
        )
    refused = unknown & ~np.broadcast_to(columns.ignore_unknown, columns.users)[user]
    if refused.any():
        _refuse_unknown(columns, refused, f"the {index.sorted_key.size} items of the catalog of export {fingerprint}")
    kept = np.flatnonzero(~unknown)
    left_out = np.bincount(user[unknown], minlength=columns.users)
    return EventSources(
        user[kept],
        item[kept],
        None if text is None else text[kept],
        text_vectors,
        columns.events - left_out,
        left_out,
        kept,
    )


def _refuse_unknown(columns: Columns, refused: npt.NDArray[np.bool_], items: str) -> NoReturn:
    expected = f"the key of one of {items}, or `{contract.IGNORE_UNKNOWN.name}`"
    # Only events with an item are refused, and those are the first of each user.
    keys = np.zeros(columns.user.size, dtype=np.int64)
    keys[_index_in_row(columns) < columns.items[columns.user]] = columns.event_item
    refuse_entries(columns.request, columns.user, refused, contract.EVENT_ITEM, keys, lambda _user: expected)


def _index_in_row(columns: Columns) -> Ints:
    """The index of each event among its user's, ``[E]``."""
    first = np.cumsum(columns.events) - columns.events
    return np.arange(columns.user.size) - first[columns.user]


def _with_texts(columns: Columns, found: Ints, user: Ints) -> tuple[Ints, Ints]:
    """Catalog index, and row of the texts, of every event, -1 for none; standalone texts come after the items."""
    texts = columns.texts
    assert texts is not None  # noqa: S101 - the caller looked
    first = np.cumsum(columns.events) - columns.events
    index = _index_in_row(columns)
    item = np.full(user.size, UNKNOWN, dtype=np.int64)
    item[index < columns.items[user]] = found
    text = np.full(user.size, UNKNOWN, dtype=np.int64)
    row = np.arange(texts.user.size)
    alone = texts.stands_for == STANDALONE
    text[index >= columns.items[user]] = row[alone]
    event = first[texts.user[~alone]] + texts.stands_for[~alone]
    needed = item[event] == UNKNOWN
    text[event[needed]] = row[~alone][needed]
    return item, text
