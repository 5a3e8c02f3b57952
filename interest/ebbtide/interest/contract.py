"""The tensor contract: the only definition of every tensor of an exported repository.

The ONNX axes, the ``config.pbtxt`` files, the ensembles' maps, the client's codec and the tests all derive from this
module and from `ebbtide.interest.served_models`, which says what tensors each model takes and gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum

MANIFEST_FILE = "ebbtide-export.json"
"""Name of an export's manifest, in the same folder as the models' folders; Triton ignores files there."""
JOURNAL_FILE = "deployment.json"
"""Name of the journal of a change of the served version, beside the manifest, while the change is under way."""


class Dtype(str, Enum):
    """Element types, by their KServe v2 names."""

    BOOL = "BOOL"
    INT32 = "INT32"
    INT64 = "INT64"
    FP32 = "FP32"
    BYTES = "BYTES"


class Size(str, Enum):
    """Dimensions that are fixed at export."""

    INTEREST = "interest_width"
    """d + p: the interest dimensions and, after them, the columns of the popularity prior."""
    VECTOR = "vector_width"
    """d: the width of an event vector."""
    ADJUSTMENTS = "adjustments"
    """Score adjustments of each request in exports from before there was stock; now see `Axis.ADJUSTMENTS`."""
    FILTER = "filter_words"
    """64-bit words of a bit set: the attribute values of an item, or those that a request allows; at least 1. Three for
    each numeric column."""
    TOP_N = "top_n"
    """Items returned for each request."""
    TEXT = "text_width"
    """Width of a text vector."""


class Axis(str, Enum):
    """Dimensions that differ between requests, named by what they count."""

    EVENTS = "events"
    TEXTS = "texts"
    TOKENS = "tokens"
    CANDIDATES = "candidates"
    BLOCKS = "feature blocks"
    EXCLUDED = "excluded items"
    SHOWN = "shown items"
    ALLOWED = "allowed values"
    STATE_EVENTS = "state events"
    """The raw events in a user's state: the newest ones."""
    NEW_ITEMS = "new items"
    """Items that were added to the server after the export, in one answer or one request."""
    NEW_ATTRIBUTES = "new attribute values"
    RULES = "rules"
    """1 if rules of the house hold, else 0."""
    SEEN = "seen events"
    """Events of a user with an item, in the state too; padded to the longest of a batch."""
    SLATE_ITEMS = "slate items"
    ADJUSTMENTS = "score adjustments"
    """Score adjustments of each request: `Limits.adjustments`, some for related items where the model has any
    (`RelatedItems.most`), and one for each item that is out of stock. As many for
    all requests of a batch, since ONNX models batch equal shapes only."""


class StateStatus(IntEnum):
    """What an answer took from the user's state: the values of `STATE_STATUS`."""

    NO_USER = 0
    """The request names no user."""
    USED = 1
    UNKNOWN_USER = 2
    """The store knows no event of the user."""
    UNAVAILABLE = 3
    """The store could not be reached; the request allows an answer without it."""
    RAW_ONLY = 4
    """Only the state of another version was found: its raw events count, and what it holds as sums does not."""
    PARTLY_SCALED = 5
    """Used; the request's `decay_scale` holds since the newest event that the state holds as a sum, not before."""


REPEAT_PARTS = ("level", "frequency", "recency", "trend", "item", "time")
"""The parts that a repeat score splits into; see `ebbtide.interest.repeat.repeat_parts`."""

VARIABLE = -1
"""How configs state a dimension that differs between requests."""

Dim = int | Size | Axis


@dataclass(frozen=True)
class Tensor:
    """One named tensor, without its batch dimension."""

    name: str
    dtype: Dtype
    dims: tuple[Dim, ...]
    meaning: str
    ragged: bool = False
    """Requests with different lengths may share a batch (``allow_ragged_batch``)."""
    optional: bool = False
    """An input may be missing from a request (``optional``); an output may be missing from an earlier export."""
    rows: int | None = None
    """The leading dimension in a model that does not batch: `VARIABLE` for one row per text, 1 for a single row."""

    def config_dims(self, sizes: Mapping[Size, int], *, batching: bool) -> tuple[int, ...]:
        """The dims that a ``config.pbtxt`` states.

        Args:
            sizes: The value of each `Size` in one export.
            batching: Whether the model batches; if so, its dims do not include the batch dimension.
        """
        dims = tuple(
            sizes[dim] if isinstance(dim, Size) else VARIABLE if isinstance(dim, Axis) else dim for dim in self.dims
        )
        return dims if batching or self.rows is None else (self.rows, *dims)


