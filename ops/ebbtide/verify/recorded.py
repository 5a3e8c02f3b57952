"""Requests to compare answers on: recorded ones from a file, or random ones of every kind.

A file has one `RecommendRequest` in each line, in protobuf's JSON form, as `google.protobuf.json_format` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from google.protobuf import json_format

from ebbtide.export import versions
from ebbtide.export.errors import RepositoryError
from ebbtide.export.head.served import read_item_ids
from ebbtide.export.manifest import read_manifest
from ebbtide.export.samples import Sample, random_samples
from ebbtide.interest import exported, served_models
from ebbtide.interest.contract import Limits
from ebbtide.v1 import Event, NumberRange, RecommendRequest, UnknownItemPolicy
from ebbtide.verify.errors import RecordedRequestError

_MADE_UP_TEXTS = 100
_LONG_TEXT_WORDS = 500
_LONG_TEXT_SHARE = 0.1
_MOST_WORDS = 12
_PLAIN = 7
"""The first requests, the edge cases of `random_samples`, stay as they are."""
_SCALED, _FILTERED, _UNKNOWN, _STANDS_IN, _RANGED, _TWO_BOUNDS = 0.2, 0.2, 0.2, 0.5, 0.3, 0.5
"""Shares of the others."""
_SCALES = (0.0, 0.5, 2.0)
_NOBODYS_ITEM = "an item of no catalog"
_FALLBACK_TEXT = "a quiet film about a lighthouse"
_PROSE = """
space opera robots quiet lighthouse heist wedding winter détective 東京 samurai thriller musical documentary orchestra
recipe bicycle waterproof wireless vintage café garden castle orbit ocean algorithm midnight brother summer camp détente
naïve 1984 2.5 km & co. rock'n'roll e-mail C++ ünïcode 🎬
"""


def read_requests(path: Path) -> list[RecommendRequest]:
    """The requests of a file, in its order; empty lines are left out.

    Raises:
        RecordedRequestError: Naming the line and what is wrong with it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordedRequestError(f"{path}: got {error}; expected JSON Lines in UTF-8") from error
    requests = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                requests.append(json_format.Parse(line, RecommendRequest()))
            except json_format.ParseError as error:
                raise RecordedRequestError(
                    f"{path}, line {number}: got {error}; expected an ebbtide.v1.RecommendRequest in protobuf's JSON"
                ) from error
    if not requests:
        raise RecordedRequestError(f"{path}: got no request; expected one in each line")
    return requests


