"""Streams through the gateway in front of a real Triton: silent ones, deaf ones, and callers that leave."""

import asyncio
import logging
from contextlib import suppress

import grpc
from google.rpc import error_details_pb2

from deadlines import PATIENT
from ebbtide.client import AsyncInterestClient
from ebbtide.v1 import interest_pb2
from gateways import details, failure_of, gateway_of, request_of

DEAF = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
"""A caller whose side of the connection is full after a few answers that it does not take."""


def test_gateway_answers_each_request_of_a_stream_when_some_are_bad(triton):
    asked = {str(index): request_of(str(1 + index % 9), top_n=3) for index in range(40)}
    asked |= {f"bad {index}": request_of("no such item") for index in range(3)}

    async def run():
        async with (
            gateway_of(triton.grpc_url) as (_, _, stub),
            AsyncInterestClient(triton.grpc_url, config=PATIENT) as client,
        ):
            sent = (interest_pb2.RecommendStreamRequest(request_id=key, request=asked[key]) for key in asked)
            outcomes = {outcome.request_id: outcome async for outcome in stub.RecommendStream(sent)}
            single = {key: await client.recommend(request) for key, request in asked.items() if key.isdigit()}
            return outcomes, single

    outcomes, single = asyncio.run(run())
    assert outcomes.keys() == asked.keys()
    assert {key: outcome.response for key, outcome in outcomes.items() if key.isdigit()} == single
    failed = [outcome.failure for key, outcome in outcomes.items() if not key.isdigit()]
    assert {(failure.code, failure.reason, failure.field) for failure in failed} == {
        (3, "INVALID_ARGUMENT", "history[0].item_id")
    }


def test_gateway_answers_plain_calls_when_all_streams_are_silent(triton):
    async def run():
        async with gateway_of(triton.grpc_url, max_concurrency=1, max_streams=2, stream_idle_s=600) as (_, _, stub):
            silent = [stub.RecommendStream() for _ in range(2)]
            for stream in silent:
                await stream.write(interest_pb2.RecommendStreamRequest(request_id="1", request=request_of("1")))
                # An answer shows that the gateway has admitted it.
                assert (await stream.read()).request_id == "1"
            answer = await stub.Recommend(request_of("1", top_n=2))
            refused = await failure_of(stub.RecommendStream().read())
            silent[0].cancel()
            return answer, refused

    answer, (code, status) = asyncio.run(run())
    assert len(answer.items) == 2
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert status.message.startswith("the gateway has 2 streams open; expected fewer: use plain calls")


def test_gateway_ends_streams_when_no_request_comes(triton):
    async def run():
        async with gateway_of(triton.grpc_url, max_streams=2, stream_idle_s=0.2) as (_, _, stub):
            silent = [stub.RecommendStream() for _ in range(2)]
            ended = [await failure_of(stream.read()) for stream in silent]
            # Their places are free again.
            return ended, await failure_of(stub.RecommendStream().read())

    ended, last = asyncio.run(run())
    assert [code for code, _ in [*ended, last]] == [grpc.StatusCode.DEADLINE_EXCEEDED] * 3
    assert ended[0][1].message.startswith("no request came over the stream for 0.2 s; expected one: close a stream")


def test_gateway_ends_a_stream_when_its_caller_takes_no_answers(triton):
    async def run():
        async with gateway_of(triton.grpc_url, options=DEAF, max_streams=1, stream_idle_s=1) as (_, _, stub):
            deaf = await stream_of_one(stub)
            sending = asyncio.create_task(send_only(deaf))
            # Refused while the deaf one has the only place; then the gateway lets one in, and no request comes.
            while (outcome := await outcome_of_silence(stub)) is grpc.StatusCode.RESOURCE_EXHAUSTED:
                await asyncio.sleep(0.05)
            sending.cancel()
            deaf.cancel()
            return outcome

    assert asyncio.run(asyncio.wait_for(run(), 300)) is grpc.StatusCode.DEADLINE_EXCEEDED


def test_gateway_logs_no_failure_when_a_caller_leaves_its_stream(triton, caplog):
    async def run():
        async with gateway_of(triton.grpc_url, options=DEAF, max_streams=1) as (_, _, stub):
            for _ in range(3):
                deaf = await stream_of_one(stub)
                # Answers fill the connection: the gateway waits with one when the caller leaves.
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(send_only(deaf), 1)
                deaf.cancel()
            # The gateway has noticed that the last one left when it lets another in.
            (await stream_of_one(stub)).cancel()

    with caplog.at_level(logging.WARNING):
        asyncio.run(asyncio.wait_for(run(), 300))
    assert not caplog.messages


async def stream_of_one(stub):
    """A stream that has had one answer, so the gateway has admitted it, which it is asked for until it does."""
    while True:
        stream = stub.RecommendStream()
        # A write to one that was refused fails in gRPC's client.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await stream.write(interest_pb2.RecommendStreamRequest(request=request_of("1", top_n=20)))
            if await stream.read() is not grpc.aio.EOF:
                return stream
        stream.cancel()
        await asyncio.sleep(0.01)


async def send_only(stream):
    while True:
        await stream.write(interest_pb2.RecommendStreamRequest(request=request_of("1", top_n=20)))


async def outcome_of_silence(stub):
    """How a stream ends that sends nothing: a write to one that was refused fails in gRPC's client, with INTERNAL."""
    code, _ = await failure_of(stub.RecommendStream().read())
    return code


def test_gateway_ends_the_stream_when_an_id_is_too_long(triton):
    async def run():
        async with gateway_of(triton.grpc_url) as (_, _, stub):
            sent = [interest_pb2.RecommendStreamRequest(request_id="x" * 300, request=request_of("1"))]
            return await failure_of(anext(aiter(stub.RecommendStream(sent))))

    code, status = asyncio.run(run())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details(status, error_details_pb2.BadRequest).field_violations[0].field == "request_id"
