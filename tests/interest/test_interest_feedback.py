"""Learning online as served: what is taken of the shown items moves the alpha of the user, once, and can be reset."""

from __future__ import annotations

import numpy as np
import pytest

from ebbtide.interest import contract
from ebbtide.interest.contract import StateStatus
from ebbtide.interest.errors import RequestError
from ebbtide.interest.feedback import Feedback
from ebbtide.interest.interest_reader import InterestReader
from ebbtide.interest.keys import user_keys
from ebbtide.interest.observer import Observer
from ebbtide.interest.online import LARGEST_OFFSET, LARGEST_STEP, OnlineLearning, feedback_direction
from ebbtide.interest.users import Users
from ebbtide.store import StoreConfig, open_store

NOW = 1_700_000_000_000
MINUTE, DAY = 60_000, 86_400_000


class Service:
    """The observer of an export that learns online, and what reads states."""

    def __init__(self, model, store, rate=1.0, fingerprint="f" * 16):
        self.model = model
        self.users = Users(store, fingerprint)
        feedback = Feedback(model.pipeline, model.factors, OnlineLearning(rate)) if rate else None
        self.observer = Observer(model.pipeline, self.users, feedback=feedback, clock_ms=lambda: NOW)
        self.reader = InterestReader(model.pipeline, None)

    def observe(self, user, items, times, **tensors):
        shape = (1, len(items))
        (answer,) = self.observer.run_requests(
            [
                {
                    "user": user_keys([user]),
                    "event_item": self.model.keys[np.array(items, int)].reshape(shape),
                    "event_time": np.array(times, np.int64).reshape(shape),
                    **tensors,
                }
            ]
        )
        return answer

    def shown(self, *items):
        return {"shown_item": self.model.keys[list(items)][None]}

    def offset(self, user):
        request = {"user": user_keys([user]), "now": np.array([[NOW]])}
        (answer,) = self.users.answer([request], self.reader.run_requests)
        assert answer["state_status"].item() == StateStatus.USED
        return answer["alpha_offset"].item()

    def weighed(self, user, now):
        (known,) = self.users.look_up([{"user": user_keys([user]), "now": np.array([[now]])}])
        return self.model.pipeline.weigh([{"now": np.array([[now]])}], [known.records])


@pytest.fixture
def store(tmp_path):
    with open_store(f"embedded:{tmp_path / 'states'}", StoreConfig(timeout_ms=60_000)) as opened:
        yield opened


@pytest.mark.parametrize("alpha", ["learned", "per-dimension"])
def test_offset_moves_by_the_step_of_the_formula_when_a_shown_item_is_taken(make_model, store, alpha):
    model = make_model(alpha=alpha)
    service = Service(model, store, rate=0.1)
    past = NOW - np.array([40 * DAY, 30 * DAY, 20 * DAY, 3 * MINUTE, 2 * MINUTE])
    service.observe("ann", [0, 1, 2, 3, 4], past)
    assert service.offset("ann") == 0
    weighed = service.weighed("ann", NOW)
    blend, d = weighed.blend, model.parameters.vector_width
    factors = model.factors[[7, 8, 9]]
    scores = factors[:, :d] @ blend.interest[0] + factors[:, d:] @ model.parameters.prior_weight
    direction = feedback_direction(factors[:, :d], scores, np.array([False, True, False]))
    step = OnlineLearning(0.1).step(np.zeros(1), blend.alpha, blend.long_term - blend.current, direction[None])
    # The order of what was shown says nothing, nor do items that the catalog does not have.
    done = service.observe("ann", [8, 50], [NOW, NOW], shown_item=np.r_[model.keys[[9, 7, 8, 9]], 5][None])
    assert done["observed"].tolist() == [[2, 0, 0, 0]]
    assert step[0] != 0
    assert service.offset("ann") == pytest.approx(step[0], rel=1e-5)
    # A call that is sent again is known, and moves nothing.
    service.observe("ann", [8, 50], [NOW, NOW], **service.shown(7, 8, 9))
    assert service.offset("ann") == pytest.approx(step[0], rel=1e-5)


def test_offset_follows_what_is_taken_within_its_bounds_and_is_reset_by_request(make_model, store):
    model = make_model()
    service, other = Service(model, store, rate=1e6), Service(model, store, rate=0, fingerprint="e" * 16)
    service.observe("ann", [0, 1, 2, 3], NOW - np.array([40 * DAY, 30 * DAY, 3 * MINUTE, 2 * MINUTE]))
    seen = [service.offset("ann")]
    for number in range(40):
        service.observe("ann", [4], [NOW + number], **service.shown(4, 5, 6, 7))
        seen.append(service.offset("ann"))
    steps = np.abs(np.diff(seen))
    assert np.abs(seen).max() <= LARGEST_OFFSET
    assert LARGEST_STEP * 0.999 < steps.max() <= LARGEST_STEP * 1.001
    assert seen[-1] != 0
    # Only the alpha differs, and only in the version that learned.
    assert other.offset("ann") == 0
    learned = service.weighed("ann", NOW).alpha_used
    # Nothing was taken, nothing was shown, or nobody is there to learn of.
    service.observe("ann", [9], [NOW + 100], **service.shown(4, 5))
    service.observe("ann", [9], [NOW + 101])
    service.observe("bob", [4], [NOW], **service.shown(4, 5))
    assert (service.offset("ann"), service.offset("bob")) == (seen[-1], 0)
    done = service.observe("ann", [], [], reset_learning=np.array([[True]]))
    assert done["observed"].tolist() == [[0, 0, 0, 0]]
    assert service.offset("ann") == 0
    assert service.weighed("ann", NOW).alpha_used != pytest.approx(learned)


def test_shown_items_are_ignored_when_the_export_does_not_learn_and_refused_when_there_are_too_many(make_model, store):
    model = make_model()
    service = Service(model, store, rate=0)
    service.observe("ann", [0, 1, 2, 3], NOW - np.array([40 * DAY, 30 * DAY, 3 * MINUTE, 2 * MINUTE]))
    service.observe("ann", [4], [NOW], **service.shown(4, 5))
    assert service.offset("ann") == 0
    most = contract.Limits().max_candidates if model.limits is None else model.limits.max_candidates
    refused = service.observe("ann", [4], [NOW], **service.shown(*range(most + 1)))
    assert isinstance(refused, RequestError)
    assert str(refused) == f"shown_item: got {most + 1} items; expected at most {most} items"