EVENT_ITEM = Tensor(
    "event_item",
    Dtype.INT64,
    (Axis.EVENTS,),
    "item key of each event: the 64-bit xxHash of the item id's UTF-8 bytes, as a signed integer",
    ragged=True,
    optional=True,
)
EVENT_TIME = Tensor(
    "event_time",
    Dtype.INT64,
    (Axis.EVENTS,),
    "Unix time of each event in milliseconds, UTC, not after `now`",
    ragged=True,
    optional=True,
)
EVENT_IS_CURRENT = Tensor(
    "event_is_current",
    Dtype.BOOL,
    (Axis.EVENTS,),
    "true for events of the current session, false for history; if missing, the server splits by the session gap",
    ragged=True,
    optional=True,
)
EVENT_WEIGHT = Tensor(
    "event_weight",
    Dtype.FP32,
    (Axis.EVENTS,),
    "rating, quantity or dwell time of each event, from 0 to 1e15; default 1",
    ragged=True,
    optional=True,
)
EVENT_TYPE = Tensor(
    "event_type",
    Dtype.INT64,
    (Axis.EVENTS,),
    "key of the event type of each event (view, purchase, dislike): the xxHash of its name; 0 for an event without "
    "one, which counts as one of the first target type",
    ragged=True,
    optional=True,
)
NOW = Tensor("now", Dtype.INT64, (1,), "Unix time of the request in milliseconds, UTC")
ALPHA = Tensor("alpha", Dtype.FP32, (1,), "share of history in the blend, 0 to 1; overrides the gate", optional=True)
EXCLUDE_ITEM = Tensor(
    "exclude_item",
    Dtype.INT64,
    (Axis.EXCLUDED,),
    "keys of items never to recommend; keys that are not in the catalog are ignored",
    ragged=True,
    optional=True,
)
EXCLUDE_SEEN = Tensor(
    "exclude_seen",
    Dtype.BOOL,
    (1,),
    "true to exclude seen items, which are the items of the request's events; default: the bundle's policy",
    optional=True,
)
DECAY_SCALE = Tensor(
    "decay_scale",
    Dtype.FP32,
    (1,),
    "factor on every decay rate by age, finite and not negative: 2 halves the half-lives, 0 turns the decay by age "
    "off; default 1",
    optional=True,
)
IGNORE_UNKNOWN = Tensor(
    "ignore_unknown",
    Dtype.BOOL,
    (1,),
    "true to leave out and count the events whose items are not in the catalog; false to refuse such a request; "
    "default: the export's policy",
    optional=True,
)
ALLOW_ATTRIBUTE = Tensor(
    "allow_attribute",
    Dtype.INT64,
    (Axis.ALLOWED,),
    "keys of the attribute values to filter by, each the xxHash of `column=value`; an item passes if, for every column "
    "that is given, it has one of the values given for that column. A range of a numeric column is three entries: the "
    "xxHash of its name, then the least and the largest number that pass, as ordered integers, see "
    "`ebbtide.interest.numbers`",
    ragged=True,
    optional=True,
)
EVENT_COUNT = Tensor(
    "event_count",
    Dtype.INT32,
    (1,),
    "number of events of each user in a request for several users: the first events of the row; the rest of the row is "
    "padding; default: all events of the row",
    optional=True,
)
CANDIDATE_ITEM = Tensor(
    "candidate_item",
    Dtype.INT64,
    (Axis.CANDIDATES,),
    "keys of the items to score, in the order of the answer",
    ragged=True,
    rows=1,
)
USER = Tensor(
    "user",
    Dtype.INT64,
    (2,),
    "key of the user whose state counts too: the 16 bytes of the XXH3 hash of the user id's UTF-8 bytes, as two "
    "little-endian integers; 0 and 0 for none",
    optional=True,
)
ALLOW_STATELESS = Tensor(
    "allow_stateless",
    Dtype.BOOL,
    (1,),
    "true to answer from the request's own events if the store of the users' states cannot be reached; false to refuse "
    "such a request (UNAVAILABLE); default false",
    optional=True,
)
AS_EXPORTED = Tensor(
    "as_exported",
    Dtype.BOOL,
    (1,),
    "true to leave out what has changed since the export: popularity, added items, stock and rules; and, in "
    "`observer`, not to count the events for popularity; default false",
    optional=True,
)
EVENT_ID = Tensor(
    "event_id",
    Dtype.INT64,
    (Axis.EVENTS,),
    "id of each event: one that the user's state has already is dropped; default: a hash of its item, time and type",
    ragged=True,
    optional=True,
)
SHOWN_ITEM = Tensor(
    "shown_item",
    Dtype.INT64,
    (Axis.SHOWN,),
    "keys of the items that the user was shown before the events; those that are items of the events were taken. They "
    "move the alpha of the user if the export learns online",
    ragged=True,
    optional=True,
)
RESET_LEARNING = Tensor(
    "reset_learning",
    Dtype.BOOL,
    (1,),
    "true to forget what was learned online of the user, before the events and the shown items count; default false",
    optional=True,
)
TEXT = Tensor("text", Dtype.BYTES, (Axis.TEXTS,), "UTF-8 texts, one for each text event")
TEXT_EVENT = Tensor(
    "text_event",
    Dtype.INT64,
    (Axis.TEXTS,),
    "for each text, the index in `event_item` of the event for which it is the fallback if the item is not in the "
    "catalog, or -1 for a text that is an event of its own; text events follow events with items; default -1 for all",
    optional=True,
)

