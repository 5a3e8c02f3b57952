"""Filters by values and by ranges of numbers: which items pass, against sets and numbers; wrong entries are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.interest.attributes import AttributeIndex
from ebbtide.interest.errors import RequestError
from ebbtide.interest.lookup import KeyIndex
from ebbtide.interest.numbers import LEAST, MOST, numbers_of, ordered

DRAMA, WAR, STOCK, PRICE, YEAR = 11, 12, -13, 21, -22
INDEX = AttributeIndex(
    np.array([0, 2, 3, 6, 9]),
    KeyIndex.build(np.array([DRAMA, WAR, STOCK])),
    np.array([0, 0, 1]),
    np.array([63, 64, 1]),
    np.array([2, 3]),
    np.array([PRICE, YEAR]),
)
"""`genre` in words 0 and 1, `stock` in word 2, and the numbers `price` and `year`."""

numbers = st.none() | st.floats(allow_nan=False)
items = st.lists(st.tuples(st.sets(st.sampled_from([DRAMA, WAR, STOCK])), numbers, numbers), min_size=1, max_size=8)
bounds = st.none() | st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)).map(sorted)


@given(items, st.sets(st.sampled_from([DRAMA, WAR])), bounds, bounds)
def test_items_pass_just_if_they_meet_every_condition(
    given_items: list[Any], genres: set[int], price: list[float] | None, year: list[float] | None
) -> None:
    keys, owner = [], []
    for number, (values, *of_columns) in enumerate(given_items):
        entries = list(values)
        for column, value in zip((PRICE, YEAR), of_columns, strict=True):
            entries += [] if value is None else [column, int(ordered(value))]
        # A key that nobody knows says nothing.
        entries.append(99)
        keys += entries
        owner += [number] * len(entries)
    words = INDEX.words_of(len(given_items), np.array(owner, np.int64), np.array(keys, np.int64))
    value = INDEX.find(np.array(list(genres), np.int64))
    asked = [(number, both) for number, both in enumerate((price, year)) if both is not None]
    ranges = (
        np.zeros(len(asked), np.int64),
        np.array([number for number, _ in asked], np.int64),
        ordered([both[0] for _, both in asked]),
        ordered([both[1] for _, both in asked]),
    )
    passing = INDEX.passing(words, INDEX.filters(1, np.zeros(value.size, np.int64), value, ranges))
    expected = [
        (not genres or bool(values & genres))
        and all(
            both is None or (of_item is not None and both[0] <= of_item <= both[1])
            for of_item, both in zip(of_columns, (price, year), strict=True)
        )
        for values, *of_columns in given_items
    ]
    assert passing.tolist() == [expected]


def test_both_ranges_hold_when_one_column_has_two() -> None:
    words = INDEX.words_of(3, np.repeat([0, 1, 2], 2), np.array([PRICE, 1, PRICE, 5, PRICE, 9]))
    owner = np.zeros(2, np.int64)
    ranges = (owner, owner, np.array([LEAST, 2]), np.array([6, MOST]))
    filters = INDEX.filters(1, np.empty(0, np.int64), np.empty(0, np.int64), ranges)
    assert INDEX.passing(words, filters).tolist() == [[False, True, False]]


def test_number_may_equal_the_key_of_a_column() -> None:
    found = INDEX.numbers_in(np.array([WAR, PRICE, YEAR, 5, YEAR, PRICE, PRICE]), 2)
    assert (found.position.tolist(), found.column.tolist()) == ([1, 4], [0, 1])
    assert found.is_value.tolist() == [True] + [False] * 6


@pytest.mark.parametrize("number", [0.0, -0.0, 19.99, -1e-300, np.inf, -np.inf])
def test_numbers_come_back_from_their_integers(number: float) -> None:
    assert numbers_of(ordered(number)) == number


@pytest.mark.parametrize(
    ("keys", "place"),
    [([PRICE, 1], 0), ([PRICE], 0), ([STOCK, PRICE, 2, 1], 1), ([PRICE, 1, 2, 77], 3)],
    ids=["one bound", "no bound", "lower bound above the upper one", "unknown key"],
)
def test_request_is_refused_when_its_range_is_not_whole(make_model: Any, ask: Any, keys: list[int], place: int) -> None:
    model = make_model(0)
    model.pipeline.attributes = INDEX
    good = ask([], allow_attribute=[PRICE, 1, 2, WAR])
    bad = ask([], allow_attribute=keys)
    found = model.pipeline.run([good, bad, replace(good, allow_attribute=None)])
    assert found[0].item_filter.tolist() == [0, 1, 1, 0, 1, 2, 1, 0, 0]
    assert found[2].item_filter.tolist() == [1, 0, 1, 1, 0, 0, 1, 0, 0]
    assert isinstance(found[1], RequestError)
    assert found[1].field == f"allow_attribute[{place}]"
