"""The gateway in front of a real Triton: the SDK's answers and errors, for callers that have stubs only."""

import asyncio
import inspect
import re
from itertools import repeat

import grpc
import pytest
import trustme
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import ebbtide.gateway.server as server_module
from deadlines import PATIENT
from ebbtide.client import AsyncInterestClient, ClientConfig, InterestClient, RetryConfig
from ebbtide.gateway import Gateway, GatewayConfig, ServerTls
from ebbtide.gateway.server import SERVICE
from ebbtide.gateway.service import InterestService
from ebbtide.interest.errors import STORE_FAILED
from ebbtide.serve import ServerConfig
from ebbtide.v1 import interest_pb2, interest_pb2_grpc
from gateways import details, failure_of, gateway_of, request_of
from servers import serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def slow_triton(small_repository):
    with serving(ServerConfig(small_repository)) as running:
        yield running


def test_gateway_and_both_clients_have_every_method_when_the_schema_names_it():
    for method in interest_pb2.DESCRIPTOR.services_by_name["InterestService"].methods:
        assert method.name in vars(InterestService)
        if not method.client_streaming:
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
            assert inspect.isfunction(getattr(InterestClient, name))
            assert inspect.iscoroutinefunction(getattr(AsyncInterestClient, name))


def test_gateway_answers_as_the_client_does_when_asked_the_same(triton):
    asked = request_of("1", "2", "3", top_n=5)
    ranked = request_of("1", kind=interest_pb2.RankRequest, candidate_item_ids=["4", "5", "6"])
    explained = request_of("1", "2", kind=interest_pb2.ExplainRequest, item_ids=["7", "8"])

    async def run():
        async with (
            gateway_of(triton.grpc_url) as (_, _, stub),
            AsyncInterestClient(triton.grpc_url, config=PATIENT) as client,
        ):
            assert await stub.Recommend(asked) == await client.recommend(asked)
            assert await stub.Rank(ranked) == (await client.rank(ranked)).response
            assert await stub.Explain(explained) == (await client.explain(explained)).response
            answer = await stub.Embed(interest_pb2.EmbedRequest(texts=["robots", "a lighthouse"]))
            vectors = await client.embed(["robots", "a lighthouse"])
            assert [list(row.values) for row in answer.embeddings] == vectors.tolist()

    asyncio.run(run())


def test_gateway_adds_lists_and_removes_items(triton_of_items):
    item = interest_pb2.NewItem(item_id="of the gateway", text="a new film", title="A new film")
    item.attributes.add(column="genres", values=["Drama"])

    async def run():
        async with gateway_of(triton_of_items.grpc_url) as (_, _, stub):
            added = await stub.AddItems(interest_pb2.AddItemsRequest(items=[item]))
            listed, part = [], 0
            while not listed or part:
                answer = await stub.ListItems(interest_pb2.ListItemsRequest(part=part))
                listed, part = [*listed, *answer.items], answer.next_part
            ids = ["of the gateway", "no such item"]
            removed = await stub.RemoveItems(interest_pb2.RemoveItemsRequest(item_ids=ids))
            blank = interest_pb2.AddItemsRequest(items=[item, interest_pb2.NewItem(item_id="b", text=" ")])
            return added, listed, removed, await failure_of(stub.AddItems(blank))

    added, listed, removed, (refusal, why) = asyncio.run(run())
    assert (added.added_items, added.catalog_items) == (1, 0)
    assert item in listed
    assert (removed.removed_items, removed.unknown_items) == (1, 1)
    assert refusal is grpc.StatusCode.INVALID_ARGUMENT
    assert details(why, error_details_pb2.BadRequest).field_violations[0].field == "items[1].text"


