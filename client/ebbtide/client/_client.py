"""The client that waits for each answer: `InterestClient`."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime
from itertools import chain, islice
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ebbtide.client._events import strings
from ebbtide.client._messages import message, messages
from ebbtide.client._operations import Operations
from ebbtide.client._packs import OBSERVE, RECOMMEND, Kind, Pack, packs
from ebbtide.client._requests import (
    Allowed,
    UnknownItems,
    UserKeywords,
    explain_request,
    interest_request,
    observe_request,
    one_request,
    rank_request,
    recommend_request,
)
from ebbtide.client._steps import AskToken, Rpc, Steps, T, Wait
from ebbtide.client._triton import Untyped, open_sync
from ebbtide.client.config import UNSET, USERS_PER_REQUEST, ClientConfig, Unset
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.client.metadata import ModelMetadata, ServerMetadata
from ebbtide.client.results import A, Explanation, ObserveResult, Q, R, Ranking, RecommendResult, UserInterest
from ebbtide.interest import served_models
from ebbtide.v1 import (
    AddItemsRequest,
    AddItemsResponse,
    Event,
    ExplainRequest,
    ForgetRequest,
    InterestRequest,
    ListItemsRequest,
    ListItemsResponse,
    ListOutOfStockRequest,
    ListOutOfStockResponse,
    ListRulesRequest,
    ListRulesResponse,
    NewItem,
    ObserveRequest,
    ObserveResponse,
    RankRequest,
    RecommendRequest,
    RecommendResponse,
    RemoveItemsRequest,
    RemoveItemsResponse,
    RemoveRulesRequest,
    RemoveRulesResponse,
    Rule,
    SetRulesRequest,
    SetRulesResponse,
    SetStockRequest,
    SetStockResponse,
    Slate,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


class InterestClient:
    """Calls the models of an Ebbtide repository on a Triton server, over gRPC.

    Threads may share one client. Close it, or use it as a context manager:

        with InterestClient("localhost:8001") as client:
            response = client.recommend(history=[event(item_id="318", time=yesterday)], top_n=5)

    Every call has a finite deadline and raises `ebbtide.client.EbbtideError` when it fails. `AsyncInterestClient` has
    the same methods, to await.
    """

    def __init__(self, url: str | Sequence[str] = "localhost:8001", *, config: ClientConfig | None = None) -> None:
        """Prepares a connection, which the first call opens.

        Args:
            url: Host and gRPC port of the server, without a scheme; a gRPC target, such as ``dns:///triton:8001`` for
                all addresses of a name; or several IP addresses with ports. Calls spread over all of them.
            config: Deadline, retries, TLS, token and sizes; the defaults of `ClientConfig` when not given.

        Raises:
            InvalidArgumentError: `url` is no address, or does not go with the configuration.
        """
        self._operations = Operations(url, config, type(self).__name__)
        token = self._operations.config.token
        if token is not None and inspect.iscoroutinefunction(token.value):
            raise _async_provider()
        operations = self._operations
        self._triton = open_sync(
            operations.endpoint.target, operations.credentials, operations.channel_args, operations.rotation
        )
        self._closing = threading.Event()

    def recommend(
        self,
        request: RecommendRequest | None = None,
        *,
        top_n: int | None = None,
        allow: Allowed | None = None,
        slate: Slate | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
        **user: Unpack[UserKeywords],
    ) -> RecommendResponse:
        """The best items of the catalog for one user. No events at all is a valid request: a new user.

        Args:
            request: The whole request as a message, in place of the keywords below, not beside them.
            top_n: Items wanted, at most as many as the model was exported with. When not given: 10, or fewer where the
                model was exported with fewer.
            allow: Values of catalog attributes that an item must have, as in ``{"genre": ["Comedy", "Drama"],
                "in_stock": "true"}``: one of the given values, for each column. Of a numeric column a range, as in
                ``{"price": NumberRange(below=20)}``.
            slate: What the list shall be like: how much its items differ, caps and minimums of attribute values, and
                more; see `ebbtide.client.slate`. Default: the items with the best scores.
            timeout_s: Deadline of this call, seconds, retries included; the configuration's when not given.
            metadata: gRPC metadata of this call, beside the configuration's.
            **user: Events, clock and policies; see `UserKeywords`: `history` and `current`, or `events` for the
                server to split; `user_id` for the events that were observed before; `now`, `alpha`, `decay_scale`,
                `unknown_items`, `exclude`, `exclude_seen`, `allow_stateless`.

        Returns:
            Items with their scores, best first, the alpha used, the number of events used, which evidence was missing
            (`cold_start`) and how the state was used (`state_status`); see `ebbtide.client.results` for tables of it.

        Raises:
            InvalidArgumentError: A field is not valid; the error names it as the caller wrote it.
            DeadlineExceededError: No answer within the deadline.
            UnavailableError: No server at the address, or one that refuses work for now.
            StateUnavailableError: The server answers, but cannot reach the store of the states.
            ModelNotReadyError: The server does not serve the model (yet).
            VersionMismatchError: The server's model is not one that this client speaks to.
            EbbtideError: Anything else; see its `status`.
        """
        whole = one_request(request, recommend_request(top_n=top_n, allow=allow, slate=slate, **user))
        return self._drive(self._operations.recommend(whole, timeout_s, metadata))

    def recommend_many(
        self,
        requests: Iterable[RecommendRequest],
        *,
        max_concurrency: int = 16,
        users_per_request: int = USERS_PER_REQUEST,
        timeout_s: float | Unset = UNSET,
    ) -> list[RecommendResult]:
        """The best items for many users, several of them in one call and several calls at a time.

        Args:
            requests: One for each user; see `ebbtide.client.recommend_request`.
            max_concurrency: Largest number of calls in flight. The server batches them.
            users_per_request: Users asked for in one call, at most. Only those share a call whose requests have no
                text and set the same optional fields; a call that is refused for one of them is made again for each.
            timeout_s: Deadline of each call, seconds, counted from its own start.

        Returns:
            One result for each request, in the requests' order, with its `response` or its `error`: a failed request
            does not fail the others.

        Raises:
            InvalidArgumentError: A number is out of bounds.
            ClientClosedError: The client was closed before.
        """
        self._operations.check_many(timeout_s, max_concurrency=max_concurrency, users_per_request=users_per_request)
        return self._many(RECOMMEND, "recommend_many", requests, max_concurrency, users_per_request, timeout_s)

    def recommend_stream(
        self,
        requests: Iterable[RecommendRequest],
        *,
        max_concurrency: int = 16,
        timeout_s: float | Unset = UNSET,
    ) -> Iterator[RecommendResult]:
        """The best items for many requests, each as soon as it is answered.

        Args:
            requests: Read as they are needed: never more than `max_concurrency` ahead of the answers.
            max_concurrency: Largest number of calls in flight.
            timeout_s: Deadline of each call, seconds, counted from its own start.

        Returns:
            One result for each request, in the order in which they were answered; `RecommendResult.index` is the
            index of the request. A failed request does not end the stream.

        Raises:
            InvalidArgumentError: A number is out of bounds.
            ClientClosedError: The client was closed before.
        """
        self._operations.check_many(timeout_s, max_concurrency=max_concurrency)
        return self._stream(requests, max_concurrency, timeout_s)

    def rank(
        self,
        request: RankRequest | None = None,
        *,
        candidates: Iterable[str] = (),
        top_n: int | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
        **user: Unpack[UserKeywords],
    ) -> Ranking:
        """The order of given items for one user, such as search results.

        Args:
            request: The whole request as a message, in place of the keywords below, not beside them.
            candidates: Ids of the items to order, 1 to 1024 unless exported with other limits.
            top_n: Items wanted, at most; all when not given.
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.
            **user: As for `recommend`.

        Returns:
            The candidates, best first; unknown and excluded candidates are in lists of their own.

        Raises:
            InvalidArgumentError: A field is not valid; the error names it as the caller wrote it.
            EbbtideError: As for `recommend`.
        """
        whole = one_request(request, rank_request(candidates=candidates, top_n=top_n, **user))
        return self._drive(self._operations.rank(whole, timeout_s, metadata))

    def explain(
        self,
        request: ExplainRequest | None = None,
        *,
        item_ids: Iterable[str] = (),
        top_n: int | None = None,
        allow: Allowed | None = None,
        slate: Slate | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
        **user: Unpack[UserKeywords],
    ) -> Explanation:
        """The scores of items, split into the shares of the events, the popularity prior and the score adjustments.

        Args:
            request: The whole request as a message, in place of the keywords below, not beside them.
            item_ids: The items to explain. Default: the client asks for recommendations first, at the same `now`, and
                explains those.
            top_n: As for `recommend`, where no items are given.
            allow: As for `recommend`, where no items are given.
            slate: As for `recommend`, where no items are given.
            timeout_s: As for `recommend`; one deadline for both calls.
            metadata: As for `recommend`.
            **user: As for `recommend`.

        Returns:
            Each score, split into shares that add up to it. It prints as a table, with
            ``results.to_text(explanation, titles)`` with titles in place of ids.

        Raises:
            InvalidArgumentError: A field is not valid; the error names it as the caller wrote it.
            EbbtideError: As for `recommend`.
        """
        given = explain_request(item_ids=item_ids, top_n=top_n, allow=allow, slate=slate, **user)
        whole = one_request(request, given)
        return self._drive(self._operations.explain(whole, timeout_s, metadata))

    def embed(
        self,
        texts: Iterable[str],
        *,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> npt.NDArray[np.float32]:
        """The event vectors of texts.

        Args:
            texts: 1 to 64 texts, each at most 4096 bytes of UTF-8, unless exported with other limits.
            timeout_s: Deadline of this call, seconds, retries included; the configuration's when not given.
            metadata: gRPC metadata of this call, beside the configuration's.

        Returns:
            float32 ``[len(texts), d]``, in the texts' order.

        Raises:
            InvalidArgumentError: No texts, too many, or one too long; the error names it.
            EbbtideError: As for `recommend`.
        """
        return self._drive(self._operations.embed(strings("texts", texts), timeout_s, metadata))

    def observe(
        self,
        user_id: str | None = None,
        events: Iterable[Event] = (),
        *,
        request: ObserveRequest | None = None,
        unknown_items: UnknownItems = None,
        shown: Iterable[str] = (),
        reset_learning: bool = False,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> ObserveResponse:
        """Adds events to the state of a user; the answer comes after the server's store has them.

        The same events may be observed again after any error, and the client retries by itself: an event counts once.
        Events are the same if they have the same `event_id`; without ids, the same item, time and type. A state
        knows the ids of its newest 28 events, so repeat a call before that many others follow.

        Args:
            user_id: Id of the user. Only a hash of it leaves this machine.
            events: 1 to 512 events in any order, each with an item; see `ebbtide.client.event`. The server does not
                keep texts. None are needed beside `reset_learning`.
            request: The whole request as a message, in place of the arguments above, not beside them.
            unknown_items: How the server treats events whose items are not in the catalog. Default: the policy of the
                model.
            shown: Feedback: ids of the items that the user was shown before the events; those that are items of the
                events were taken. Moves the user's alpha if the model learns online. Errors use the name of the
                message's field, ``shown_item_ids``.
            reset_learning: Whether to forget first what was learned online of the user.
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.

        Returns:
            How many events were added, were known before, came late and have unknown items.

        Raises:
            InvalidArgumentError: A field is not valid; the error names it as the caller wrote it.
            StateUnavailableError: The server cannot reach its store, which may have some of the events.
            EbbtideError: As for `recommend`.
        """
        given = observe_request(
            user_id or "", events, unknown_items=unknown_items, shown=shown, reset_learning=reset_learning
        )
        return self._drive(self._operations.observe(one_request(request, given), timeout_s, metadata))

    def observe_many(
        self,
        requests: Iterable[ObserveRequest],
        *,
        max_concurrency: int = 16,
        users_per_request: int = USERS_PER_REQUEST,
        timeout_s: float | Unset = UNSET,
    ) -> list[ObserveResult]:
        """Adds events to the states of many users, several of them in one call and several calls at a time.

        Args:
            requests: One for each user; see `ebbtide.client.observe_request`. A user may have several: their order does
                not matter.
            max_concurrency: Largest number of calls in flight.
            users_per_request: Users of one call, at most. Only those share a call whose requests set the same optional
                fields; a call that is refused for one of them is made again for each.
            timeout_s: Deadline of each call, seconds, counted from its own start.

        Returns:
            One result for each request, in the requests' order, with its `response` or its `error`: a failed request
            does not fail the others, and may be sent again.

        Raises:
            InvalidArgumentError: A number is out of bounds.
            ClientClosedError: The client was closed before.
        """
        self._operations.check_many(timeout_s, max_concurrency=max_concurrency, users_per_request=users_per_request)
        return self._many(OBSERVE, "observe_many", requests, max_concurrency, users_per_request, timeout_s)

    def interest(
        self,
        user_id: str | None = None,
        *,
        request: InterestRequest | None = None,
        now: datetime | None = None,
        decay_scale: float | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> UserInterest:
        """The state of a user at a time. Nothing is written.

        Args:
            user_id: Id of the user.
            request: The whole request as a message, in place of the other arguments, not beside them.
            now: The time to read the state at, with a timezone. Default: the clock of this machine.
            decay_scale: As for `recommend`.
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.

        Returns:
            Alpha, half-lives, counts and the newest events with what is left of their weights; it prints as a table.
            `is_known` is False for a user without events.

        Raises:
            InvalidArgumentError: A field is not valid; the error names it as the caller wrote it.
            StateUnavailableError: The server cannot reach its store.
            EbbtideError: As for `recommend`.
        """
        given = interest_request(user_id or "", now=now, decay_scale=decay_scale)
        return self._drive(self._operations.interest(one_request(request, given), timeout_s, metadata))

    def forget(
        self, user_id: str, *, timeout_s: float | Unset = UNSET, metadata: Mapping[str, str] | None = None
    ) -> int:
        """Erases the state of a user, of every model version. It is safe to call again after any error.

        Args:
            user_id: Id of the user.
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.

        Returns:
            Number of records that were erased, one for each version of the model that knew the user.

        Raises:
            InvalidArgumentError: The id is empty or too long.
            StateUnavailableError: The server cannot reach its store; the state may still be there.
            EbbtideError: As for `recommend`.
        """
        return self._drive(self._operations.forget(message(ForgetRequest, user_id=user_id), timeout_s, metadata))

    def add_items(
        self,
        items: Iterable[NewItem] = (),
        *,
        request: AddItemsRequest | None = None,
        only_update: bool = False,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> AddItemsResponse:
        """Adds items to all servers of the store; the answer comes after the store has them.

        Within seconds they are recommended, ranked, explained and accepted as events. They survive restarts. It is safe
        to call again after any error.

        Args:
            items: Any number; see `ebbtide.client.new_item`. One that was added before is replaced.
            request: The whole request as a message, in place of the other arguments, not beside them.
            only_update: Whether to leave out and count items that nobody added before.
            timeout_s: As for `recommend`; one deadline for all items.
            metadata: As for `recommend`.

        Returns:
            How many items were added and replaced, how many were left out, and how many are there in all.

        Raises:
            InvalidArgumentError: A field is not valid, or more than 4096 items would be there; earlier ones of many
                items may have been added.
            StateUnavailableError: The server cannot reach its store.
            EbbtideError: As for `recommend`.
        """
        given = message(
            AddItemsRequest, items=messages("items", items, NewItem, "new_item(...)"), only_update=only_update
        )
        return self._drive(self._operations.catalog.add_items(one_request(request, given), timeout_s, metadata))

    def remove_items(
        self,
        item_ids: Iterable[str] = (),
        *,
        request: RemoveItemsRequest | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> RemoveItemsResponse:
        """Removes items that were added, from all servers of the store within seconds.

        Args:
            item_ids: Their ids.
            request: The whole request as a message, in place of `item_ids`, not beside it.
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.

        Returns:
            How many items were removed, how many ids no added item has, and how many items are there in all.

        Raises:
            InvalidArgumentError: An id is empty, or there is none.
            StateUnavailableError: The server cannot reach its store.
            EbbtideError: As for `recommend`.
        """
        given = message(RemoveItemsRequest, item_ids=strings("item_ids", item_ids))
        return self._drive(self._operations.catalog.remove_items(one_request(request, given), timeout_s, metadata))

    def list_items(
        self, *, timeout_s: float | Unset = UNSET, metadata: Mapping[str, str] | None = None
    ) -> list[NewItem]:
        """All items that were added, as they were given, in no particular order.

        Args:
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.

        Raises:
            StateUnavailableError: The server cannot reach its store.
            EbbtideError: As for `recommend`.
        """
        return self._drive(self._operations.catalog.list_items(timeout_s, metadata))

    def list_items_part(
        self,
        request: ListItemsRequest,
        *,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> ListItemsResponse:
        """A part of the items that were added; for long lists that are not to be in memory at once.

        Args:
            request: Says where to go on.
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.

        Raises:
            StateUnavailableError: The server cannot reach its store.
            EbbtideError: As for `recommend`.
        """
        return self._drive(self._operations.catalog.list_part(request, timeout_s, metadata))

    def set_stock(
        self,
        *,
        out_of_stock: Iterable[str] = (),
        in_stock: Iterable[str] = (),
        request: SetStockRequest | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> SetStockResponse:
        """Says which items are out of stock and which are in stock again; the answer comes after the store has it.

        Within a second no server of the store recommends an item that is out of stock, to any user. `rank` and
        `explain` still answer for it, and say it. It survives restarts, and holds for every version of the model. It is
        safe to call again after any error.

        Args:
            out_of_stock: Ids of items of the catalog, or of items that were added.
            in_stock: Ids of items that are in stock again. All items are at first.
            request: The whole request as a message, in place of the ids, not beside them.
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.

        Returns:
            For how many items it changed, how many ids nobody knows, and how many items are out of stock in all.

        Raises:
            InvalidArgumentError: An id is empty or in both lists, there is none, or more than 8192 items would be out
                of stock.
            StateUnavailableError: The server cannot reach its store.
            EbbtideError: As for `recommend`.
        """
        given = message(
            SetStockRequest,
            out_of_stock_item_ids=strings("out_of_stock_item_ids", out_of_stock),
            in_stock_item_ids=strings("in_stock_item_ids", in_stock),
        )
        return self._drive(self._operations.catalog.set_stock(one_request(request, given), timeout_s, metadata))

    def list_out_of_stock(
        self, *, timeout_s: float | Unset = UNSET, metadata: Mapping[str, str] | None = None
    ) -> list[str]:
        """Ids of all items that are out of stock, in no particular order.

        Args:
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.

        Raises:
            StateUnavailableError: The server cannot reach its store.
            EbbtideError: As for `recommend`.
        """
        return self._drive(self._operations.catalog.list_out_of_stock(timeout_s, metadata))

    def list_out_of_stock_part(
        self,
        request: ListOutOfStockRequest,
        *,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> ListOutOfStockResponse:
        """A part of the items that are out of stock.

        Args:
            request: Says where to go on.
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.

        Raises:
            StateUnavailableError: The server cannot reach its store.
            EbbtideError: As for `recommend`.
        """
        return self._drive(self._operations.catalog.out_of_stock_part(request, timeout_s, metadata))

    def set_rules(
        self,
        rules: Iterable[Rule] = (),
        *,
        request: SetRulesRequest | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> SetRulesResponse:
        """Adds rules of the house, or replaces those of the same names; the answer comes after the store has them.

        Within a second all servers of the store recommend by them, for every version of the model. They survive
        restarts. It is safe to call again after any error.

        Args:
            rules: See `ebbtide.client.rule`.
            request: The whole request as a message, in place of `rules`, not beside it.
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.

        Returns:
            How many rules were added and replaced, and how many there are.

        Raises:
            InvalidArgumentError: A rule is not complete, names an attribute value that no item has, or all rules
                together are too many (64), or about more than 4096 items.
            StateUnavailableError: The server cannot reach its store.
            EbbtideError: As for `recommend`.
        """
        given = message(SetRulesRequest, rules=messages("rules", rules, Rule, "rule(...)"))
        return self._drive(self._operations.catalog.set_rules(one_request(request, given), timeout_s, metadata))

    def remove_rules(
        self,
        names: Iterable[str] = (),
        *,
        request: RemoveRulesRequest | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> RemoveRulesResponse:
        """Removes rules of the house.

        Args:
            names: Their names.
            request: The whole request as a message, in place of `names`, not beside it.
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.

        Raises:
            InvalidArgumentError: A name is empty, or there is none.
            StateUnavailableError: The server cannot reach its store.
            EbbtideError: As for `recommend`.
        """
        given = message(RemoveRulesRequest, names=strings("names", names))
        return self._drive(self._operations.catalog.remove_rules(one_request(request, given), timeout_s, metadata))

    def list_rules(
        self, *, timeout_s: float | Unset = UNSET, metadata: Mapping[str, str] | None = None
    ) -> ListRulesResponse:
        """All rules of the house, in the order in which they were set.

        Args:
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.

        Raises:
            StateUnavailableError: The server cannot reach its store.
            EbbtideError: As for `recommend`.
        """
        return self._drive(self._operations.catalog.list_rules(ListRulesRequest(), timeout_s, metadata))

    def is_live(self, *, timeout_s: float | Unset = UNSET) -> bool:
        """Whether a server answers, with or without models; False also if nothing answers in time.

        Raises:
            EbbtideError: The server answers, but refuses to say; see its `status`.
        """
        return self._drive(self._operations.is_live(timeout_s))

    def is_ready(self, model_name: str = served_models.RECOMMEND.name, *, timeout_s: float | Unset = UNSET) -> bool:
        """Whether the server answers and serves the model; False also if nothing answers in time.

        Args:
            model_name: A model of the contract: ``recommend``, ``recommend_text``, ``embed``, ...
            timeout_s: Deadline of this call, seconds; the configuration's when not given.

        Raises:
            EbbtideError: The server answers, but refuses to say; see its `status`.
        """
        return self._drive(self._operations.is_ready(model_name, timeout_s))

    def wait_until_ready(self, timeout_s: float, model_name: str = served_models.RECOMMEND.name) -> None:
        """Returns once `is_ready` says so.

        Args:
            timeout_s: How long to wait at most, seconds.
            model_name: A model of the contract.

        Raises:
            ModelNotReadyError: It did not within `timeout_s`.
            EbbtideError: The server answers, but refuses to say; see its `status`.
        """
        self._drive(self._operations.wait_until_ready(timeout_s, model_name))

    def server_metadata(self, *, timeout_s: float | Unset = UNSET) -> ServerMetadata:
        """What the server says about itself.

        Raises:
            EbbtideError: As for `recommend`.
        """
        return self._drive(self._operations.server_metadata(timeout_s))

    def model_metadata(
        self, model_name: str = served_models.RECOMMEND.name, *, timeout_s: float | Unset = UNSET
    ) -> ModelMetadata:
        """Versions, tensors and fingerprint of a model that the server has ready.

        Raises:
            ModelNotReadyError: The server does not serve the model (yet).
            EbbtideError: As for `recommend`.
        """
        return self._drive(self._operations.model_metadata(model_name, timeout_s))

    def close(self) -> None:
        """Closes the connection; calls that still run fail with `CallCancelledError`. Closing twice is fine."""
        if self._operations.close():
            self._closing.set()
            self._drive(self._operations.release())
            self._triton.close()

    def __enter__(self) -> InterestClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._operations)

    def _many(
        self,
        kind: Kind[Q, A, R],
        method: str,
        requests: Iterable[Q],
        max_concurrency: int,
        users_per_request: int,
        timeout_s: float | Unset,
    ) -> list[R]:
        """The results of many requests of one kind, in their order."""

        def one(pack: Pack[Q]) -> list[R]:
            return self._drive(self._operations.ask_pack(kind, method, pack, timeout_s))

        pool = ThreadPoolExecutor(max_concurrency, thread_name_prefix=f"ebbtide-{method.replace('_', '-')}")
        try:
            of_packs = pool.map(one, packs(kind, requests, users_per_request))
            return sorted(chain.from_iterable(of_packs), key=lambda result: result.index)
        finally:
            pool.shutdown(cancel_futures=True)

    def _stream(
        self, requests: Iterable[RecommendRequest], max_concurrency: int, timeout_s: float | Unset
    ) -> Iterator[RecommendResult]:
        waiting = enumerate(requests)
        running: set[Future[RecommendResult]] = set()
        pool = ThreadPoolExecutor(max_concurrency, thread_name_prefix="ebbtide-recommend-stream")
        try:
            while True:
                for index, request in islice(waiting, max_concurrency - len(running)):
                    steps = self._operations.recommend_one(index, request, timeout_s)
                    running.add(pool.submit(self._drive, steps))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _drive(self, steps: Steps[T]) -> T:
        """Takes the steps of a call one after the other, and waits for each."""
        try:
            step = next(steps)
            while True:
                try:
                    outcome = self._perform(step)
                except BaseException as error:  # the steps know what to do with it
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _perform(self, step: Rpc | Wait | AskToken) -> Untyped:
        if isinstance(step, Rpc):
            return self._triton.call(*step)
        if isinstance(step, Wait):
            return self._closing.wait(step.seconds)
        token = step.provider()
        if inspect.isawaitable(token):
            if inspect.iscoroutine(token):
                token.close()
            raise _async_provider()
        return token


def _async_provider() -> InvalidArgumentError:
    return InvalidArgumentError.of_field("token", "an async function", "a plain one, or AsyncInterestClient")
