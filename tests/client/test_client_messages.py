"""A value of a wrong kind, as data frames and notebooks give them, is refused by the name of its field."""

from datetime import datetime, timezone

import numpy as np
import pandas as pd
import pytest

from ebbtide.client import (
    InterestClient,
    InvalidArgumentError,
    event,
    new_item,
    observe_request,
    rank_request,
    recommend_request,
    rule,
)

NOW = datetime(2024, 5, 1, tzinfo=timezone.utc)
NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: event(item_id=318, time=NOW), "item_id: got 318; expected text, as in '318'"),
        (lambda: event(item_id=np.int64(318), time=NOW), "item_id: got 318; expected text, as in '318'"),
        (lambda: event(item_id=NAN, time=NOW), "item_id: got nan; expected text"),
        (lambda: event(item_id=pd.NA, time=NOW), "item_id: got <NA>; expected text"),
        (lambda: event(item_id="\ud800", time=NOW), "item_id: got '\\ud800'; expected text that UTF-8 can hold"),
        (lambda: event(item_id="1", time=pd.NaT), "time: got NaT; expected a time with a timezone"),
        (lambda: event(item_id="1", time=np.datetime64("NaT")), "time: got numpy.datetime64('NaT'); expected a dat"),
        (lambda: event(item_id="1", time=NOW, weight="5"), "weight: got '5'; expected a number"),
        (lambda: event(item_id="1", time=NOW, event_id=7), "event_id: got 7; expected text, as in '7'"),
        (lambda: recommend_request(events=event(item_id="1", time=NOW)), "expected a list of what event(...) makes"),
        (lambda: recommend_request(history=["318"]), "history[0]: got '318'; expected what event(...) makes"),
        (lambda: recommend_request(events=[{"item_id": "1", "time": datetime(2024, 5, 1)}]), "events[0]: got {"),
        (lambda: recommend_request(events=5), "events: got 5; expected a list"),
        (lambda: recommend_request(top_n="5"), "top_n: got '5'; expected a whole number, at least 1"),
        (lambda: recommend_request(top_n=5.5), "top_n: got 5.5; expected a whole number, at least 1"),
        (lambda: recommend_request(alpha="0.5"), "alpha: got '0.5'; expected a number"),
        (lambda: recommend_request(exclude_seen="no"), "exclude_seen: got 'no'; expected True or False"),
        (lambda: recommend_request(user_id=5), "user_id: got 5; expected text, as in '5'"),
        (lambda: recommend_request(exclude=["1", 318]), "exclude_item_ids[1]: got 318; expected text, as in '318'"),
        (lambda: recommend_request(exclude=318), "exclude_item_ids: got 318; expected a list of strings"),
        (lambda: recommend_request(allow={"genres": ["War", 3]}), "values[1]: got 3; expected text, as in '3'"),
        (lambda: recommend_request(allow={"genres": 3}), "values of 'genres': got 3; expected a text, or a list of"),
        (lambda: rank_request(candidates=np.array([318])), "candidate_item_ids[0]: got 318; expected text, as in"),
        (lambda: observe_request("u", "318"), "events: got '318'; expected a list of what event(...) makes"),
        (lambda: observe_request(5, []), "user_id: got 5; expected text, as in '5'"),
        (lambda: new_item(5, "text"), "item_id: got 5; expected text, as in '5'"),
        (
            lambda: new_item("5", "text", attributes={"price": NAN}),
            "attributes['price']: got nan; expected a text or a",
        ),
        (lambda: rule("a", boost="1", item_ids=["1"]), "boost: got '1'; expected a number"),
        (lambda: rule("a", pin=1.5, item_ids=["1"]), "pin: got 1.5; expected a whole number"),
        (lambda: InterestClient(None), "url: got None; expected host:port"),
        (lambda: InterestClient(8001), "url: got 8001; expected host:port"),
    ],
)
def test_a_value_of_a_wrong_kind_is_refused_by_name(call, message):
    with pytest.raises(InvalidArgumentError) as caught:
        call()
    assert message in str(caught.value)
    assert caught.value.field in str(caught.value)


def test_values_of_data_frames_are_taken():
    frame = pd.DataFrame({"item": ["318"], "at": [pd.Timestamp(NOW)], "stars": np.array([4.5], np.float16)})
    for row in frame.itertuples():
        assert event(item_id=row.item, time=row.at, weight=row.stars) == event(item_id="318", time=NOW, weight=4.5)
    events = np.array([event(item_id="318", time_ms=np.int64(1_715_700_000_000))], dtype=object)
    assert len(recommend_request(events=events, exclude=frame["item"], top_n=np.int64(3)).events) == 1
    numbers = [np.float32(19.99), np.int64(5), 5, 19.99]
    found = [new_item("1", "text", attributes={"price": one}).attributes[0].values[0] for one in numbers]
    assert found == ["19.99", "5", "5", "19.99"]
