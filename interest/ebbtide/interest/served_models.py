"""The models of an exported repository: what each one takes and gives, and the steps of the ensembles.

Models of one ensemble pass tensors by name: the output ``interest`` of one step is the input ``interest`` of the next,
so an ensemble is a list of models and the maps follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from ebbtide.interest.contract import (
    ADJUST_ITEM,
    ADJUST_SCORE,
    ADJUSTMENT_SHARE,
    ALLOW_ATTRIBUTE,
    ALLOW_STATELESS,
    ALPHA,
    ALPHA_OFFSET,
    ALPHA_USED,
    APPLIED_RULES,
    AS_EXPORTED,
    ATTENTION_MASK,
    BLOCK_NAME,
    BLOCK_SHARE,
    CANDIDATE_IN_STOCK,
    CANDIDATE_ITEM,
    CANDIDATE_SCORE,
    CHANGE_RULES,
    DECAY_SCALE,
    DIMENSION_SHARE,
    EVENT_COUNT,
    EVENT_COUNTS,
    EVENT_CURRENT,
    EVENT_DECAY,
    EVENT_ID,
    EVENT_IS_CURRENT,
    EVENT_ITEM,
    EVENT_SHARE,
    EVENT_TIME,
    EVENT_TYPE,
    EVENT_WEIGHT,
    EXCLUDE_ITEM,
    EXCLUDE_SEEN,
    FOLDED_SHARE,
    FORGOTTEN,
    HALF_LIFE_DAYS,
    IGNORE_UNKNOWN,
    IN_STOCK,
    INPUT_IDS,
    INTEREST,
    INTEREST_ENERGY,
    ITEM_ATTRIBUTE,
    ITEM_ATTRIBUTE_COUNT,
    ITEM_COUNTS,
    ITEM_DETAILS,
    ITEM_FILTER,
    ITEM_ID,
    ITEM_INDEX,
    ITEM_KEY,
    ITEM_NAME,
    LIST_AFTER,
    LISTED_DETAILS,
    LISTED_ITEM,
    LISTED_RULES,
    NEW_ITEM_ID,
    NEW_ITEM_SCORE,
    NEXT_PART,
    NOW,
    OBSERVED,
    ONLY_UPDATE,
    PRIOR_SHARE,
    REPEAT_SHARE,
    RESET_LEARNING,
    RULE_COUNTS,
    SCORE,
    SEEN_ITEM,
    SEEN_WEIGHT,
    SHOWN_ITEM,
    SLATE,
    SLATE_ITEM_ID,
    SLATE_NOTES,
    SLATE_SCORE,
    STATE_COUNTS,
    STATE_EVENT_CURRENT,
    STATE_EVENT_DECAY,
    STATE_EVENT_ITEM,
    STATE_EVENT_SHARE,
    STATE_EVENT_TIME,
    STATE_EVENT_WEIGHT,
    STATE_STATUS,
    STOCK_COUNTS,
    TEXT,
    TEXT_EVENT,
    TEXT_FEATURES,
    TEXT_VECTOR,
    USER,
    VARIABLE,
    Tensor,
)


class Kind(str, Enum):
    """The Triton backend or platform that serves a model."""

    PYTHON = "python"
    ONNX = "onnxruntime"
    ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Model:
    """One model of the repository."""

    name: str
    kind: Kind
    batching: bool
    """False gives ``max_batch_size: 0``: shapes then include every dimension, the leading one too."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[str, ...] = ()
    """The models of an ensemble, in the order in which they run."""
    source: str = ""
    """The model whose Python code serves this one; empty for its own code."""
    core_share: float = 1 / 8
    """Share of a machine's cores that the instances of the model use together."""
    needs_store: bool = False
    """Whether every request reads or writes the store of the users' states. Such a model has no warm-up requests: they
    would change the store, and a server without one answers with an error."""
    cacheable: bool = False
    """Whether the server may cache the answers, provided that all ensembles ask for the same outputs.

    Triton's cache key is the model, its version and the raw bytes of its inputs. The key does not include shapes or the
    requested outputs. So a model is cacheable only if every caller asks for the same outputs, and if the bytes of its
    inputs determine their shapes. `recommend` is not cacheable: after a request for `alpha_used` alone, a request for
    all outputs got `alpha_used` alone (observed). `adaptive_weights` is not: `rank` does not ask for `item_filter`, and
    a later `recommend` for the same user then failed without it (observed). The encoder is cacheable: two batches of
    `tokenizer` with different numbers of texts never have the same bytes.
    """

    has_own_requests: bool = False
    """Whether the requests of an ensemble to its steps differ from those of all other ensembles, so that it may ask a
    cacheable model for other outputs."""

    @property
    def code(self) -> str:
        """The model whose Python code serves this one."""
        return self.source or self.name

    @property
    def batches_texts(self) -> bool:
        """Whether the rows of a batch are texts; one request can have many of them."""
        return self.batching and any(tensor.rows == VARIABLE for tensor in self.inputs)