INPUT_IDS = Tensor("input_ids", Dtype.INT64, (Axis.TOKENS,), "token ids, padded", rows=VARIABLE)
ATTENTION_MASK = Tensor("attention_mask", Dtype.INT64, (Axis.TOKENS,), "1 for a token, 0 for padding", rows=VARIABLE)
TEXT_VECTOR = Tensor("text_vector", Dtype.FP32, (Size.VECTOR,), "event vector of each text", rows=VARIABLE)
TEXT_FEATURES = Tensor(
    "text_features",
    Dtype.FP32,
    (Size.TEXT,),
    "text vector of each text, from which event vector and item factor of a new item are computed",
    optional=True,
    rows=VARIABLE,
)

INTEREST = Tensor(
    "interest",
    Dtype.FP32,
    (Size.INTEREST,),
    "the interest vector w, followed by the weights of the popularity prior's columns",
    rows=1,
)
ADJUST_ITEM = Tensor(
    "adjust_item",
    Dtype.INT64,
    (Axis.ADJUSTMENTS,),
    "catalog index of each score adjustment, padded with 0",
    rows=1,
)
ADJUST_SCORE = Tensor(
    "adjust_score",
    Dtype.FP32,
    (Axis.ADJUSTMENTS,),
    "the score that replaces the item's: minus infinity excludes it; padded with 0",
    rows=1,
)
ITEM_FILTER = Tensor(
    "item_filter",
    Dtype.INT64,
    (Size.FILTER,),
    "bits of the allowed attribute values; the first bit of a column is set where the request does not filter by it. "
    "A numeric column has three words: that bit, and the least and the largest number that pass, as ordered integers",
    rows=1,
)

