"""Warm-up requests: realistic requests of several sizes, which Triton runs through each model at load.

Triton reads them from the model's folder: one ``model_warmup`` entry in the config for each request, and one file for
each tensor. All versions of a model run the same warm-up requests, and the load fails if one of them fails. So they use
only what every version in the folder can serve: items that are in all catalogs, and the smallest limits, catalog and
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ebbtide.export import versions
from ebbtide.export.configs import data_type
from ebbtide.export.errors import RepositoryError, VersionError
from ebbtide.export.facts import smallest_limits
from ebbtide.export.files import write_bytes
from ebbtide.export.inprocess import InProcessPipeline, tensors_of
from ebbtide.export.sources import load_source
from ebbtide.export.tokenizer import TOKENIZER_FILE
from ebbtide.interest import contract, exported, served_models
from ebbtide.interest.checks import Request
from ebbtide.interest.contract import Limits
from ebbtide.interest.errors import RequestError
from ebbtide.interest.served_models import Kind, Model
from ebbtide.interest.tensorfile import read_tensors

Arrays = Mapping[str, npt.NDArray[Any]]
Ints = npt.NDArray[np.int64]

WARMUP_FOLDER = "warmup"
"""The subfolder of a model's folder in which Triton looks for warm-up tensors."""
_NOW_MS = 1_700_000_000_000
_HISTORY_EVENTS, _SESSION_EVENTS = 50, 10
_SESSION_AGES_MS = (1_000, 1_800_000)
_HISTORY_AGES_MS = (86_400_000, 5 * 365 * 86_400_000)
_SHORT_TEXT = b"a"
_TYPICAL = "typical"
_TYPICAL_CANDIDATES = 50
_TYPICAL_TEXTS = 8


@dataclass(frozen=True)
class Sample:
    """One warm-up request of a model."""

    name: str
    arrays: Arrays
    """Tensors by name; without the batch dimension if the model batches."""
    batched: bool = False
    """Whether to repeat it to the model's largest batch, so that memory is allocated at load and not under traffic."""


@dataclass(frozen=True)
class CommonGround:
    """Items, limits and models that all versions in a folder can serve."""

    keys: Ints
    """Item keys that are in every catalog, ascending; at least one."""
    limits: Limits
    """The smallest value of each limit."""
    in_process: InProcessPipeline
    """The version with the smallest catalog; its catalog indices are valid in the other catalogs too."""
    event_vectors: npt.NDArray[np.float32]
    """``[items, d]``, the event vectors of that catalog."""
    tokenizer: Path
    """The version folder of the tokenizer with the smallest vocabulary; the other encoders know its token ids too."""
    max_tokens: int
    """The smallest bound on the tokens of a text."""


def common_ground(repositories: Mapping[int, Path]) -> CommonGround:
    """Reads the items, limits and models that versions have in common.

    Args:
        repositories: The folder that holds each version.

    Raises:
        VersionError: No item is in all catalogs.
        RepositoryError: A version is missing or damaged.
    """
    weights = [folder / served_models.ADAPTIVE_WEIGHTS.name / str(number) for number, folder in repositories.items()]
    tokenizers = [folder / served_models.TOKENIZER.name / str(number) for number, folder in repositories.items()]
    try:
        tables = [read_tensors(folder / exported.CATALOG_FILE)[0] for folder in weights]
        keys = [np.asarray(table[exported.SORTED_KEY]) for table in tables]
        limits = [exported.read_interest_config(folder).limits for folder in weights]
        smallest = min(range(len(keys)), key=lambda index: keys[index].size)
        number, folder = list(repositories.items())[smallest]
        vocabularies = [_vocabulary(folder) for folder in tokenizers]
    except (ValueError, KeyError, OSError) as error:
        raise RepositoryError(f"versions {sorted(repositories)}: got {error}; expected undamaged exports") from error
    common = reduce(np.intersect1d, keys)
    if not common.size:
        raise VersionError(
            f"versions {sorted(repositories)}: got no item that is in all catalogs; expected at least one, since "
            "all versions of a model run the same warm-up requests: export to another folder"
        )
    return CommonGround(
        keys=common,
        limits=smallest_limits(limits),
        in_process=InProcessPipeline(folder, number),
        event_vectors=np.asarray(tables[smallest][exported.EVENT_VECTORS]),
        tokenizer=min(zip(vocabularies, tokenizers, strict=True))[1],
        max_tokens=min(max_tokens for _, max_tokens in vocabularies),
    )