_USER = (
    EVENT_ITEM,
    EVENT_TIME,
    EVENT_IS_CURRENT,
    EVENT_WEIGHT,
    EVENT_TYPE,
    EVENT_COUNT,
    NOW,
    ALPHA,
    DECAY_SCALE,
    EXCLUDE_ITEM,
    EXCLUDE_SEEN,
    IGNORE_UNKNOWN,
    USER,
    ALLOW_STATELESS,
    AS_EXPORTED,
)
"""The inputs that describe a user, common to all requests. A model that does not batch has one user and no padding."""
_ONE_USER = tuple(tensor for tensor in _USER if tensor is not EVENT_COUNT)
_NEW_ITEMS = (NEW_ITEM_ID, NEW_ITEM_SCORE, APPLIED_RULES)
"""What is merged into the list of the scoring head."""
_WEIGHTS = (INTEREST, ADJUST_ITEM, ADJUST_SCORE, ITEM_FILTER, ALPHA_USED, EVENT_COUNTS, STATE_STATUS, *_NEW_ITEMS)
_SEEN = (SEEN_ITEM, SEEN_WEIGHT)
"""What a list may be calibrated to; built for `recommend_slate` only."""
_ANSWER = (ITEM_ID, SCORE, ALPHA_USED, EVENT_COUNTS, STATE_STATUS, *_NEW_ITEMS)
_SLATE = (SLATE_ITEM_ID, SLATE_SCORE, SLATE_NOTES, ALPHA_USED, EVENT_COUNTS, STATE_STATUS)
_CANDIDATES = (CANDIDATE_SCORE, CANDIDATE_IN_STOCK, ALPHA_USED, EVENT_COUNTS, STATE_STATUS)
_EXPLANATION = (
    *_CANDIDATES,
    EVENT_SHARE,
    EVENT_CURRENT,
    EVENT_DECAY,
    DIMENSION_SHARE,
    PRIOR_SHARE,
    ADJUSTMENT_SHARE,
    REPEAT_SHARE,
    BLOCK_NAME,
    BLOCK_SHARE,
    HALF_LIFE_DAYS,
    FOLDED_SHARE,
    STATE_EVENT_SHARE,
    STATE_EVENT_ITEM,
    STATE_EVENT_TIME,
    STATE_EVENT_CURRENT,
    STATE_EVENT_DECAY,
)