ITEM_ID = Tensor("item_id", Dtype.BYTES, (Size.TOP_N,), "ids of the recommended items, best first", rows=1)
SCORE = Tensor("score", Dtype.FP32, (Size.TOP_N,), "scores of the recommended items; minus infinity: excluded", rows=1)
NEW_ITEM_ID = Tensor(
    "new_item_id",
    Dtype.BYTES,
    (Axis.NEW_ITEMS,),
    "ids of the best items that were added after the export, best first; empty for an item that is not allowed. They "
    "are to be merged into `item_id` by score",
    optional=True,
    rows=1,
)
NEW_ITEM_SCORE = Tensor(
    "new_item_score",
    Dtype.FP32,
    (Axis.NEW_ITEMS,),
    "scores of the best items that were added after the export; minus infinity: not allowed",
    optional=True,
    rows=1,
)
APPLIED_RULES = Tensor(
    "applied_rules",
    Dtype.BYTES,
    (Axis.RULES,),
    "a JSON object about the rules of the house: in `moved`, their names by the id of each item whose score they "
    "changed; in `pinned`, position from 1, item id, score and name of each pin, which are to be put into the list. "
    "Empty for a user without any",
    optional=True,
    rows=1,
)
SLATE = Tensor(
    "slate",
    Dtype.BYTES,
    (1,),
    "a JSON object that says what the list shall be like: `size`, its number of items; `diversity`, 0 to 1; `method`, "
    "mmr or dpp; `at_most`, lists of a column, the key of a value or null for each value, and a number; `at_least`, "
    "the same with a key; `exposure`, lists of a column, a key, a share and a significance; and `calibration`, a list "
    "of a column and a weight from 0 to 1. Default: 10 items by their scores",
    optional=True,
    rows=1,
)
SEEN_ITEM = Tensor(
    "seen_item",
    Dtype.INT64,
    (Axis.SEEN,),
    "catalog index of the item of each event, in the user's state too; -1 for padding and for texts",
    ragged=True,
    optional=True,
    rows=1,
)
SEEN_WEIGHT = Tensor(
    "seen_weight",
    Dtype.FP32,
    (Axis.SEEN,),
    "what is left of the weight of each event: its weight times the mean of its decay over the interest dimensions",
    ragged=True,
    optional=True,
    rows=1,
)
SLATE_ITEM_ID = Tensor(
    "slate_item_id", Dtype.BYTES, (Axis.SLATE_ITEMS,), "ids of the items of the list, in its order; empty: none", rows=1
)
SLATE_SCORE = Tensor(
    "slate_score", Dtype.FP32, (Axis.SLATE_ITEMS,), "their scores; minus infinity where there is no item", rows=1
)
SLATE_NOTES = Tensor(
    "slate_notes",
    Dtype.BYTES,
    (1,),
    "a JSON object about the list: `size`, how many items were wanted; `candidates`, how many it was composed from; "
    "`rank`, of each item by its score, from 1; `moved_by`, the numbers of the causes that moved each item up or down "
    "(0 diversity, 1 calibration, then `at_most`, `at_least` and `exposure` in the order of the request); `rules`, the "
    "names of the rules of the house that moved each item; `relaxed`, for each limit that is not met its cause, "
    "the number wanted, the number there is and, for an exposure, the first position; and `relaxed_value`, for each of "
    "these the value with the most items if it is a cap on each value, else empty",
    rows=1,
)
ITEM_INDEX = Tensor(
    "item_index", Dtype.INT64, (Size.TOP_N,), "catalog indices of the recommended items, best first", rows=1
)
ALPHA_USED = Tensor(
    "alpha_used", Dtype.FP32, (1,), "the alpha of the blend (the mean, where each dimension has its own)", rows=1
)
EVENT_COUNTS = Tensor(
    "event_counts",
    Dtype.INT32,
    (3,),
    "number of events used as history, of events used as current session, and of events left out because their items "
    "are not in the catalog; a request with 0 and 0 for the first two has no known event (cold start)",
    rows=1,
)
CANDIDATE_SCORE = Tensor(
    "candidate_score",
    Dtype.FP32,
    (Axis.CANDIDATES,),
    "score of each candidate, in the order given; minus infinity: excluded; NaN: not in the catalog",
    rows=1,
)
CANDIDATE_IN_STOCK = Tensor(
    "candidate_in_stock",
    Dtype.BOOL,
    (Axis.CANDIDATES,),
    "false for each candidate that is out of stock, so that no list has it; its score is that which it would have",
    optional=True,
    rows=1,
)
EVENT_SHARE = Tensor("event_share", Dtype.FP32, (Axis.CANDIDATES, Axis.EVENTS), "share of each event in each score")
EVENT_CURRENT = Tensor(
    "event_current",
    Dtype.BOOL,
    (Axis.EVENTS,),
    "true: used as current session; false: used as history",
)
EVENT_DECAY = Tensor(
    "event_decay",
    Dtype.FP32,
    (Axis.EVENTS,),
    "decay factor of each event, 0 to 1: the mean over the interest dimensions of the decay by age and by rank",
)
DIMENSION_SHARE = Tensor(
    "dimension_share",
    Dtype.FP32,
    (Axis.CANDIDATES, Size.VECTOR),
    "share of each interest dimension in each score",
)
PRIOR_SHARE = Tensor("prior_share", Dtype.FP32, (Axis.CANDIDATES,), "share of the popularity prior in each score")
ADJUSTMENT_SHARE = Tensor(
    "adjustment_share",
    Dtype.FP32,
    (Axis.CANDIDATES,),
    "adjustment of each candidate's score: a repeat score in place of prior and items, minus infinity to exclude, "
    "what related items get, or 0",
)
REPEAT_SHARE = Tensor(
    "repeat_share",
    Dtype.FP32,
    (Axis.CANDIDATES, len(REPEAT_PARTS)),
    f"parts of each repeat score, which sum to it: {', '.join(REPEAT_PARTS)}; 0 for a score that is no repeat score",
    optional=True,
)
BLOCK_NAME = Tensor(
    "block_name",
    Dtype.BYTES,
    (Axis.BLOCKS,),
    "names of the items' feature blocks: `text`, `residual` (learned from events), and those that training was given "
    "vectors for; empty for an export of a bundle without such vectors",
    optional=True,
)
BLOCK_SHARE = Tensor(
    "block_share",
    Dtype.FP32,
    (Axis.CANDIDATES, Axis.BLOCKS),
    "share of each feature block of the candidate in each score; they sum to the same value as `dimension_share`",
    optional=True,
)
HALF_LIFE_DAYS = Tensor(
    "half_life_days",
    Dtype.FP32,
    (Size.VECTOR,),
    "half-life by age of each interest dimension in days; infinite without decay",
)
STATE_STATUS = Tensor(
    "state_status",
    Dtype.INT32,
    (1,),
    "what the answer took from the user's state: 0 nothing, since the request names no user; 1 the state; 2 nothing, "
    "since the store knows no event of the user; 3 nothing, since the store could not be reached; 4 the raw events in "
    "the state of another version; 5 the state, whose older events `decay_scale` reaches in part only",
    optional=True,
    rows=1,
)
FOLDED_SHARE = Tensor(
    "folded_share",
    Dtype.FP32,
    (Axis.CANDIDATES,),
    "share, in each score, of the older events that the user's state holds as sums only",
    optional=True,
)
STATE_EVENT_ITEM = Tensor(
    "state_event_item",
    Dtype.BYTES,
    (Axis.STATE_EVENTS,),
    "item ids of the raw events in the user's state, newest first; empty for an item that is not in the catalog",
    optional=True,
)
STATE_EVENT_TIME = Tensor(
    "state_event_time",
    Dtype.INT64,
    (Axis.STATE_EVENTS,),
    "Unix time of each raw event in the user's state in milliseconds, UTC, newest first",
    optional=True,
)
STATE_EVENT_WEIGHT = Tensor(
    "state_event_weight", Dtype.FP32, (Axis.STATE_EVENTS,), "weight of each raw event in the user's state, newest first"
)
STATE_EVENT_CURRENT = Tensor(
    "state_event_current",
    Dtype.BOOL,
    (Axis.STATE_EVENTS,),
    "true for each raw event in the user's state that is used as current session; false: used as history, or left out",
    optional=True,
)
STATE_EVENT_DECAY = Tensor(
    "state_event_decay",
    Dtype.FP32,
    (Axis.STATE_EVENTS,),
    "decay factor of each raw event in the user's state, 0 to 1, newest first; see `event_decay`",
    optional=True,
)
STATE_EVENT_SHARE = Tensor(
    "state_event_share",
    Dtype.FP32,
    (Axis.CANDIDATES, Axis.STATE_EVENTS),
    "share, in each score, of each raw event in the user's state, newest first",
    optional=True,
)
STATE_COUNTS = Tensor(
    "state_counts",
    Dtype.INT32,
    (4,),
    "number of events that the user's state holds as sums, of raw events that it holds, of late ones (counted by their "
    "age alone, since the state held only sums of that time), and of those dropped before this version saw them",
    rows=1,
)
ALPHA_OFFSET = Tensor(
    "alpha_offset",
    Dtype.FP32,
    (1,),
    "what was learned online of the user: added to the logit of alpha; 0 for nothing",
    optional=True,
    rows=1,
)
INTEREST_ENERGY = Tensor(
    "interest_energy",
    Dtype.FP32,
    (Size.VECTOR,),
    "square of each dimension of the interest vector w; beside `half_life_days` it tells how lasting the interest is",
    rows=1,
)
OBSERVED = Tensor(
    "observed",
    Dtype.INT32,
    (4,),
    "number of events added to the user's state, of duplicates (dropped), of late ones among those added (counted by "
    "their age alone), and of events left out because their items are not in the catalog",
    rows=1,
)
ITEM_KEY = Tensor(
    "item_key",
    Dtype.INT64,
    (Axis.NEW_ITEMS,),
    "keys of the items to add, to remove, or whose stock changes, each the 64-bit xxHash of the item id's UTF-8 bytes, "
    "as a signed integer",
    optional=True,
)
ITEM_NAME = Tensor(
    "item_name", Dtype.BYTES, (Axis.NEW_ITEMS,), "ids of the items to add, or whose stock changes, UTF-8"
)
ITEM_DETAILS = Tensor(
    "item_details",
    Dtype.BYTES,
    (Axis.NEW_ITEMS,),
    "a JSON object for each item to add, which `items` gives back: text, title and attributes; the server reads none "
    "of it",
)
ITEM_ATTRIBUTE = Tensor(
    "item_attribute",
    Dtype.INT64,
    (Axis.NEW_ATTRIBUTES,),
    "keys of the attribute values of the items to add, item by item, each the xxHash of `column=value`; a number is "
    "two entries: the xxHash of its column's name, then the number as an ordered integer. What requests cannot filter "
    "by is left out",
    optional=True,
)
ITEM_ATTRIBUTE_COUNT = Tensor(
    "item_attribute_count",
    Dtype.INT32,
    (Axis.NEW_ITEMS,),
    "number of entries of `item_attribute` of each item to add; default 0",
    optional=True,
)
ONLY_UPDATE = Tensor(
    "only_update",
    Dtype.BOOL,
    (1,),
    "true to replace items that were added before, and to leave out others; default false",
    optional=True,
)
LIST_AFTER = Tensor(
    "list_after",
    Dtype.INT32,
    (1,),
    "asks for a part of the items that were added, or that are out of stock: 0 for the first part, then the "
    "`next_part` of the answer; default: lists none",
    optional=True,
)
ITEM_COUNTS = Tensor(
    "item_counts",
    Dtype.INT32,
    (6,),
    "number of items added, of items replaced, of items removed, of items left out because the catalog of the export "
    "has them, of items left out because nobody added them, and of all items that were added and are there now",
)
IN_STOCK = Tensor(
    "in_stock",
    Dtype.BOOL,
    (Axis.NEW_ITEMS,),
    "for each item of `item_key` whether it is in stock from now on; without items, to list those that are not",
    optional=True,
)
STOCK_COUNTS = Tensor(
    "stock_counts",
    Dtype.INT32,
    (3,),
    "number of items whose stock has changed, of items that neither the catalog nor anybody who added items has (they "
    "count if they are added later), and of all items that are out of stock now",
)
CHANGE_RULES = Tensor(
    "change_rules",
    Dtype.BYTES,
    (1,),
    "a JSON object: in `set` a list of rules to add, or to replace by name; in `remove` a list of names; empty to list",
    optional=True,
)
LISTED_RULES = Tensor("listed_rules", Dtype.BYTES, (1,), "all rules of the house, a JSON list, as given")
RULE_COUNTS = Tensor(
    "rule_counts",
    Dtype.INT32,
    (4,),
    "number of rules added, of rules replaced, of rules removed, and of names to remove that no rule has",
)
LISTED_ITEM = Tensor("listed_item", Dtype.BYTES, (Axis.NEW_ITEMS,), "ids of the listed items")
LISTED_DETAILS = Tensor("listed_details", Dtype.BYTES, (Axis.NEW_ITEMS,), "details of the listed items, as given")
NEXT_PART = Tensor("next_part", Dtype.INT32, (1,), "where the list goes on; 0 at its end")
FORGOTTEN = Tensor("forgotten", Dtype.INT32, (1,), "number of records of the user that were erased", rows=1)

