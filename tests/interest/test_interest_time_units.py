"""Durations as people read them."""

import math

import pytest

from ebbtide.interest.time_units import duration, events_duration


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (0.0, "0 s"),
        (0.00044, "38 s"),
        (5.8 / 1440, "5.8 min"),
        (0.0458, "1.1 h"),
        (1 / 86_400, "1 s"),
        (1.0, "1 day"),
        (3.44, "3.44 days"),
        (364.0, "364 days"),
        (12 * 365.25, "12 years"),
        (2.11e4, "57.8 years"),
        (1e5, "274 years"),
        (1e6, "endless"),
        (math.inf, "endless"),
    ],
)
def test_duration_has_the_unit_that_fits_when_it_is_shown(days, text):
    assert duration(days) == text


@pytest.mark.parametrize(
    ("events", "text"), [(0.957, "0.957 events"), (1.0001, "1 event"), (36.3, "36.3 events"), (999_999.6, "endless")]
)
def test_half_life_in_events_is_endless_when_no_user_has_so_many(events, text):
    assert events_duration(events) == text
