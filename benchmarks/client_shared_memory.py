"""What Triton's system shared memory gains a client on the server's machine."""

from __future__ import annotations

from typing import Any

from benchmarks.client_tensors import medians_ms
from ebbtide.client import ClientConfig, InterestClient, RecommendRequest

USERS = (1, 16, 64)
"""Users in one call."""
TEXTS = (1, 64)


def measure_shared_memory(url: str, requests: dict[int, RecommendRequest], rounds: int) -> list[dict[str, Any]]:
    """The client without against the client with shared memory.

    Args:
        url: The server.
        requests: By their number of events; each is sent for one user, and for several in one call.
        rounds: Calls of each variant with one user; fewer where calls take longer.
    """
    cases: list[tuple[str, dict[str, Any], int]] = [
        (
            f"recommend, {users} users, {events} events",
            {"requests": [request] * users, "users_per_request": users, "max_concurrency": 1, "timeout_s": 60},
            max(20, rounds // users),
        )
        for users in USERS
        for events, request in requests.items()
    ]
    found = []
    with InterestClient(url) as plain, InterestClient(url, config=ClientConfig(shared_memory=True)) as shared:
        clients = {"plain": plain, "shared": shared}
        for title, arguments, times in cases:
            found.append(_case(title, {name: _users(one, arguments) for name, one in clients.items()}, times))
        for texts in TEXTS:
            calls = {name: _texts(one, texts) for name, one in clients.items()}
            found.append(_case(f"embed, {texts} texts", calls, max(20, rounds // 10)))
    return found


def _users(client: InterestClient, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
    def call() -> None:
        assert all(result.error is None for result in client.recommend_many(**arguments))

    return call


def _texts(client: InterestClient, texts: int) -> Any:  # noqa: ANN401
    return lambda: client.embed(["space opera with robots"] * texts, timeout_s=60)


def _case(title: str, calls: dict[str, Any], times: int) -> dict[str, Any]:
    medians = medians_ms(calls, times)
    return {"case": title, "p50_ms": medians, "shared_over_plain": round(medians["shared"] / medians["plain"], 3)}
