"""What the newest events add to related items, as it is served."""

import numpy as np

from ebbtide.interest.events import order_events
from ebbtide.interest.related import NEWEST_EVENTS, RelatedItems, related_scores

RELATED = RelatedItems(
    np.array([[1, 2], [0, 2], [3, 0], [2, 1]], dtype=np.int32),
    np.array([[0.5, 0.25], [1.0, 0.0], [2.0, 4.0], [0.0, 0.0]], dtype=np.float32),
)


def added(items, counts, weight=None):
    """By user and item."""
    number = len(items)
    given = None if weight is None else np.array(weight, dtype=np.float32)
    now_ms = np.full(len(counts), number)
    batch = order_events(np.array(counts), np.arange(number), now_ms, given, None, 1000)
    found = related_scores(batch, np.array(items).take(batch.source), RELATED)
    pairs = list(zip(found.user.tolist(), found.item.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    return dict(zip(pairs, np.broadcast_to(found.value, len(pairs)).tolist(), strict=True))


def test_events_add_to_the_items_that_are_near_and_add_up():
    assert added([0], [1]) == {(0, 1): 0.5, (0, 2): 0.25}
    assert added([1, 2, 0], [2, 1]) == {(0, 0): 5.0, (0, 3): 2.0, (1, 1): 0.5, (1, 2): 0.25}
    assert added([0, 0], [2]) == {(0, 1): 1.0, (0, 2): 0.5}


def test_nothing_is_added_by_texts_new_items_dislikes_and_items_without_related_ones():
    assert added([-1, 4, 3], [3]) == {}
    assert added([0, 1], [2], weight=[0, -1]) == {}
    assert added([], [0, 0]) == {}


def test_only_the_newest_events_of_each_user_count():
    assert added([0] + [3] * (NEWEST_EVENTS - 1), [NEWEST_EVENTS]) == {(0, 1): 0.5, (0, 2): 0.25}
    assert added([0] + [3] * NEWEST_EVENTS, [NEWEST_EVENTS + 1]) == {}