def write_warmup(repository: Path, ground: CommonGround, texts: Sequence[str]) -> None:
    """Writes the warm-up requests of every model but the ensembles and those that need a store, into the configs too.

    Earlier warm-up requests are deleted.

    Args:
        repository: The exported folder.
        ground: What its versions have in common.
        texts: Texts of a catalog.
    """
    for name, samples in warmup_samples(ground, texts).items():
        model, folder = ground.in_process.models[name], repository / name / WARMUP_FOLDER
        folder.mkdir(exist_ok=True)
        written = {folder / _file(sample, tensor) for sample in samples for tensor in sample.arrays}
        for sample in samples:
            for tensor, array in sample.arrays.items():
                write_bytes(folder / _file(sample, tensor), _raw(array))
        versions.rewrite_configs(repository / name, lambda config: _name_samples(config, model, samples))  # noqa: B023
        for path in set(folder.iterdir()) - written:
            path.unlink()


def warmup_samples(ground: CommonGround, texts: Sequence[str]) -> dict[str, tuple[Sample, ...]]:
    """The warm-up requests of each model that an ensemble runs: the smallest one, a typical one and the largest one.

    The ensembles run step by step; the requests of a model come from the first ensemble that has it as a step.

    Args:
        ground: What the versions have in common.
        texts: Texts of a catalog.
    """
    pipeline = ground.in_process
    found: dict[str, list[Sample]] = {}
    for ensemble in pipeline.models.values():
        if ensemble.kind is not Kind.ENSEMBLE or pipeline.needs_store(ensemble):
            continue
        has_texts = contract.TEXT.name in {tensor.name for tensor in ensemble.inputs}
        of_ensemble: dict[str, list[Sample]] = {name: [] for name in ensemble.steps if name not in found}
        for name, tensors in _with_texts(ground, texts) if has_texts else _without_texts(ground, ensemble):
            for model, arrays in _inputs_of_steps(pipeline, ensemble, tensors):
                if model.name in of_ensemble:
                    batched = model.batching and name == _TYPICAL
                    of_ensemble[model.name].append(Sample(name, arrays, batched))
        found.update(of_ensemble)
    return {name: tuple(found[name]) for name in pipeline.models if name in found}


def _inputs_of_steps(
    pipeline: InProcessPipeline, ensemble: Model, tensors: Mapping[str, npt.NDArray[Any]]
) -> Iterator[tuple[Model, Arrays]]:
    """The inputs of each step of an ensemble for one request.

    Args:
        pipeline: Runs the steps whose outputs other steps read.
        ensemble: The ensemble's entry in the contract.
        tensors: The tensors of the request, and the outputs of steps to skip.
    """
    given = {tensor.name for tensor in ensemble.inputs}
    values = dict(tensors)
    steps = [pipeline.models[name] for name in ensemble.steps]
    for position, step in enumerate(steps):
        arrays = {tensor.name: values[tensor.name] for tensor in step.inputs if tensor.name in given & values.keys()}
        yield step, {name: array[0] for name, array in arrays.items()} if step.batching else arrays
        given.update(tensor.name for tensor in step.outputs)
        read = {tensor.name for later in steps[position + 1 :] for tensor in later.inputs}
        if any(tensor.name in read and tensor.name not in values for tensor in step.outputs):
            outputs = pipeline.run(step.name, values)
            if isinstance(outputs, RequestError):
                raise outputs
            values = {**outputs, **values}


def _without_texts(ground: CommonGround, ensemble: Model) -> Iterator[tuple[str, Arrays]]:
    """The tensors of requests without texts, as the ensemble takes them."""
    counts = (1, _TYPICAL_CANDIDATES, ground.limits.max_candidates)
    for (name, request), count in zip(_users(ground), counts, strict=True):
        yield name, tensors_of(replace(request, candidate_item=_items(ground, count)), ensemble)


def _with_texts(ground: CommonGround, texts: Sequence[str]) -> Iterator[tuple[str, Arrays]]:
    """The tensors of requests with texts, and those that tokenizer and encoder would give."""
    cut = load_source(served_models.TOKENIZER.name, "text_tokens").TextTokens(ground.tokenizer, ground.limits)
    counts = (1, _TYPICAL_CANDIDATES, ground.limits.max_candidates)
    for (name, request), (_, some), count in zip(_users_with_texts(ground), _texts(ground, texts), counts, strict=True):
        tokens = cut.encode(some.tolist())
        yield (
            name,
            {
                **request.tensors(),
                contract.CANDIDATE_ITEM.name: _items(ground, count)[None],
                contract.TEXT.name: some,
                **{key: array[:, : ground.max_tokens] for key, array in tokens._asdict().items()},
            },
        )