def test_gateway_says_and_lists_what_is_out_of_stock(triton_of_items):
    async def run():
        async with gateway_of(triton_of_items.grpc_url) as (_, _, stub):
            out = interest_pb2.SetStockRequest(out_of_stock_item_ids=["1", "stock of the gateway"])
            changed = await stub.SetStock(out)
            listed, part = [], 0
            while not listed or part:
                answer = await stub.ListOutOfStock(interest_pb2.ListOutOfStockRequest(part=part))
                listed, part = [*listed, *answer.item_ids], answer.next_part
            back = await stub.SetStock(interest_pb2.SetStockRequest(in_stock_item_ids=out.out_of_stock_item_ids))
            both = interest_pb2.SetStockRequest(out_of_stock_item_ids=["2"], in_stock_item_ids=["1", "2"])
            return changed, listed, back, await failure_of(stub.SetStock(both))

    changed, listed, back, (refusal, why) = asyncio.run(run())
    assert (changed.changed_items, changed.unknown_items) == (2, 1)
    assert {"1", "stock of the gateway"} <= set(listed)
    assert back.out_of_stock_items == changed.out_of_stock_items - 2
    assert refusal is grpc.StatusCode.INVALID_ARGUMENT
    assert details(why, error_details_pb2.BadRequest).field_violations[0].field == "in_stock_item_ids[1]"


def test_gateway_sets_lists_and_removes_rules(triton_of_items):
    rule = interest_pb2.Rule(name="of the gateway", boost=0.5, item_ids=["1"])
    rule.until.FromSeconds(1)

    async def run():
        async with gateway_of(triton_of_items.grpc_url) as (_, _, stub):
            first = await stub.SetRules(interest_pb2.SetRulesRequest(rules=[rule]))
            again = await stub.SetRules(interest_pb2.SetRulesRequest(rules=[rule]))
            listed = await stub.ListRules(interest_pb2.ListRulesRequest())
            removed = await stub.RemoveRules(interest_pb2.RemoveRulesRequest(names=["of the gateway", "none"]))
            nothing = interest_pb2.SetRulesRequest(rules=[interest_pb2.Rule(name="a", item_ids=["1"])])
            return first, again, listed, removed, await failure_of(stub.SetRules(nothing))

    first, again, listed, removed, (refusal, why) = asyncio.run(run())
    assert (first.added_rules, again.added_rules, again.replaced_rules) == (1, 0, 1)
    assert rule in listed.rules
    assert (removed.removed_rules, removed.unknown_rules) == (1, 1)
    assert refusal is grpc.StatusCode.INVALID_ARGUMENT
    assert details(why, error_details_pb2.BadRequest).field_violations[0].field == "rules[0]"


def test_gateway_knows_users_when_they_were_observed(triton, serve):
    user = "of the gateway"
    observed = interest_pb2.ObserveRequest(user_id=user, events=request_of("1", "2").history)
    down = (grpc.StatusCode.UNAVAILABLE, f"in ensemble 'observe', observer: {STORE_FAILED}: redis://cache:6379/0: no")

    async def run():
        async with gateway_of(triton.grpc_url) as (_, _, stub):
            assert (await stub.Observe(observed)).added_events == 2
            assert (await stub.Observe(observed)).duplicate_events == 2
            state = await stub.Interest(interest_pb2.InterestRequest(user_id=user))
            answer = await stub.Recommend(interest_pb2.RecommendRequest(user_id=user, top_n=3))
            erased = await stub.Forget(interest_pb2.ForgetRequest(user_id=user))
            refused = await failure_of(stub.Forget(interest_pb2.ForgetRequest()))
        config = ClientConfig(retry=RetryConfig(max_attempts=1), check_contract=False)
        async with gateway_of(serve(down)[0], client=config) as (_, _, stub):
            return state, answer, erased, refused, await failure_of(stub.Observe(observed))

    state, answer, erased, (refusal, why), (code, status) = asyncio.run(run())
    assert [one.event.item_id for one in state.events] == ["1", "2"]
    assert (len(answer.items), answer.events_used, erased.erased_records) == (3, 2, 1)
    assert answer.state_status == interest_pb2.STATE_STATUS_USED
    assert refusal is grpc.StatusCode.INVALID_ARGUMENT
    assert details(why, error_details_pb2.BadRequest).field_violations[0].field == "user_id"
    assert code is grpc.StatusCode.UNAVAILABLE
    assert details(status, error_details_pb2.ErrorInfo).reason == "STATE_UNAVAILABLE"