ITEMS_MARKER = b"ebbtide: the texts before are items to add"
"""The text after those of items to add. Only `add_items` asks the encoder for `TEXT_FEATURES`, and Triton's cache key
does not have the outputs; so its requests to the encoder must differ from those of all other ensembles."""
FOR_CANDIDATES = "for_candidates"
"""Marks, among the tensors of a request to `adaptive_weights`, one whose score adjustments go to `CANDIDATE_HEAD`: it
takes those of new items, which the scoring head does not know. Not on the wire."""

LEARNS_ONLINE_PARAMETER = "learns_online"
"""The parameter of an ensemble's config that is ``true`` where `observe` learns from the items that were shown."""

FINGERPRINT_PARAMETER = "ebbtide_fingerprint"
"""The ``parameters`` key under which every config of one export carries the same id."""


@dataclass(frozen=True)
class Limits:
    """Bounds on one request, written into the exported configs and checked by the server."""

    max_events: int = 512
    """History, session and text events together."""
    max_exclude_items: int = 512
    max_candidates: int = 1024
    """Items to score or to explain in one request."""
    max_attributes: int = 64
    """Attribute values that a request may allow; a range counts as three."""
    max_texts: int = 64
    max_text_bytes: int = 4096
    """Bytes of one text, UTF-8."""

    @property
    def adjustments(self) -> int:
        """Score adjustments that a request can need: one for every event's item and one for every excluded item."""
        return self.max_events + self.max_exclude_items
