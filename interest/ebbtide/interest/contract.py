"""The tensor contract: every tensor and model of an exported repository, named once, here.

The ONNX axes, the ``config.pbtxt`` files, the ensembles' maps, the client's codec and the tests all derive from this
module. Models of one ensemble pass tensors by name: the output ``interest`` of one step is the input ``interest`` of
the next, so an ensemble is a list of models and the maps follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum


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
    """Score adjustments of each request; one width for all, since ONNX models batch equal shapes only."""
    FILTER = "filter_words"
    """64-bit words that hold the attribute values of an item, and those that a request allows; at least 1."""
    TOP_N = "top_n"
    """Items returned for each request."""


class Axis(str, Enum):
    """Dimensions that differ between requests, named by what they count."""

    EVENTS = "events"
    TEXTS = "texts"
    TOKENS = "tokens"
    CANDIDATES = "candidates"
    EXCLUDED = "excluded items"
    ALLOWED = "allowed values"


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
    """The tensor may be missing from a request (``optional``)."""
    rows: int | None = None
    """The leading dimension in a model that does not batch: `VARIABLE` for a row per text, 1 for a single row."""

    def config_dims(self, sizes: Mapping[Size, int], *, batching: bool) -> tuple[int, ...]:
        """The dims that a ``config.pbtxt`` states.

        Args:
            sizes: What the sizes are in one export.
            batching: Whether the model batches; its dims then leave the batch dimension out.
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
)
EVENT_TIME = Tensor(
    "event_time",
    Dtype.INT64,
    (Axis.EVENTS,),
    "Unix time of each event in milliseconds, UTC, not after `now`",
    ragged=True,
)
EVENT_IS_CURRENT = Tensor(
    "event_is_current",
    Dtype.BOOL,
    (Axis.EVENTS,),
    "true for events of the current session, false for history; without it the server splits by the session gap",
    ragged=True,
    optional=True,
)
EVENT_WEIGHT = Tensor(
    "event_weight",
    Dtype.FP32,
    (Axis.EVENTS,),
    "rating, quantity or dwell of each event, from 0 to 1e15; 1 without it",
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
    "true to leave out seen items, those of the request's events; without it the bundle's policy holds",
    optional=True,
)
DECAY_SCALE = Tensor(
    "decay_scale",
    Dtype.FP32,
    (1,),
    "factor on every decay rate by age, finite and not negative: 2 halves the half-lives, 0 stops the ebbing by age; "
    "1 without it",
    optional=True,
)
IGNORE_UNKNOWN = Tensor(
    "ignore_unknown",
    Dtype.BOOL,
    (1,),
    "true to leave out, and count, events whose items are not in the catalog; false to refuse the request; "
    "without it the export's policy holds",
    optional=True,
)
ALLOW_ATTRIBUTE = Tensor(
    "allow_attribute",
    Dtype.INT64,
    (Axis.ALLOWED,),
    "keys of the attribute values that an item must have to be recommended, each the xxHash of `column=value`: one of "
    "those given for a column, for every column that is given",
    ragged=True,
    optional=True,
)
EVENT_COUNT = Tensor(
    "event_count",
    Dtype.INT32,
    (1,),
    "number of events at the start of a row that are the user's, the rest is padding: several users in one request; "
    "all of them without it",
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
TEXT = Tensor("text", Dtype.BYTES, (Axis.TEXTS,), "UTF-8 texts, each of one event")
TEXT_EVENT = Tensor(
    "text_event",
    Dtype.INT64,
    (Axis.TEXTS,),
    "for each text, the index in `event_item` of the event that it stands in for if the item is not in the catalog, or "
    "-1 for a text that is an event by itself, after those with an item; -1 for all without it",
    optional=True,
)

INPUT_IDS = Tensor("input_ids", Dtype.INT64, (Axis.TOKENS,), "token ids, padded", rows=VARIABLE)
ATTENTION_MASK = Tensor("attention_mask", Dtype.INT64, (Axis.TOKENS,), "1 for a token, 0 for padding", rows=VARIABLE)
TEXT_VECTOR = Tensor("text_vector", Dtype.FP32, (Size.VECTOR,), "event vector of each text", rows=VARIABLE)

INTEREST = Tensor(
    "interest",
    Dtype.FP32,
    (Size.INTEREST,),
    "w, and after it the weights of the popularity prior's columns",
    rows=1,
)
ADJUST_ITEM = Tensor(
    "adjust_item",
    Dtype.INT64,
    (Size.ADJUSTMENTS,),
    "catalog index of each score adjustment, padded with 0",
    rows=1,
)
ADJUST_SCORE = Tensor(
    "adjust_score",
    Dtype.FP32,
    (Size.ADJUSTMENTS,),
    "the score that replaces the item's: minus infinity excludes it; padded with 0",
    rows=1,
)
ITEM_FILTER = Tensor(
    "item_filter",
    Dtype.INT64,
    (Size.FILTER,),
    "bits of the attribute values that are allowed, and the first bit of every column that may have any",
    rows=1,
)

ITEM_ID = Tensor("item_id", Dtype.BYTES, (Size.TOP_N,), "ids of the recommended items, best first", rows=1)
SCORE = Tensor("score", Dtype.FP32, (Size.TOP_N,), "their scores; minus infinity marks an excluded item", rows=1)
ITEM_INDEX = Tensor(
    "item_index", Dtype.INT64, (Size.TOP_N,), "catalog indices of the recommended items, best first", rows=1
)
ALPHA_USED = Tensor(
    "alpha_used", Dtype.FP32, (1,), "the alpha of the blend (its mean, where it is one per dimension)", rows=1
)
EVENT_COUNTS = Tensor(
    "event_counts",
    Dtype.INT32,
    (3,),
    "events of the history that counted, those of the current session, and those left out since their items are not "
    "in the catalog; two zeros in front are a cold start",
    rows=1,
)
CANDIDATE_SCORE = Tensor(
    "candidate_score",
    Dtype.FP32,
    (Axis.CANDIDATES,),
    "score of each candidate, in the order given; minus infinity marks an excluded one, NaN one not in the catalog",
    rows=1,
)
EVENT_SHARE = Tensor(
    "event_share", Dtype.FP32, (Axis.CANDIDATES, Axis.EVENTS), "what each event adds to each candidate's score"
)
EVENT_CURRENT = Tensor("event_current", Dtype.BOOL, (Axis.EVENTS,), "whether each event counted as current session")
EVENT_DECAY = Tensor(
    "event_decay",
    Dtype.FP32,
    (Axis.EVENTS,),
    "what is left of each event, 0 to 1: the mean over the interest dimensions of its decay by age and rank",
)
DIMENSION_SHARE = Tensor(
    "dimension_share", Dtype.FP32, (Axis.CANDIDATES, Size.VECTOR), "what each interest dimension adds to each score"
)
PRIOR_SHARE = Tensor("prior_share", Dtype.FP32, (Axis.CANDIDATES,), "what the popularity prior adds to each score")
ADJUSTMENT_SHARE = Tensor(
    "adjustment_share",
    Dtype.FP32,
    (Axis.CANDIDATES,),
    "score adjustments: a score that replaces all other shares, minus infinity that excludes, or 0",
)
HALF_LIFE_DAYS = Tensor(
    "half_life_days",
    Dtype.FP32,
    (Size.VECTOR,),
    "half-life by age of each interest dimension, infinite where nothing decays",
)


class Kind(str, Enum):
    """What serves a model."""

    PYTHON = "python"
    ONNX = "onnxruntime"
    ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Model:
    """One model of the repository."""

    name: str
    kind: Kind
    batching: bool
    """False gives ``max_batch_size: 0``: shapes then carry every dimension, the leading one too."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[str, ...] = ()
    """The models of an ensemble, in the order in which they run."""
    source: str = ""
    """The model whose Python code serves this one; empty: its own."""
    core_share: float = 1 / 8
    """Share of a machine's cores that the instances of the model use together."""
    cacheable: bool = False
    """Whether the server may cache its answers, where all ensembles ask for the same outputs.

    Triton's key is the model, its version and the raw bytes of its inputs. It leaves out shapes and the outputs that
    are asked for, so a model is cacheable only if every caller asks for the same outputs, and if everything that
    changes an answer is a tensor whose bytes tell its shape. `recommend` is not: after a request for `alpha_used`
    alone, a request for everything got `alpha_used` alone (seen). Nor is `adaptive_weights`: `rank` does not ask for
    `item_filter`, and `recommend` for the same user then failed without it (seen). The encoder is: no two batches of
    `tokenizer` with different numbers of texts have the same bytes.
    """

    @property
    def code(self) -> str:
        """The model whose Python code serves this one."""
        return self.source or self.name

    @property
    def batches_texts(self) -> bool:
        """Whether the rows of a batch are texts, of which one request can bring many."""
        return self.batching and any(tensor.rows == VARIABLE for tensor in self.inputs)


_USER = (
    EVENT_ITEM,
    EVENT_TIME,
    EVENT_IS_CURRENT,
    EVENT_WEIGHT,
    EVENT_COUNT,
    NOW,
    ALPHA,
    DECAY_SCALE,
    EXCLUDE_ITEM,
    EXCLUDE_SEEN,
    IGNORE_UNKNOWN,
)
"""What there is to say of a user, whatever is asked; a model that does not batch has one user and no padding."""
_ONE_USER = tuple(tensor for tensor in _USER if tensor is not EVENT_COUNT)
_WEIGHTS = (INTEREST, ADJUST_ITEM, ADJUST_SCORE, ITEM_FILTER, ALPHA_USED, EVENT_COUNTS)
_ANSWER = (ITEM_ID, SCORE, ALPHA_USED, EVENT_COUNTS)
_CANDIDATES = (CANDIDATE_SCORE, ALPHA_USED, EVENT_COUNTS)
_EXPLANATION = (
    *_CANDIDATES,
    EVENT_SHARE,
    EVENT_CURRENT,
    EVENT_DECAY,
    DIMENSION_SHARE,
    PRIOR_SHARE,
    ADJUSTMENT_SHARE,
    HALF_LIFE_DAYS,
)

TOKENIZER = Model("tokenizer", Kind.PYTHON, False, (TEXT,), (INPUT_IDS, ATTENTION_MASK))
ENCODER = Model(
    "encoder", Kind.ONNX, True, (INPUT_IDS, ATTENTION_MASK), (TEXT_VECTOR,), core_share=1 / 2, cacheable=True
)
ADAPTIVE_WEIGHTS = Model("adaptive_weights", Kind.PYTHON, True, (*_USER, ALLOW_ATTRIBUTE), _WEIGHTS, core_share=1 / 4)
ADAPTIVE_WEIGHTS_TEXT = Model(
    "adaptive_weights_text",
    Kind.PYTHON,
    False,
    (*_ONE_USER, ALLOW_ATTRIBUTE, TEXT_VECTOR, TEXT_EVENT),
    _WEIGHTS,
    source=ADAPTIVE_WEIGHTS.name,
)
SCORING_HEAD = Model(
    "scoring_head",
    Kind.ONNX,
    True,
    (INTEREST, ADJUST_ITEM, ADJUST_SCORE, ITEM_FILTER),
    (ITEM_ID, SCORE, ITEM_INDEX),
    core_share=1 / 4,
    cacheable=True,
)
APPROXIMATE_HEAD = replace(SCORING_HEAD, kind=Kind.PYTHON)
"""The scoring head of an export that answers from an index: the same tensors, served by Python."""
CANDIDATE_HEAD = Model(
    "candidate_head",
    Kind.PYTHON,
    True,
    (INTEREST, ADJUST_ITEM, ADJUST_SCORE, CANDIDATE_ITEM),
    (CANDIDATE_SCORE,),
)
EXPLAINER = Model(
    "explainer",
    Kind.PYTHON,
    False,
    (*_ONE_USER, CANDIDATE_ITEM, replace(TEXT_VECTOR, optional=True), TEXT_EVENT),
    _EXPLANATION,
)
RECOMMEND = Model(
    "recommend",
    Kind.ENSEMBLE,
    True,
    ADAPTIVE_WEIGHTS.inputs,
    _ANSWER,
    steps=(ADAPTIVE_WEIGHTS.name, SCORING_HEAD.name),
)
RECOMMEND_TEXT = Model(
    "recommend_text",
    Kind.ENSEMBLE,
    False,
    (*_ONE_USER, ALLOW_ATTRIBUTE, TEXT, TEXT_EVENT),
    _ANSWER,
    steps=(TOKENIZER.name, ENCODER.name, ADAPTIVE_WEIGHTS_TEXT.name, SCORING_HEAD.name),
)
RANK = Model(
    "rank",
    Kind.ENSEMBLE,
    True,
    (*_USER, CANDIDATE_ITEM),
    _CANDIDATES,
    steps=(ADAPTIVE_WEIGHTS.name, CANDIDATE_HEAD.name),
)
RANK_TEXT = Model(
    "rank_text",
    Kind.ENSEMBLE,
    False,
    (*_ONE_USER, CANDIDATE_ITEM, TEXT, TEXT_EVENT),
    _CANDIDATES,
    steps=(TOKENIZER.name, ENCODER.name, ADAPTIVE_WEIGHTS_TEXT.name, CANDIDATE_HEAD.name),
)
EXPLAIN = Model("explain", Kind.ENSEMBLE, False, EXPLAINER.inputs, _EXPLANATION, steps=(EXPLAINER.name,))
"""Of one step: an ensemble is pinned to the version that is served, of a Python model Triton asks the highest."""
EXPLAIN_TEXT = Model(
    "explain_text",
    Kind.ENSEMBLE,
    False,
    (*_ONE_USER, CANDIDATE_ITEM, TEXT, TEXT_EVENT),
    _EXPLANATION,
    steps=(TOKENIZER.name, ENCODER.name, EXPLAINER.name),
)
EMBED = Model(
    "embed", Kind.ENSEMBLE, False, (TEXT,), (TEXT_VECTOR,), steps=(TOKENIZER.name, ENCODER.name), cacheable=True
)

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        TOKENIZER,
        ENCODER,
        ADAPTIVE_WEIGHTS,
        ADAPTIVE_WEIGHTS_TEXT,
        SCORING_HEAD,
        CANDIDATE_HEAD,
        EXPLAINER,
        RECOMMEND,
        RECOMMEND_TEXT,
        RANK,
        RANK_TEXT,
        EXPLAIN,
        EXPLAIN_TEXT,
        EMBED,
    )
}
"""Every model of an exported repository, in load order: composing models before ensembles."""


def exported_models(*, exact: bool) -> dict[str, Model]:
    """The models that an export writes, in the order of `MODELS`.

    Args:
        exact: Whether the scoring head scores the whole catalog; otherwise it answers from an index.
    """
    return MODELS if exact else {**MODELS, SCORING_HEAD.name: APPROXIMATE_HEAD}


def read_outputs(ensemble: Model, step: Model, models: Mapping[str, Model]) -> tuple[Tensor, ...]:
    """The outputs that an ensemble asks a step for: those that the ensemble gives or another step reads.

    Triton refuses an ensemble that asks for more.

    Args:
        ensemble: One of `models`.
        step: One of its steps.
        models: By name.
    """
    read = {tensor.name for tensor in ensemble.outputs}
    read.update(tensor.name for name in ensemble.steps for tensor in models[name].inputs)
    return tuple(tensor for tensor in step.outputs if tensor.name in read)


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
    """Attribute values that a request may allow."""
    max_texts: int = 64
    max_text_bytes: int = 4096
    """Bytes of one text, UTF-8."""

    @property
    def adjustments(self) -> int:
        """Score adjustments that a request can need: of every event's item and of every excluded one."""
        return self.max_events + self.max_exclude_items
