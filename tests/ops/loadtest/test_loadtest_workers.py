"""Several workers on loopback send what one process would."""

import os
import signal
import threading

import numpy as np
import pytest

from ebbtide.loadtest import Generator, LoadTestError
from ebbtide.loadtest.workers import Workers
from servers import once_answered

OVERLOAD_S = np.repeat(np.arange(0.0, 10.0, 0.05), 10)
"""Twice as many requests as the server can answer."""


def test_workers_give_the_same_totals_when_there_are_two(server, workload):
    timestamps = np.arange(0, 2, 0.025)
    with Generator(server.grpc_url, workload, timeout_s=60) as alone:
        expected = alone.open_model(timestamps, 2.0)
    with Workers(server.grpc_url, workload, timeout_s=60, workers=2) as generator:
        found = generator.open_model(timestamps, 2.0)
        # To another thread than the one that waits, as the system may do with Ctrl-C.
        interrupt = once_answered(
            server.grpc_url, "recommend", 30, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        )
        closed = generator.closed_model(3, 120.0)
        interrupt.join()
    assert found.counts == expected.counts
    assert found.sent == found.counts.answered == 80
    assert np.allclose(np.sort(found.records["intended_s"]), timestamps)
    assert closed.interrupted
    assert closed.duration_s < 120
    assert closed.sent == closed.counts.answered + closed.counts.cancelled >= 30
    assert closed.counts.cancelled <= 3
    assert closed.counts.unaccounted == 0


def test_workers_stop_in_order_when_interrupted(server, workload):
    with Workers(server.grpc_url, workload, timeout_s=60, workers=2) as generator:

        def press_ctrl_c():
            for pid in (*generator.worker_pids, os.getpid()):
                os.kill(pid, signal.SIGINT)

        interrupt = once_answered(server.grpc_url, "recommend", 30, press_ctrl_c)
        phase = generator.open_model(OVERLOAD_S, 10.0)
        interrupt.join()
    assert phase.interrupted
    assert phase.counts.unaccounted == 0
    assert phase.counts.answered > 0
    assert phase.counts.cancelled > 0
    assert phase.counts.unsent == OVERLOAD_S.size - phase.sent > 0


def test_load_test_fails_in_words_when_a_worker_is_lost(server, workload):
    with Workers(server.grpc_url, workload, timeout_s=60, workers=2) as generator:
        os.kill(generator.worker_pids[1], signal.SIGKILL)
        with pytest.raises(LoadTestError, match="1 of 2 are lost"):
            generator.closed_model(2, 30.0)


@pytest.mark.parametrize("bind", ["5557", "host", ":x"])
def test_workers_are_refused_when_the_address_to_bind_is_not_valid(workload, bind):
    with pytest.raises(LoadTestError, match="bind: got"):
        Workers("127.0.0.1:1", workload, timeout_s=1, workers=1, bind=bind)
