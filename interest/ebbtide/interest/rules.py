"""Rules of the house: what boosts, buries and pins items in lists, by item or attribute value, with a time span.

A boost adds to the score of an item, in log odds, and a bury takes off. Both reach every scoring head as score
adjustments, so at most `MOST_RULED_ITEMS` items may be named by all rules together. A pin gives a position of the list
to the best of its items; whoever merges the lists does that, from what `Ruled.told` says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest.attributes import AttributeIndex
from ebbtide.interest.item_ids import ItemIds
from ebbtide.interest.live_prior import LivePrior
from ebbtide.interest.lookup import UNKNOWN, ItemIndex
from ebbtide.interest.new_items import NewItems

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MOST_RULES = 64
MOST_RULED_ITEMS = 4096
"""Items that all rules together may name."""
BOOST, BURY, PIN = "boost", "bury", "pin"
MOVED, PINNED = "moved", "pinned"
"""Fields of what an answer is told of its rules."""
_ALWAYS = (-(2**63), 2**63 - 1)


@dataclass(frozen=True)
class Rule:
    """One rule."""

    name: str
    item_key: tuple[int, ...]
    attribute_key: tuple[int, ...]
    """It is about items with one of these values too."""
    gain: float
    """What it adds to scores, log odds; 0 for a pin."""
    position: int
    """Of a pin in the list, from 1; 0 for no pin."""
    from_ms: int
    until_ms: int
    """Unix milliseconds; the rule holds for a `now` from the first, and before the second."""


def parse_rules(document: bytes) -> list[Rule]:
    """Rules from a JSON list of objects.

    Raises:
        ValueError: They are not usable; the message names the rule, the value and what is expected.
    """
    found: Any = json.loads(document)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError("rules: got something else; expected a list of objects")
    rules = [_parsed(one) for one in found]
    if len({rule.name for rule in rules}) != len(rules):
        raise ValueError("rules: got a name twice; expected each once")
    return rules


def _parsed(found: dict[str, Any]) -> Rule:
    name = found.get("name")
    if not isinstance(name, str) or not 1 <= len(name.encode()) <= 256:
        raise ValueError(f"rule {name!r}: got this name; expected a text of 1 to 256 bytes")
    kind, amount = found.get("kind"), found.get("amount", 0)
    keys, values = found.get("item_keys", []), found.get("attribute_keys", [])
    start, stop = found.get("from_ms"), found.get("until_ms")
    numbers = [*keys, *values, *(time for time in (start, stop) if time is not None)]
    if not all(isinstance(number, int) and -(2**63) <= number < 2**63 for number in numbers):
        raise ValueError(f"rule {name!r}: got a key or a time that is no 64-bit integer")
    if not keys and not values:
        raise ValueError(f"rule {name!r}: got no item; expected items or attribute values")
    if kind in (BOOST, BURY):
        if not isinstance(amount, (int, float)) or not 0 < amount <= 100:
            raise ValueError(f"rule {name!r}: got {kind} {amount!r}; expected a number above 0, at most 100")
    elif kind != PIN or not isinstance(amount, int) or not 1 <= amount <= 1000:
        raise ValueError(f"rule {name!r}: got {kind} {amount!r}; expected {BOOST}, {BURY}, or {PIN} with a position")
    return Rule(
        name,
        tuple(keys),
        tuple(values),
        {BOOST: float(amount), BURY: -float(amount)}.get(str(kind), 0.0),
        int(amount) if kind == PIN else 0,
        _ALWAYS[0] if start is None else start,
        _ALWAYS[1] if stop is None else stop,
    )


@dataclass(frozen=True)
class RuleTables:
    """What an export has for rules."""

    words: Ints
    """``[items, words]``: bits of attribute values; no rows in an export without attributes."""
    factors: Floats
    """``[items, d + p]``."""
    ids: ItemIds


def matching(
    rule: Rule, index: ItemIndex, attributes: AttributeIndex, words: Ints, new: NewItems | None = None
) -> Ints:
    """The catalog indices of the items that a rule is about, ascending.

    Args:
        rule: The rule.
        index: Of the items that are known.
        attributes: Of the export.
        words: ``[items, words]``: see `RuleTables`.
        new: Items that were added.
    """
    found = [index.find(np.array(rule.item_key, dtype=np.int64))]
    value = attributes.find(np.array(rule.attribute_key, dtype=np.int64))
    value = value[value != UNKNOWN]
    if value.size:
        wanted = attributes.bits_of(value)
        for word in np.flatnonzero(wanted).tolist():
            if words.shape[0]:
                found.append(np.flatnonzero(words[:, word] & wanted[word]))
            if new is not None:
                found.append(new.index[np.flatnonzero(new.words[:, word] & wanted[word])])
    items: Ints = np.unique(np.concatenate(found))
    known: Ints = items[items != UNKNOWN]
    return known


@dataclass(frozen=True)
class RuleBook:
    """The rules, as one served model knows them at a moment."""

    rules: tuple[Rule, ...]
    item: Ints
    """``[ruled items]``: catalog indices, ascending."""
    member: Bools
    """``[rules, ruled items]``: which rule is about which item."""
    factors: Floats
    """``[ruled items of the export, d + p]``."""
    words: Ints
    """``[ruled items, words]``."""
    item_id: npt.NDArray[np.object_]
    """``[ruled items]``: UTF-8."""
    left_out: tuple[str, ...]
    """Names of rules that had no room."""

    @classmethod
    def of(
        cls,
        rules: Sequence[Rule],
        index: ItemIndex,
        attributes: AttributeIndex,
        tables: RuleTables,
        new: NewItems | None,
    ) -> RuleBook | None:
        """The rules about items that are known; None for none.

        Args:
            rules: In order; those that would go beyond `MOST_RULED_ITEMS` are left out.
            index: Of the items that are known.
            attributes: Of the export.
            tables: Of the export.
            new: Items that were added.
        """
        kept: list[tuple[Rule, Ints]] = []
        left_out: list[str] = []
        item = np.empty(0, dtype=np.int64)
        for rule in rules:
            of_rule = matching(rule, index, attributes, tables.words, new)
            union = np.union1d(item, of_rule)
            if union.size > MOST_RULED_ITEMS:
                left_out.append(rule.name)
            elif of_rule.size:
                item = union
                kept.append((rule, of_rule))
        if not kept and not left_out:
            return None
        first = tables.factors.shape[0]
        frozen, row = item[item < first], np.empty(0, dtype=np.int64)
        words = tables.words[frozen] if tables.words.shape[0] else attributes.everything(frozen.size)
        item_id = tables.ids.take(frozen)
        if new is not None:
            row = new.row(item[item >= first])
            words = np.concatenate([words, new.words[row]])
            item_id = np.concatenate([item_id, new.item_id[row]])
        member = np.zeros((len(kept), item.size), dtype=np.bool_)
        for number, (_, of_rule) in enumerate(kept):
            member[number, item.searchsorted(of_rule)] = True
        factors = np.ascontiguousarray(tables.factors[frozen])
        return cls(tuple(rule for rule, _ in kept), item, member, factors, words, item_id, tuple(left_out))

    def position(self, item: Ints) -> Ints:
        """Where catalog indices are among the ruled items, `UNKNOWN` for others, ``[items asked]``."""
        found = np.minimum(self.item.searchsorted(item), self.item.size - 1)
        return np.where(self.item[found] == item, found, UNKNOWN)

    def ruled(
        self,
        now_ms: Ints,
        is_left_out: Bools,
        interest: Floats,
        adjustments: tuple[Ints, Floats],
        live: LivePrior | None,
        new: NewItems | None,
    ) -> Ruled | None:
        """What the rules mean for the users of a batch; None where none holds.

        Args:
            now_ms: ``[users]``.
            is_left_out: ``[users]``: those whose answers have no rules.
            interest: ``[users, d + p]``.
            adjustments: Catalog indices and scores, ``[users, adjustments]`` each.
            live: The live prior of items of the export.
            new: Items that were added.
        """
        spans = np.array([(rule.from_ms, rule.until_ms) for rule in self.rules], dtype=np.int64).reshape(-1, 2)
        holds = (spans[:, 0] <= now_ms[:, None]) & (now_ms[:, None] < spans[:, 1]) & ~is_left_out[:, None]
        if not self.rules or not holds.any():
            return None
        frozen = self.factors.shape[0]
        score = interest @ self.factors.T
        if live is not None:
            score += live.gains(self.item[:frozen])
        if new is not None:
            score = np.concatenate([score, new.scores(interest)[:, new.row(self.item[frozen:])]], axis=1)
        # A score of its own, such as a repeat score, replaces that from the factors; exclusions come last.
        adjust_item, adjust_score = adjustments
        user, column = np.nonzero(adjust_score)
        position = self.position(adjust_item[user, column])
        there = position != UNKNOWN
        user, column, position = user[there], column[there], position[there]
        value = adjust_score[user, column]
        for chosen in (np.isfinite(value), ~np.isfinite(value)):
            score[user[chosen], position[chosen]] = value[chosen]
        gain = holds.astype(np.float32) @ (
            self.member * np.array([rule.gain for rule in self.rules], dtype=np.float32)[:, None]
        )
        return Ruled(self, holds, gain, score + gain)


@dataclass(frozen=True)
class Ruled:
    """What the rules mean for the users of one batch."""

    book: RuleBook
    holds: Bools
    """``[users, rules]``."""
    gain: Floats
    """``[users, ruled items]``: what the rules add to their scores."""
    score: Floats
    """``[users, ruled items]``: with the gains; minus infinity for an item that the user may not get."""

    def forbid(self, forbidden: Bools) -> None:
        """Notes items that users may not get.

        Args:
            forbidden: ``[users, ruled items]``, or of another shape that becomes it.
        """
        self.score[np.broadcast_to(forbidden, self.score.shape)] = -np.inf

    def adjust(self, adjustments: tuple[Ints, Floats]) -> tuple[Ints, Floats]:
        """Score adjustments of a batch with those of the rules behind them, for items of the export.

        Args:
            adjustments: Catalog indices and scores, ``[users, adjustments]`` each; what is replaced is set to 0.
        """
        adjust_item, adjust_score = adjustments
        frozen = self.book.factors.shape[0]
        changed = self.gain[:, :frozen] != 0
        if not changed.any():
            return adjustments
        user, column = np.nonzero((adjust_score != 0) & np.isfinite(adjust_score))
        position = self.book.position(adjust_item[user, column])
        there = (position != UNKNOWN) & (position < frozen)
        user, column, position = user[there], column[there], position[there]
        replaced = changed[user, position]
        adjust_score[user[replaced], column[replaced]] = 0
        score = np.where(self.score[:, :frozen] == 0, np.finfo(np.float32).tiny, self.score[:, :frozen])
        more = np.broadcast_to(self.book.item[:frozen], changed.shape)
        return (
            np.concatenate([adjust_item, more], axis=1),
            np.concatenate([adjust_score, np.where(changed, score, np.float32(0))], axis=1),
        )

    def gains_of_new(self, new: NewItems) -> Floats:
        """What the rules add to the scores of all new items, ``[users, new items]``."""
        frozen = self.book.factors.shape[0]
        gains = np.zeros((self.gain.shape[0], new.index.size), dtype=np.float32)
        gains[:, new.row(self.book.item[frozen:])] = self.gain[:, frozen:]
        return gains

    def told(self, most: int) -> npt.NDArray[np.object_]:
        """What whoever merges the lists has to know, ``[users, 1]``: a JSON object, or nothing where no rule holds.

        Its `MOVED` has the names of rules by the id of each item that they moved, for the best of these; its `PINNED`
        the position, id, score and rule of each pin.

        Args:
            most: Items of a list.
        """
        told = np.full((self.holds.shape[0], 1), b"", dtype=np.object_)
        pins = np.array([rule.position > 0 for rule in self.book.rules])
        for user in np.flatnonzero(self.holds.any(axis=1)).tolist():
            told[user, 0] = json.dumps(self._told(user, pins, most), ensure_ascii=False).encode()
        return told

    def _told(self, user: int, pins: Bools, most: int) -> dict[str, Any]:
        book, score, holds = self.book, self.score[user], self.holds[user]
        moved = np.flatnonzero((self.gain[user] != 0) & np.isfinite(score))
        if moved.size > most:
            moved = moved[np.argpartition(-score[moved], most - 1)[:most]]
        names = {
            book.item_id[item].decode(): [book.rules[rule].name for rule in np.flatnonzero(holds & ~pins & about)]
            for item, about in zip(moved.tolist(), book.member[:, moved].T, strict=True)
        }
        pinned: list[tuple[int, str, float, str]] = []
        taken = np.isneginf(score)
        for number in np.flatnonzero(holds & pins).tolist():
            free = np.flatnonzero(book.member[number] & ~taken)
            if free.size:
                best = int(free[score[free].argmax()])
                taken[best] = True
                rule = book.rules[number]
                pinned.append((rule.position, book.item_id[best].decode(), float(score[best]), rule.name))
        return {MOVED: names, PINNED: sorted(pinned, key=lambda pin: pin[0])}
