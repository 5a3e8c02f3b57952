"""The learned parameters that serving needs, without the catalog's tables and the scoring head."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest.contract import Limits
from ebbtide.interest.event_types import EventType, EventTypes
from ebbtide.interest.related import RelatedItems
from ebbtide.interest.repeat import RepeatParameters

Floats = npt.NDArray[np.float32]

NORM_FLOOR_SQUARED = np.float32(1e-12)
"""Added under the root of every norm: the zero vector for no events, and a smooth way there as all of them fade out."""

CONFIG_FILE = "interest.json"
TENSORS_FILE = "interest.safetensors"


@dataclass(frozen=True)
class GateParameters:
    """The alpha gate: a perceptron with one hidden layer (tanh) and a sigmoid; see `ebbtide.interest.gate`."""

    hidden_weight: Floats
    """``[features, hidden]``."""
    hidden_bias: Floats
    """``[hidden]``."""
    output_weight: Floats
    """``[hidden, 1]`` for one alpha per user, ``[hidden, d]`` for one per interest dimension."""
    output_bias: Floats
    """``[1]`` or ``[d]``."""


@dataclass(frozen=True)
class InterestConfig:
    """The settings that go with the parameters; one JSON file."""

    fingerprint: str
    """Id of the export; every model of it carries the same."""
    session_gap_ms: int
    """A pause longer than this ends a session, in milliseconds."""
    fixed_alpha: float | None
    """The share of history when alpha is not learned; None means that the gate decides."""
    exclude_seen: bool
    """Whether seen items, those of the request's events, are left out when the request does not say."""
    ignore_unknown: bool
    """Whether events with unknown items are left out when the request does not say; else they are refused."""
    limits: Limits
    state_fingerprint: str = ""
    """Id of the users' states: exports with the same one share them. Empty in an export from before there was one."""
    online_learning_rate: float = 0
    """How fast the alpha of a user follows what the user takes; 0 learns nothing online."""
    top_n: int = 0
    """Items of a list of recommendations; 0 in an export from before a server could have new items."""
    event_types: tuple[EventType, ...] = ()
    """The event types that requests may name, the first of them a target with weight 1; none where the training knew
    none."""

    @property
    def states(self) -> str:
        """The id under which a store keeps the states of the export's users."""
        return self.state_fingerprint or self.fingerprint

    @classmethod
    def from_json(cls, text: str) -> InterestConfig:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: A key is missing or unknown.
        """
        content = json.loads(text)
        known = {field.name for field in fields(cls)}
        if {"state_fingerprint", "online_learning_rate", "top_n", "event_types", *content} != known:
            raise ValueError(f"{CONFIG_FILE}: got keys {sorted(content)}; expected {sorted(known)}")
        types = tuple(EventType(**one) for one in content.get("event_types", ()))
        return cls(**{**content, "limits": Limits(**content["limits"]), "event_types": types})

    def to_json(self) -> str:
        """The settings as a JSON object."""
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True)
class InterestParameters:
    """Learned parameters; d interest dimensions, p columns of the popularity prior."""

    config: InterestConfig
    decay_rate_per_day: Floats
    """lambda, ``[d]``: ln 2 over the half-life in days; 0 means no decay by age."""
    rank_decay_rate: Floats
    """mu, ``[d]``: decay for each later event; 0 means none."""
    gate: GateParameters | None
    """None with a fixed alpha."""
    prior_weight: Floats
    """``[prior columns]``: the weights of the prior's columns in the scoring head."""
    repeat: RepeatParameters | None = None
    """The score of seen items; None without a repeat score."""
    related: RelatedItems | None = None
    """None where related items add nothing to a score."""

    @property
    def vector_width(self) -> int:
        """D."""
        return self.decay_rate_per_day.shape[0]

    @cached_property
    def event_types(self) -> EventTypes | None:
        """The types that events may have; None where the training knew none."""
        return EventTypes(self.config.event_types) if self.config.event_types else None

    @cached_property
    def decay_exponents(self) -> Floats:
        """``[2, d]``: -lambda over -mu, so that all decays come from one product, made once for all requests."""
        return np.negative([self.decay_rate_per_day, self.rank_decay_rate])

    @cached_property
    def moment_exponents(self) -> npt.NDArray[np.float64]:
        """``[2, 2 d]``: `decay_exponents` for sums, then twice those, for sums of squares; in double precision."""
        return np.concatenate([self.decay_exponents, 2.0 * self.decay_exponents], axis=1, dtype=np.float64)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name, as they are written to `TENSORS_FILE`."""
        arrays = {name: getattr(self, name) for name in ("decay_rate_per_day", "rank_decay_rate", "prior_weight")}
        if self.gate is not None:
            arrays |= {f"gate.{field.name}": getattr(self.gate, field.name) for field in fields(self.gate)}
        if self.repeat is not None:
            arrays |= {f"repeat.{name}": array for name, array in self.repeat.tensors().items()}
        if self.related is not None:
            arrays |= {f"related.{field.name}": getattr(self.related, field.name) for field in fields(self.related)}
        return arrays

    @classmethod
    def from_tensors(cls, config: InterestConfig, arrays: dict[str, npt.NDArray[Any]]) -> InterestParameters:
        """Puts settings and arrays together."""
        # Plain views of memory maps: each operation on a `memmap` costs microseconds for its class alone.
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        gate = None
        if config.fixed_alpha is None:
            gate = GateParameters(**{field.name: arrays[f"gate.{field.name}"] for field in fields(GateParameters)})
        repeat = None
        if any(name.startswith("repeat.") for name in arrays):
            names = [field.name for field in fields(RepeatParameters)]
            repeat = RepeatParameters(
                **{name: arrays[f"repeat.{name}"] for name in names if f"repeat.{name}" in arrays}
            )
        related = None
        if "related.item" in arrays:
            related = RelatedItems(arrays["related.item"], arrays["related.score"])
        rates = arrays["decay_rate_per_day"], arrays["rank_decay_rate"]
        return cls(config, *rates, gate, arrays["prior_weight"], repeat, related)
