"""Parity of the whole pipeline as a user's command: torch, in-process pipeline and Triton, stage by stage.

::

    from ebbtide.export.inprocess import InProcessPipeline
    from ebbtide.verify import compare_server, first_failure, random_requests

    requests = random_requests(repository, version=1, count=200, seed=0)
    found = compare_server(InProcessPipeline(repository), "localhost:8001", requests)
    assert first_failure(found) is None
"""

from ebbtide.verify.differences import StageDifference, first_failure
from ebbtide.verify.errors import (
    NoneByUserError,
    NoStatesError,
    RecordedRequestError,
    ServerMismatchError,
    UnlikeCatalogError,
    VerifyError,
)
from ebbtide.verify.fidelity import compare_fidelity
from ebbtide.verify.parity import compare_bundle, compare_server
from ebbtide.verify.recorded import random_requests, read_requests, write_requests
from ebbtide.verify.states import compare_states

__all__ = [
    "NoStatesError",
    "NoneByUserError",
    "RecordedRequestError",
    "ServerMismatchError",
    "StageDifference",
    "UnlikeCatalogError",
    "VerifyError",
    "compare_bundle",
    "compare_fidelity",
    "compare_server",
    "compare_states",
    "first_failure",
    "random_requests",
    "read_requests",
    "write_requests",
]