def _users(ground: CommonGround) -> Iterator[tuple[str, Request]]:
    limits = ground.limits
    yield "no_events", _request(ground, history=0, session=0)
    yield _TYPICAL, _request(ground, *_typical(limits.max_events))
    session = min(_SESSION_EVENTS, limits.max_events)
    longest = _request(ground, limits.max_events - session, session)
    events = limits.max_events
    yield (
        "longest",
        Request(
            event_item=longest.event_item,
            event_time=longest.event_time,
            now=longest.now,
            event_is_current=np.arange(events) >= events - session,
            event_weight=np.ones(events, dtype=np.float32),
            alpha=np.array([0.5], dtype=np.float32),
            exclude_item=_items(ground, limits.max_exclude_items),
            exclude_seen=np.array([True]),
            decay_scale=np.array([1], dtype=np.float32),
            ignore_unknown=np.array([False]),
        ),
    )


def _users_with_texts(ground: CommonGround) -> Iterator[tuple[str, Request]]:
    """Requests whose last events are texts."""
    limits = ground.limits
    most = min(limits.max_texts, limits.max_events)
    for name, events, texts in (
        ("shortest", 1, 1),
        (_TYPICAL, sum(_typical(limits.max_events)), min(_TYPICAL_TEXTS, most, sum(_typical(limits.max_events)))),
        ("longest", limits.max_events, most),
    ):
        session = min(_SESSION_EVENTS, events)
        whole = _request(ground, events - session, session)
        yield (
            name,
            Request(
                event_item=whole.event_item[: events - texts],
                event_time=whole.event_time,
                now=whole.now,
                text_vector=ground.event_vectors[np.arange(texts) % len(ground.event_vectors)],
            ),
        )


def _typical(max_events: int) -> tuple[int, int]:
    """Number of history events and of session events in a typical request."""
    session = min(_SESSION_EVENTS, max_events)
    return min(_HISTORY_EVENTS, max_events - session), session


def _request(ground: CommonGround, history: int, session: int) -> Request:
    spans = ((_HISTORY_AGES_MS, history), (_SESSION_AGES_MS, session))
    ages_ms = np.concatenate([np.geomspace(*bounds, count)[::-1] for bounds, count in spans])
    return Request(
        event_item=_items(ground, history + session),
        event_time=_NOW_MS - ages_ms.astype(np.int64),
        now=np.array([_NOW_MS], dtype=np.int64),
    )


def _items(ground: CommonGround, count: int) -> Ints:
    """Keys spread over the catalog; they repeat if the catalog has fewer."""
    step = max(1, ground.keys.size // max(1, count))
    keys: Ints = ground.keys[np.arange(count) * step % ground.keys.size]
    return keys


def _texts(ground: CommonGround, texts: Sequence[str]) -> Iterator[tuple[str, npt.NDArray[np.object_]]]:
    """Texts of one request: one letter, some of the catalog, or one with the largest number of tokens."""
    most = ground.limits.max_text_bytes
    fitting = sorted((text.encode() for text in texts if text.strip() and len(text.encode()) <= most), key=len)
    middle = fitting[len(fitting) // 2] if fitting else _SHORT_TEXT
    # Each repeat is at least one token.
    repeats = min(ground.max_tokens, most // (len(middle) + 1))
    long = b" ".join([middle] * max(1, repeats))
    count = min(_TYPICAL_TEXTS, ground.limits.max_texts)
    for name, chosen in (("shortest", [_SHORT_TEXT]), (_TYPICAL, [middle] * count), ("longest", [long])):
        array = np.empty(len(chosen), dtype=np.object_)
        array[:] = chosen
        yield name, array


def _name_samples(config: Any, model: Model, samples: Iterable[Sample]) -> None:  # noqa: ANN401 - no types
    del config.model_warmup[:]
    tensors = {tensor.name: tensor for tensor in model.inputs}
    for sample in samples:
        entry = config.model_warmup.add(name=sample.name, batch_size=config.max_batch_size if sample.batched else 1)
        for name, array in sample.arrays.items():
            value = entry.inputs[name]
            value.data_type = data_type(tensors[name])
            value.dims.extend(array.shape)
            value.input_data_file = _file(sample, name)


def _vocabulary(folder: Path) -> tuple[int, int]:
    """The size of a tokenizer's vocabulary, and its largest number of tokens of one text."""
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {path}")
    tokenizer = Tokenizer.from_file(str(path))
    if tokenizer.truncation is None:
        raise ValueError(f"{path} sets no truncation")
    return tokenizer.get_vocab_size(), int(tokenizer.truncation["max_length"])


def _file(sample: Sample, tensor: str) -> str:
    return f"{sample.name}.{tensor}.bin"


def _raw(array: npt.NDArray[Any]) -> bytes:
    """The raw tensor format of KServe: little-endian numbers; each text is preceded by its length in 4 bytes."""
    if array.dtype == np.object_:
        # ONNX Runtime gives texts, everything else bytes.
        texts = (text.encode() if isinstance(text, str) else text for text in array.ravel())
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