TOKENIZER = Model("tokenizer", Kind.PYTHON, False, (TEXT,), (INPUT_IDS, ATTENTION_MASK))
ENCODER = Model(
    "encoder",
    Kind.ONNX,
    True,
    (INPUT_IDS, ATTENTION_MASK),
    (TEXT_VECTOR, TEXT_FEATURES),
    core_share=1 / 2,
    cacheable=True,
)
ADAPTIVE_WEIGHTS = Model(
    "adaptive_weights", Kind.PYTHON, True, (*_USER, ALLOW_ATTRIBUTE), (*_WEIGHTS, *_SEEN), core_share=1 / 4
)
ADAPTIVE_WEIGHTS_TEXT = Model(
    "adaptive_weights_text",
    Kind.PYTHON,
    False,
    (*_ONE_USER, ALLOW_ATTRIBUTE, TEXT_VECTOR, TEXT_EVENT),
    (*_WEIGHTS, *_SEEN),
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
    (INTEREST, ADJUST_ITEM, ADJUST_SCORE, CANDIDATE_ITEM, AS_EXPORTED),
    (CANDIDATE_SCORE, CANDIDATE_IN_STOCK),
)
SLATE_COMPOSER = Model(
    "slate_composer",
    Kind.PYTHON,
    True,
    (
        ITEM_ID,
        SCORE,
        *(replace(tensor, ragged=True) for tensor in (NEW_ITEM_ID, NEW_ITEM_SCORE, APPLIED_RULES)),
        *_SEEN,
        SLATE,
    ),
    (SLATE_ITEM_ID, SLATE_SCORE, SLATE_NOTES),
)
"""Reads ids and not `item_index`: it then asks the scoring head for the same outputs as `recommend`, so that the head
may be cached."""
EXPLAINER = Model(
    "explainer",
    Kind.PYTHON,
    False,
    (*_ONE_USER, CANDIDATE_ITEM, replace(TEXT_VECTOR, optional=True), TEXT_EVENT),
    _EXPLANATION,
)
OBSERVER = Model(
    "observer",
    Kind.PYTHON,
    True,
    (
        *(replace(tensor, optional=False) for tensor in (USER, EVENT_ITEM, EVENT_TIME)),
        EVENT_WEIGHT,
        EVENT_TYPE,
        EVENT_ID,
        EVENT_COUNT,
        IGNORE_UNKNOWN,
        SHOWN_ITEM,
        RESET_LEARNING,
        AS_EXPORTED,
    ),
    (OBSERVED,),
    needs_store=True,
)
INTEREST_READER = Model(
    "interest_reader",
    Kind.PYTHON,
    False,
    (replace(USER, optional=False), NOW, DECAY_SCALE),
    (
        ALPHA_USED,
        EVENT_COUNTS,
        STATE_STATUS,
        STATE_COUNTS,
        ALPHA_OFFSET,
        HALF_LIFE_DAYS,
        INTEREST_ENERGY,
        STATE_EVENT_ITEM,
        STATE_EVENT_TIME,
        STATE_EVENT_WEIGHT,
        STATE_EVENT_DECAY,
    ),
    core_share=0,
    needs_store=True,
)
FORGETTER = Model(
    "forgetter", Kind.PYTHON, True, (replace(USER, optional=False),), (FORGOTTEN,), core_share=0, needs_store=True
)
ITEM_KEEPER = Model(
    "item_keeper",
    Kind.PYTHON,
    False,
    (
        ITEM_KEY,
        replace(ITEM_NAME, optional=True),
        replace(ITEM_DETAILS, optional=True),
        ITEM_ATTRIBUTE,
        ITEM_ATTRIBUTE_COUNT,
        ONLY_UPDATE,
        TEXT_FEATURES,
        IN_STOCK,
        CHANGE_RULES,
        LIST_AFTER,
    ),
    (ITEM_COUNTS, STOCK_COUNTS, RULE_COUNTS, LISTED_ITEM, LISTED_DETAILS, LISTED_RULES, NEXT_PART),
    core_share=0,
    needs_store=True,
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
RECOMMEND_SLATE = Model(
    "recommend_slate",
    Kind.ENSEMBLE,
    True,
    (*ADAPTIVE_WEIGHTS.inputs, SLATE),
    _SLATE,
    steps=(ADAPTIVE_WEIGHTS.name, SCORING_HEAD.name, SLATE_COMPOSER.name),
)
RECOMMEND_SLATE_TEXT = Model(
    "recommend_slate_text",
    Kind.ENSEMBLE,
    False,
    (*_ONE_USER, ALLOW_ATTRIBUTE, TEXT, TEXT_EVENT, SLATE),
    _SLATE,
    steps=(TOKENIZER.name, ENCODER.name, ADAPTIVE_WEIGHTS_TEXT.name, SCORING_HEAD.name, SLATE_COMPOSER.name),
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
"""An ensemble of one step. It pins the served version; Triton would run the highest version of a Python model."""
EXPLAIN_TEXT = Model(
    "explain_text",
    Kind.ENSEMBLE,
    False,
    (*_ONE_USER, CANDIDATE_ITEM, TEXT, TEXT_EVENT),
    _EXPLANATION,
    steps=(TOKENIZER.name, ENCODER.name, EXPLAINER.name),
)
OBSERVE = Model("observe", Kind.ENSEMBLE, True, OBSERVER.inputs, OBSERVER.outputs, steps=(OBSERVER.name,))
INTEREST_STATE = Model(
    "interest", Kind.ENSEMBLE, False, INTEREST_READER.inputs, INTEREST_READER.outputs, steps=(INTEREST_READER.name,)
)
FORGET = Model("forget", Kind.ENSEMBLE, True, FORGETTER.inputs, FORGETTER.outputs, steps=(FORGETTER.name,))
ADD_ITEMS = Model(
    "add_items",
    Kind.ENSEMBLE,
    False,
    (
        TEXT,
        replace(ITEM_KEY, optional=False),
        ITEM_NAME,
        ITEM_DETAILS,
        ITEM_ATTRIBUTE,
        ITEM_ATTRIBUTE_COUNT,
        ONLY_UPDATE,
    ),
    (ITEM_COUNTS,),
    steps=(TOKENIZER.name, ENCODER.name, ITEM_KEEPER.name),
    has_own_requests=True,
)
ITEMS = Model(
    "items",
    Kind.ENSEMBLE,
    False,
    (ITEM_KEY, LIST_AFTER),
    (ITEM_COUNTS, LISTED_ITEM, LISTED_DETAILS, NEXT_PART),
    steps=(ITEM_KEEPER.name,),
)
"""Removes and lists items that were added."""
STOCK = Model(
    "stock",
    Kind.ENSEMBLE,
    False,
    (ITEM_KEY, replace(ITEM_NAME, optional=True), replace(IN_STOCK, optional=False), LIST_AFTER),
    (STOCK_COUNTS, LISTED_ITEM, NEXT_PART),
    steps=(ITEM_KEEPER.name,),
)
"""Says which items are out of stock, and lists them."""
RULES = Model(
    "rules",
    Kind.ENSEMBLE,
    False,
    (replace(CHANGE_RULES, optional=False),),
    (RULE_COUNTS, LISTED_RULES),
    steps=(ITEM_KEEPER.name,),
)
"""Sets, removes and lists rules of the house."""
EMBED = Model(
    "embed", Kind.ENSEMBLE, False, (TEXT,), (TEXT_VECTOR,), steps=(TOKENIZER.name, ENCODER.name), cacheable=True
)

CANDIDATE_SUFFIX = "_candidate"
"""Ends the names of the ensembles of a version that is loaded and not in service: to check it, or in shadow."""

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        TOKENIZER,
        ENCODER,
        ADAPTIVE_WEIGHTS,
        ADAPTIVE_WEIGHTS_TEXT,
        SCORING_HEAD,
        CANDIDATE_HEAD,
        SLATE_COMPOSER,
        EXPLAINER,
        OBSERVER,
        INTEREST_READER,
        FORGETTER,
        ITEM_KEEPER,
        RECOMMEND,
        RECOMMEND_TEXT,
        RECOMMEND_SLATE,
        RECOMMEND_SLATE_TEXT,
        RANK,
        RANK_TEXT,
        EXPLAIN,
        EXPLAIN_TEXT,
        OBSERVE,
        INTEREST_STATE,
        FORGET,
        ADD_ITEMS,
        ITEMS,
        STOCK,
        RULES,
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
    """The outputs of a step that an ensemble maps: those that the ensemble returns or that another step reads.

    Triton refuses an ensemble that maps more outputs.

    Args:
        ensemble: One of `models`.
        step: One of its steps.
        models: By name.
    """
    read = {tensor.name for tensor in ensemble.outputs}
    read.update(tensor.name for name in ensemble.steps for tensor in models[name].inputs)
    return tuple(tensor for tensor in step.outputs if tensor.name in read)


def needed_inputs(step: Model, models: Mapping[str, Model]) -> dict[frozenset[str], tuple[Tensor, ...]]:
    """The inputs that a request to a step needs, by the names of the outputs that it asks for.

    A step that serves several ensembles takes as optional what one of them needs. The outputs tell whose request it is,
    since an ensemble asks a step for all outputs that it maps. Of other outputs only the inputs that are not optional
    are needed.

    Args:
        step: One of `models`.
        models: By name.
    """
    found: dict[frozenset[str], list[Tensor]] = {}
    for ensemble in (one for one in models.values() if step.name in one.steps):
        outputs = frozenset(tensor.name for tensor in read_outputs(ensemble, step, models))
        earlier = ensemble.steps[: ensemble.steps.index(step.name)]
        given = {tensor.name for tensor in ensemble.inputs if not tensor.optional}
        given.update(tensor.name for name in earlier for tensor in models[name].outputs)
        needed = [tensor for tensor in step.inputs if not tensor.optional or tensor.name in given]
        # Two ensembles that ask for the same outputs cannot be told apart.
        found[outputs] = [tensor for tensor in needed if tensor in found.get(outputs, needed)]
    return {outputs: tuple(needed) for outputs, needed in found.items()}
