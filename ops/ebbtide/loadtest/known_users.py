"""The users of a load test in the server's states: their histories before it, and nothing of them after it.

Items that it adds are removed after it too, and the stock becomes what it was. Popularity stays: no event is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

from ebbtide.client import ClientConfig, EbbtideError, InterestClient
from ebbtide.loadtest._triton import Inspector
from ebbtide.loadtest.access import Access
from ebbtide.loadtest.errors import LoadTestError
from ebbtide.loadtest.replay import USER_PREFIX, Workload

_AT_ONCE = 8
_TIMEOUT_S = 30.0


@contextmanager
def known_users(
    target: str,
    workload: Workload,
    access: Access | None = None,
    *,
    keep: bool = False,
    say: Callable[[str], object] = lambda _: None,
) -> Iterator[None]:
    """While it lasts, the server knows the users of a workload; does nothing for requests that name no user.

    Args:
        target: ``host:port``.
        workload: Whose requests may name users.
        access: Encryption and token; None for neither.
        keep: Whether the server keeps the users afterwards.
        say: Called with a sentence if the users or items cannot be erased afterwards.

    Raises:
        LoadTestError: The server cannot keep states.
    """
    if not workload.user_ids and not workload.item_ids and not workload.stock_ids:
        yield
        return
    access = access or Access()
    config = ClientConfig(timeout_s=_TIMEOUT_S, tls=access.tls, token=access.token)
    with InterestClient(target, config=config) as client:
        try:
            forget(client, workload.user_ids)
            observe(target, workload, access)
            out_of_stock = set(client.list_out_of_stock()) if workload.stock_ids else set()
        except EbbtideError as error:
            raise LoadTestError(f"users: {error}") from error
        try:
            yield
        finally:
            if not keep:
                try:
                    forget(client, workload.user_ids)
                    if workload.item_ids:
                        client.remove_items(workload.item_ids)
                    if workload.stock_ids:
                        client.set_stock(
                            out_of_stock=out_of_stock.intersection(workload.stock_ids),
                            in_stock=set(workload.stock_ids) - out_of_stock,
                        )
                except EbbtideError as error:
                    what = f"users or items {USER_PREFIX}ID stay in the server's store, or its stock is another"
                    say(f"{what}: {error}")


def observe(target: str, workload: Workload, access: Access) -> None:
    """Gives the server the histories of the users.

    Args:
        target: ``host:port``.
        workload: Whose histories.
        access: Encryption and token.

    Raises:
        LoadTestError: A history was refused.
    """
    with closing(Inspector(target, access)) as inspector, ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda history: inspector.infer(history, _TIMEOUT_S), workload.histories))


def forget(client: InterestClient, user_ids: tuple[str, ...]) -> None:
    """Erases the users.

    Raises:
        EbbtideError: The server could not.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(client.forget, user_ids))
