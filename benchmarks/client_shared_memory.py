"""What Triton's system shared memory gains a client on the server's machine."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import serialize_byte_tensor, shared_memory

from benchmarks.client_tensors import medians_ms, outputs_of, tensors_of
from ebbtide.client import RecommendRequest
from ebbtide.client.codec import EncodedRequest, encode, encode_texts, stack
from ebbtide.interest import contract

REGION_BYTES = 4 << 20
PEOPLE = (1, 16, 64)
"""People in one call."""


@contextmanager
def shared_regions(client: InferenceServerClient) -> Iterator[tuple[Any, str, Any, str]]:
    """A region for inputs and one for outputs, with the names under which the server knows them."""
    made = []
    try:
        for kind in ("in", "out"):
            name = f"ebbtide_{kind}_{secrets.token_hex(4)}"
            made.append((shared_memory.create_shared_memory_region(name, f"/{name}", REGION_BYTES), name))
            client.register_system_shared_memory(name, f"/{name}", REGION_BYTES)
        (inputs, inputs_name), (outputs, outputs_name) = made
        yield inputs, inputs_name, outputs, outputs_name
    finally:
        # Not unregistered: a region may still be "in use" just after its last call, and the server ends soon.
        for handle, _ in made:
            shared_memory.destroy_shared_memory_region(handle)


def measure_shared_memory(
    url: str, requests: dict[int, RecommendRequest], now_ms: int, rounds: int
) -> list[dict[str, Any]]:
    """Plain inputs against inputs in shared memory, and for vectors also the output.

    Args:
        url: The server.
        requests: By their number of events; each is sent for one person, and for several in one call.
        now_ms: The clock of the requests.
        rounds: Calls of each variant with one person; fewer where calls take longer.
    """
    cases: list[tuple[str, EncodedRequest, int]] = [
        *(
            (
                f"recommend, {people} people, {events} events",
                stack([encode(request, now_ms)] * people),
                max(20, rounds // people),
            )
            for people in PEOPLE
            for events, request in requests.items()
        ),
        *(
            (f"embed, {texts} texts", encode_texts(["space opera with robots"] * texts), max(20, rounds // 10))
            for texts in (1, 64)
        ),
    ]
    found = []
    with InferenceServerClient(url) as client, shared_regions(client) as (inputs, inputs_name, outputs, outputs_name):
        for title, encoded, times in cases:
            sizes = client.get_model_metadata(encoded.model_name).outputs

            def plain(encoded: EncodedRequest = encoded) -> dict[str, Any]:
                return outputs_of(client.infer(encoded.model_name, tensors_of(encoded), client_timeout=30))

            def shared(encoded: EncodedRequest = encoded, sizes: Any = sizes) -> dict[str, Any]:  # noqa: ANN401
                sent, offset = [], 0
                for tensor in tensors_of(encoded):
                    array = encoded.tensors[tensor.name()]
                    raw = serialize_byte_tensor(array) if array.dtype == object else array
                    length = len(raw.item()) if array.dtype == object else array.nbytes
                    if length:
                        shared_memory.set_shared_memory_region(inputs, [raw], offset=offset)
                    place = InferInput(tensor.name(), list(array.shape), tensor.datatype())
                    place.set_shared_memory(inputs_name, length, offset=offset)
                    sent.append(place)
                    offset += -(-length // 64) * 64
                if encoded.model_name != contract.EMBED.name:
                    return outputs_of(client.infer(encoded.model_name, sent, client_timeout=30))
                shape = [len(encoded.tensors[contract.TEXT.name]), sizes[0].shape[-1]]
                wanted = InferRequestedOutput(contract.TEXT_VECTOR.name)
                wanted.set_shared_memory(outputs_name, int(np.prod(shape)) * 4)
                client.infer(encoded.model_name, sent, outputs=[wanted], client_timeout=30)
                vectors = shared_memory.get_contents_as_numpy(outputs, np.float32, shape)
                return {contract.TEXT_VECTOR.name: vectors.copy()}

            for name, array in shared().items():
                assert np.array_equal(array, plain()[name]), name
            medians = medians_ms({"plain": plain, "shared": shared}, times)
            found.append(
                {"case": title, "p50_ms": medians, "shared_over_plain": round(medians["shared"] / medians["plain"], 3)}
            )
    return found