def write_requests(path: Path, requests: Iterable[RecommendRequest]) -> None:
    """Writes requests so that `read_requests` reads them back."""
    with path.open("w", encoding="utf-8") as file:
        for request in requests:
            content = json_format.MessageToDict(request, preserving_proto_field_name=True)
            file.write(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")


def random_requests(
    repository: Path, version: int, count: int, seed: int = 0, *, texts: Sequence[str] = ()
) -> list[RecommendRequest]:
    """Requests of every kind over the catalog of an export: empty, longest, with texts, weights, exclusions, an alpha.

    Args:
        repository: Written by an export.
        version: Whose catalog and limits.
        count: How many.
        seed: Equal seeds give equal requests.
        texts: To draw every second text from, such as the catalog's; all others are made up, some of them longer than
            an encoder reads.

    Raises:
        RepositoryError: The version is missing or damaged.
    """
    item_ids = catalog_ids(repository, version)
    try:
        config = exported.read_interest_config(repository / served_models.ADAPTIVE_WEIGHTS.name / str(version))
    except (ValueError, TypeError, OSError) as error:
        raise RepositoryError(f"{repository}: version {version}: not a sound export: {error}") from error
    limits, types = config.limits, [one.name for one in config.event_types]
    made_up = _made_up_texts(seed, limits.max_text_bytes)
    pools = [made_up, texts] if texts else [made_up]
    entry = read_manifest(repository).get(str(version), {})
    values, numbers = entry.get("attributes", {}), entry.get("numbers", {})
    requests = [_request(sample, item_ids, pools) for sample in random_samples(len(item_ids), count, limits, seed)]
    random = np.random.default_rng(seed)
    for index, request in enumerate(requests):
        if index >= _PLAIN:
            _add_wishes(request, random, values, _spare_events(request, limits))
            if numbers:
                _add_range(request, random, numbers)
        if types and index % 2:
            for event in (*request.events, *request.history, *request.current):
                event.event_type = str(random.choice(types))
    return requests


def catalog_ids(repository: Path, version: int) -> list[str]:
    """The item ids of an export, in catalog order, as its scoring head answers with them.

    Raises:
        RepositoryError: The version is missing or damaged.
    """
    versions.require_versions(repository, [version])
    return read_item_ids(repository / served_models.SCORING_HEAD.name / str(version))


def _request(sample: Sample, item_ids: Sequence[str], pools: Sequence[Sequence[str]]) -> RecommendRequest:
    subjects = [Event(item_id=item_ids[item]) for item in sample.item]
    for text in sample.text:
        pool = pools[text % len(pools)]
        subjects.append(Event(text=pool[text % len(pool)]))
    request = RecommendRequest(exclude_item_ids=[item_ids[item] for item in sample.exclude])
    request.now.FromMilliseconds(sample.now_ms)
    for index, event in enumerate(subjects):
        event.time.FromMilliseconds(int(sample.time_ms[index]))
        if sample.weight is not None:
            event.weight = float(sample.weight[index])
        if sample.is_current is None:
            request.events.append(event)
        else:
            (request.current if sample.is_current[index] else request.history).append(event)
    if sample.alpha is not None:
        request.alpha = sample.alpha
    if sample.exclude_seen is not None:
        request.exclude_seen = sample.exclude_seen
    return request


def _spare_events(request: RecommendRequest, limits: Limits) -> int:
    """Events that the request may still take."""
    return limits.max_events - len(request.events) - len(request.history) - len(request.current)


def _add_wishes(
    request: RecommendRequest, random: np.random.Generator, values: Mapping[str, Sequence[str]], spare: int
) -> None:
    """Adds what few requests have: a decay scale, a filter, an event of an unknown item, and a text for it."""
    if random.random() < _SCALED:
        request.decay_scale = float(random.choice(_SCALES))
    if values and random.random() < _FILTERED:
        column = str(random.choice(list(values)))
        request.allow.add(column=column, values=sorted(set(random.choice(values[column], 2).tolist())))
    events = request.events or request.history or request.current
    if events and spare and random.random() < _UNKNOWN:
        event = Event(item_id=_NOBODYS_ITEM, time=events[0].time, weight=events[0].weight)
        # Another timestamp than the others: events of one timestamp keep the order in which they are given.
        event.time.FromMilliseconds(events[0].time.ToMilliseconds() - 1)
        if not events[0].HasField("weight"):
            event.ClearField("weight")
        if random.random() < _STANDS_IN:
            event.fallback_text = _FALLBACK_TEXT
        else:
            request.unknown_items = UnknownItemPolicy.UNKNOWN_ITEM_POLICY_IGNORE
        events.append(event)


def _add_range(request: RecommendRequest, random: np.random.Generator, numbers: Mapping[str, Sequence[float]]) -> None:
    """Adds a range of a numeric column to some requests: with one bound or two, with it or without."""
    if random.random() < _RANGED:
        column = str(random.choice(list(numbers)))
        least, most = numbers[column]
        lower, upper = np.sort(random.uniform(least, most, 2)).tolist()
        bounds = {str(random.choice(["at_least", "above"])): lower, str(random.choice(["at_most", "below"])): upper}
        given = list(bounds) if random.random() < _TWO_BOUNDS else [str(random.choice(list(bounds)))]
        request.allow.add(column=column, range=NumberRange(**{name: bounds[name] for name in given}))


def _made_up_texts(seed: int, max_bytes: int) -> list[str]:
    random = np.random.default_rng(seed)
    vocabulary = _PROSE.split()
    texts = []
    for _ in range(_MADE_UP_TEXTS):
        words = _LONG_TEXT_WORDS if random.random() < _LONG_TEXT_SHARE else int(random.integers(1, _MOST_WORDS + 1))
        text = " ".join(random.choice(vocabulary, words))
        texts.append(text.encode()[:max_bytes].decode(errors="ignore").strip())
    return texts