def test_gateway_names_the_field_in_the_details_when_a_request_is_refused(triton):
    async def run():
        async with gateway_of(triton.grpc_url) as (_, _, stub):
            return await failure_of(stub.Recommend(request_of("1", "no such item")))

    code, status = asyncio.run(run())
    assert (code, status.code) == (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INVALID_ARGUMENT.value[0])
    (violation,) = details(status, error_details_pb2.BadRequest).field_violations
    assert violation.field == "history[1].item_id"
    assert violation.description.startswith("got 'no such item'; expected")
    assert details(status, error_details_pb2.ErrorInfo).reason == "INVALID_ARGUMENT"


def test_gateway_refuses_messages_that_are_none_in_words_when_they_come(triton):
    async def run():
        async with gateway_of(triton.grpc_url) as (_, channel, _):
            unary = channel.unary_unary(f"/{SERVICE}/Recommend")
            stream = channel.stream_stream(f"/{SERVICE}/RecommendStream")
            return await failure_of(unary(b"\xff\xff")), await failure_of(anext(aiter(stream([b"\xff\xff"]))))

    for code, status in asyncio.run(run()):
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert status.message == "message: got 2 bytes that are none; expected a message of the schema"


def test_gateway_shows_the_ends_of_a_value_when_it_is_long(triton):
    async def run():
        async with gateway_of(triton.grpc_url) as (_, _, stub):
            return await failure_of(stub.Recommend(request_of("京" * 100_000)))

    code, status = asyncio.run(run())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details(status, error_details_pb2.BadRequest).field_violations[0].field == "history[0].item_id"
    assert "京 [...] " in status.message
    assert len(status.message.encode()) < 800


def test_gateway_refuses_at_once_and_stays_healthy_when_it_has_enough_to_do(slow_triton, small_repository):
    async def run():
        async with gateway_of(slow_triton.grpc_url, max_concurrency=1) as (_, channel, stub):
            first = await slow_call(stub, small_repository)
            refused = await failure_of(stub.Embed(interest_pb2.EmbedRequest(texts=["fast"]), timeout=60))
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            first.cancel()
            return refused[0], health.status

    # The small repository has no `recommend`: the gateway answers, but is not ready to serve it.
    assert asyncio.run(run()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, NOT_SERVING)


def test_gateway_holds_the_callers_deadline_when_triton_is_slower(slow_triton):
    async def run():
        async with gateway_of(slow_triton.grpc_url) as (_, _, stub):
            return await failure_of(stub.Embed(interest_pb2.EmbedRequest(texts=["slow"]), timeout=0.3))

    assert asyncio.run(run())[0] is grpc.StatusCode.DEADLINE_EXCEEDED


def test_gateway_cancels_the_call_in_triton_when_the_caller_goes_away(slow_triton, small_repository):
    async def run():
        async with gateway_of(slow_triton.grpc_url) as (_, _, stub):
            call = await slow_call(stub, small_repository)
            call.cancel()
            await until(small_repository / "embed" / "cancelled")

    asyncio.run(asyncio.wait_for(run(), 120))


async def slow_call(stub, repository):
    """A call that Triton is at work on; the model marks its beginning and its cancellation in its folder."""
    started, cancelled = (repository / "embed" / name for name in ("started", "cancelled"))
    for mark in (started, cancelled):
        mark.unlink(missing_ok=True)
    call = stub.Embed(interest_pb2.EmbedRequest(texts=["slow"]), timeout=600)
    await until(started)
    return call


async def until(path):
    while not path.exists():
        await asyncio.sleep(0.01)


def test_gateway_answers_calls_under_way_when_it_stops(triton):
    async def run():
        gateway = Gateway(GatewayConfig(triton=triton.grpc_url, client=PATIENT, drain_s=120))
        await gateway.start()
        async with grpc.aio.insecure_channel(gateway.url) as channel:
            stub = interest_pb2_grpc.InterestServiceStub(channel)
            await channel.channel_ready()
            stream = stub.RecommendStream()
            await stream.write(interest_pb2.RecommendStreamRequest(request_id="1", request=request_of("1", top_n=3)))
            first = await stream.read()
            stopping = asyncio.create_task(gateway.stop())
            await stream.write(interest_pb2.RecommendStreamRequest(request_id="2", request=request_of("2", top_n=3)))
            second = await stream.read()
            await stream.done_writing()
            await stopping
            return first, second, await failure_of(stub.Recommend(request_of("1"), timeout=60))

    first, second, (code, _) = asyncio.run(run())
    assert len(first.response.items) == len(second.response.items) == 3
    assert code is grpc.StatusCode.UNAVAILABLE


