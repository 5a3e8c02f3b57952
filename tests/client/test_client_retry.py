"""Retry policy and budget: never past the deadline, never more than the budget."""

from hypothesis import given
from hypothesis import strategies as st

from ebbtide.client import InternalError, OverloadedError, RetryConfig, UnavailableError
from ebbtide.client._retry import Deadline, RetryBudget, RetryPolicy

BUSY = UnavailableError("busy")


@given(
    st.integers(1, 500),
    st.floats(1, 10),
    st.integers(0, 5_000),
    st.integers(1, 99),
    st.floats(0, 10),
    st.integers(1, 99),
)
def test_wait_stays_below_its_longest_and_the_deadline_when_there_is_one(
    initial, multiplier, more, failed, left_s, attempts
):
    config = RetryConfig(attempts, initial, multiplier, initial + more)
    wait_s = RetryPolicy(config).wait_s(failed, BUSY, left_s)
    longest_s = min(initial * multiplier ** (failed - 1), initial + more) / 1_000
    if failed >= attempts:
        assert wait_s is None
    elif left_s > longest_s:
        assert 0 <= wait_s <= longest_s
    else:
        assert wait_s is None or 0 <= wait_s < left_s


def test_waits_are_spread_over_the_whole_range_when_many_clients_fail_together():
    policy = RetryPolicy(RetryConfig(initial_backoff_ms=1_000, budget_tokens=10_000))
    waits_s = [policy.wait_s(1, BUSY, 10) for _ in range(1_000)]
    quarters = [sum(edge <= wait < edge + 0.25 for wait in waits_s) for edge in (0, 0.25, 0.5, 0.75)]
    assert min(quarters) > 150


def test_policy_retries_unavailable_alone_when_errors_differ():
    policy = RetryPolicy(RetryConfig())
    assert policy.wait_s(1, OverloadedError("queue"), 10) is not None
    assert policy.wait_s(1, InternalError("broken"), 10) is None


@given(st.integers(2, 50), st.lists(st.booleans(), max_size=200), st.floats(0.01, 2))
def test_budget_follows_grpcs_retry_throttling_when_calls_fail_and_succeed(size, outcomes, refill):
    budget, tokens = RetryBudget(size, refill), float(size)
    for succeeded in outcomes:
        if succeeded:
            budget.succeeded()
            tokens = min(size, tokens + refill)
        else:
            tokens = max(0.0, tokens - 1)
            assert budget.failed() == (tokens > size / 2)


def test_deadline_has_nothing_left_when_it_has_passed():
    assert Deadline.after(60).left_s() > 59
    assert Deadline(1.0, 0.0).left_s() == 0
