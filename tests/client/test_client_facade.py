"""What `import ebbtide.client` gives and what it costs."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ebbtide.client
import ebbtide.v1
from ebbtide.client import AsyncInterestClient, InterestClient
from ebbtide.v1 import interest_pb2

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = (
    *("torch", "transformers", "onnx", "onnxruntime", "polars", "pandas", "pydantic", "typer"),
    *("opentelemetry", "prometheus_client"),
)


def test_facade_names_stay_the_same_when_modules_move():
    assert ebbtide.client.__all__ == [
        "UNSET",
        "AddItemsRequest",
        "AddItemsResponse",
        "AsyncInterestClient",
        "Attempt",
        "BearerToken",
        "Call",
        "CallCancelledError",
        "ClientClosedError",
        "ClientConfig",
        "ColdStart",
        "DeadlineExceededError",
        "EbbtideError",
        "Event",
        "ExplainRequest",
        "ExplainResponse",
        "Explanation",
        "Hooks",
        "InterestClient",
        "InterestRequest",
        "InterestResponse",
        "InternalError",
        "InvalidArgumentError",
        "ItemAttribute",
        "KeepAliveConfig",
        "ListItemsRequest",
        "ListItemsResponse",
        "ListOutOfStockRequest",
        "ListOutOfStockResponse",
        "ListRulesRequest",
        "ListRulesResponse",
        "ModelMetadata",
        "ModelNotReadyError",
        "NewItem",
        "NumberRange",
        "ObserveRequest",
        "ObserveResponse",
        "ObserveResult",
        "OverloadedError",
        "PermissionDeniedError",
        "RankRequest",
        "RankResponse",
        "Ranking",
        "RecommendRequest",
        "RecommendResponse",
        "RecommendResult",
        "RecommendedItem",
        "RelaxedLimit",
        "RemoveItemsRequest",
        "RemoveItemsResponse",
        "RemoveRulesRequest",
        "RemoveRulesResponse",
        "ResourceExhaustedError",
        "RetryConfig",
        "Rule",
        "ServerMetadata",
        "SetRulesRequest",
        "SetRulesResponse",
        "SetStockRequest",
        "SetStockResponse",
        "Slate",
        "SlateCause",
        "SlateCauseKind",
        "StateStatus",
        "StateUnavailableError",
        "Status",
        "TensorMetadata",
        "TlsConfig",
        "UnauthenticatedError",
        "UnavailableError",
        "UnknownItemPolicy",
        "UserInterest",
        "UserKeywords",
        "VersionMismatchError",
        "event",
        "explain_request",
        "new_item",
        "observe_request",
        "rank_request",
        "recommend_request",
        "rule",
        "slate",
    ]
    assert all(hasattr(ebbtide.client, name) for name in ebbtide.client.__all__)


def test_schema_facade_has_every_message_when_the_proto_grows():
    described = interest_pb2.DESCRIPTOR
    assert sorted(ebbtide.v1.__all__) == sorted([*described.message_types_by_name, *described.enum_types_by_name])
    assert all(hasattr(ebbtide.v1, name) for name in ebbtide.v1.__all__)


@pytest.mark.parametrize("client", [InterestClient, AsyncInterestClient])
def test_client_has_a_method_for_each_rpc_when_the_service_grows(client):
    service = interest_pb2.DESCRIPTOR.services_by_name["InterestService"]
    methods = {name: re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in service.methods_by_name}
    assert len(methods) >= 5
    assert [name for name, method in methods.items() if not callable(getattr(client, method, None))] == []


def public_methods(client):
    return {
        name: method
        for name, method in inspect.getmembers(client, inspect.isfunction)
        if name == "__init__" or not name.startswith("_")
    }


def test_both_clients_have_the_same_methods_and_signatures():
    sync, awaited = public_methods(InterestClient), public_methods(AsyncInterestClient)
    assert sync.keys() == awaited.keys()
    for name, method in sync.items():
        if name == "recommend_stream":
            # The async one takes an async iterator too, and is one: nothing of it is awaited before its first answer.
            parameters, others = (inspect.signature(one).parameters for one in (method, awaited[name]))
            assert [*parameters] == [*others]
            assert [one.default for one in parameters.values()] == [one.default for one in others.values()]
            continue
        assert inspect.signature(method) == inspect.signature(awaited[name]), name
        assert inspect.iscoroutinefunction(awaited[name]) == (name != "__init__"), name
        assert not inspect.iscoroutinefunction(method)


def test_import_pulls_in_nothing_heavy_when_a_fresh_interpreter_starts():
    program = f"import sys, ebbtide.client; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_namespace_has_no_init_when_any_source_root_is_read():
    roots = [path.parent for path in REPOSITORY.glob("*/ebbtide") if path.is_dir()]
    assert {"client", "interest"} <= {root.name for root in roots}
    assert [root.name for root in roots if (root / "ebbtide" / "__init__.py").exists()] == []


def test_packages_are_marked_typed():
    for package in (ebbtide.client, ebbtide.v1):
        assert (Path(package.__file__).parent / "py.typed").exists()
