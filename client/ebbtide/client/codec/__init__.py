"""Typed messages to and from the tensors of the exported models; no I/O, so clients, gateway and tests share it.

Names, dtypes and batch rules come from `ebbtide.interest.contract`. A request without free text goes to a batching
model, whose tensors have a leading batch dimension of 1; one with free text goes to the model that does not batch.
`users` puts several requests without text into one.
"""

from ebbtide.client.codec.answers import decode, decode_ranking, decode_vectors
from ebbtide.client.codec.explanations import decode_explanation
from ebbtide.client.codec.items import (
    ItemsRequest,
    decode_added,
    decode_listed,
    decode_out_of_stock,
    decode_removed,
    decode_stock,
    encode_add_items,
    encode_list_items,
    encode_list_out_of_stock,
    encode_remove_items,
    encode_set_stock,
    field_of_items,
)
from ebbtide.client.codec.requests import encode, encode_explain, encode_rank, encode_texts
from ebbtide.client.codec.rules import (
    RulesRequest,
    decode_removed_rules,
    decode_rules,
    decode_set_rules,
    encode_list_rules,
    encode_remove_rules,
    encode_set_rules,
    field_of_rules,
)
from ebbtide.client.codec.shared import shared_fields
from ebbtide.client.codec.slates import decode_recommended, slate_error
from ebbtide.client.codec.states import (
    StateRequest,
    decode_forgotten,
    decode_interest,
    decode_observed,
    encode_forget,
    encode_interest,
    encode_observe,
)
from ebbtide.client.codec.tensors import Arrays, EncodedRequest
from ebbtide.client.codec.user import EventRequest, LocatedEvent, UserRequest, event_groups, now_ms_of, tensor_order
from ebbtide.client.codec.users import pack_key, stack, users_of

__all__ = [
    "Arrays",
    "EncodedRequest",
    "EventRequest",
    "ItemsRequest",
    "LocatedEvent",
    "RulesRequest",
    "StateRequest",
    "UserRequest",
    "decode",
    "decode_added",
    "decode_explanation",
    "decode_forgotten",
    "decode_interest",
    "decode_listed",
    "decode_observed",
    "decode_out_of_stock",
    "decode_ranking",
    "decode_recommended",
    "decode_removed",
    "decode_removed_rules",
    "decode_rules",
    "decode_set_rules",
    "decode_stock",
    "decode_vectors",
    "encode",
    "encode_add_items",
    "encode_explain",
    "encode_forget",
    "encode_interest",
    "encode_list_items",
    "encode_list_out_of_stock",
    "encode_list_rules",
    "encode_observe",
    "encode_rank",
    "encode_remove_items",
    "encode_remove_rules",
    "encode_set_rules",
    "encode_set_stock",
    "encode_texts",
    "event_groups",
    "field_of_items",
    "field_of_rules",
    "now_ms_of",
    "pack_key",
    "shared_fields",
    "slate_error",
    "stack",
    "tensor_order",
    "users_of",
]