def test_gateway_tells_health_and_schema_when_tools_ask(triton):
    async def run():
        async with gateway_of(triton.grpc_url) as (_, channel, _):
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", SERVICE):
                # A busy Triton may say late that it is ready; the gateway asks again.
                async for answer in health.Watch(health_pb2.HealthCheckRequest(service=name)):
                    if answer.status == SERVING:
                        break
            asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            answer = await anext(aiter(stub.ServerReflectionInfo(asked)))
            return [service.name for service in answer.list_services_response.service]

    assert SERVICE in asyncio.run(asyncio.wait_for(run(), 120))


def test_gateway_is_not_serving_when_triton_says_ready_and_fails(serve, monkeypatch):
    monkeypatch.setattr(server_module, "_PROBE_INTERVAL_S", 0.01)
    address, triton = serve((grpc.StatusCode.INTERNAL, "the stub process is not healthy"))
    triton.ready = repeat(True)

    async def run():
        config = ClientConfig(check_contract=False, retry=RetryConfig(max_attempts=1))
        async with gateway_of(address, client=config) as (_, channel, _):
            seen = []
            async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                seen.append(answer.status)
                triton.faults = [(grpc.StatusCode.UNAVAILABLE, "[request id: 1] Exceeds maximum queue size")]
                if len(seen) == 2:
                    break
            return seen

    # A busy server is in service: refused for its full queue, it is ready again.
    assert asyncio.run(asyncio.wait_for(run(), 120)) == [NOT_SERVING, SERVING]


def test_gateway_refuses_the_message_when_it_is_larger_than_allowed(triton):
    async def run():
        async with gateway_of(triton.grpc_url, max_message_bytes=2048) as (_, _, stub):
            return await failure_of(stub.Embed(interest_pb2.EmbedRequest(texts=["x" * 3000])))

    assert asyncio.run(run())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_gateway_is_unavailable_when_triton_is(free_address):
    config = ClientConfig(retry=RetryConfig(max_attempts=1))

    async def run():
        async with gateway_of(free_address, client=config) as (_, channel, stub):
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            return health.status, await failure_of(stub.Recommend(request_of("1")))

    health, (code, status) = asyncio.run(run())
    assert (health, code) == (NOT_SERVING, grpc.StatusCode.UNAVAILABLE)
    assert details(status, error_details_pb2.ErrorInfo).reason == "UNAVAILABLE"


def test_gateway_lets_in_only_callers_with_a_certificate_when_tls_is_mutual(triton):
    authority = trustme.CA()
    server, caller = authority.issue_cert("gateway.example"), authority.issue_cert("caller@ebbtide.example")
    root = authority.cert_pem.bytes()
    tls = ServerTls(server.cert_chain_pems[0].bytes(), server.private_key_pem.bytes(), client_ca=root)
    known = grpc.ssl_channel_credentials(
        root, private_key=caller.private_key_pem.bytes(), certificate_chain=caller.cert_chain_pems[0].bytes()
    )
    unknown = grpc.ssl_channel_credentials(root)

    async def run(credentials):
        async with gateway_of(triton.grpc_url, credentials, tls=tls) as (_, _, stub):
            return await stub.Recommend(request_of("1", top_n=2), timeout=60)

    assert len(asyncio.run(run(known)).items) == 2
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(run(unknown))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"port": 70_000}, "port"), ({"max_concurrency": 0}, "max_concurrency"), ({"drain_s": -1}, "drain_s")],
)
def test_gateway_config_names_the_setting_when_it_is_out_of_bounds(settings, named):
    with pytest.raises(ValueError, match=named):
        GatewayConfig(**settings)
