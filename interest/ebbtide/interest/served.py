"""Common code of the served Python models: loads the files of one export, reads tensors, answers each request.

This is the only module of `ebbtide.interest` that needs Triton's `triton_python_backend_utils`. Only the models' code
imports it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from ebbtide.interest import contract, meters, served_models
from ebbtide.interest.batch import run_guarded
from ebbtide.interest.checks import RequestTensors
from ebbtide.interest.errors import STORE_FAILED, RequestError
from ebbtide.interest.exported import read_factors, read_interest_config, read_popularity, require_one_export
from ebbtide.interest.items_reader import DEFAULT_ITEMS_SECONDS, ITEMS_VARIABLE, ItemsReader
from ebbtide.interest.live_counts import PopularityWriter
from ebbtide.interest.meters import Family, Gauge, Meters, Series
from ebbtide.interest.periodic import Periodic
from ebbtide.interest.pipeline import InterestPipeline
from ebbtide.interest.popularity import CountedPopularity
from ebbtide.interest.popularity_reader import PopularityReader, popularity_seconds, seconds_of
from ebbtide.interest.rules import RuleTables
from ebbtide.interest.users import Users
from ebbtide.store import StoreError, store_from_environment

Arrays = Mapping[str, npt.NDArray[Any]]
Answer = Arrays | Exception
T = TypeVar("T")
_MARK = np.ones((1, 1), dtype=np.bool_)
_METRICS_SECONDS = 2.0
"""Between two times that counts are handed on; Prometheus usually asks every 15 s or more."""
_WRITE_SECONDS = 1.0
"""Between two writes of the live counts, unless writing takes long."""
_HASHES_TOO = {
    served_models.ADAPTIVE_WEIGHTS.name: (served_models.SCORING_HEAD.name,),
    served_models.TOKENIZER.name: (served_models.ENCODER.name,),
}
"""An ONNX model cannot hash its own files: the Python model whose outputs go to it does."""
_LONGEST_WRITE_PAUSE = 0.8
"""Of the seconds between two reads: what is observed is read elsewhere within twice that time."""


class Scored(Enum):
    """Which items a model scores."""

    ALL = "all"
    NEW = "new"
    """Those that were added after the export; it is told the live prior of others."""
    NONE = "none"


class Following:
    """The threads that keep a model up to date."""

    def __init__(self, threads: Sequence[Periodic]) -> None:
        """Takes them over."""
        self._threads = threads

    def close(self) -> None:
        """Ends them."""
        for thread in self._threads:
            thread.close()


class ServedModel:
    """The interface between a Python model and Triton."""

    def __init__(self, args: Mapping[str, str]) -> None:
        """Reads the arguments that Triton passes to `initialize`."""
        self.name = args["model_name"]
        self._folder = Path(args["model_repository"])
        self._version = args["model_version"]
        # One instance hashes the files at load; the others need not repeat it.
        is_first = args["model_instance_name"].endswith("_0")
        self._unchecked: Collection[str] | None = {self.name, *_HASHES_TOO.get(self.name, ())} if is_first else ()
        # The order of the contract, independent of the order in the request.
        model = served_models.MODELS[self.name]
        self._meters: Meters | None = None
        self._outputs = [tensor.name for tensor in model.outputs]
        self._needed = [tensor for tensor in model.inputs if not tensor.optional]
        self._needed_for = served_models.needed_inputs(model, served_models.MODELS)

    def load(self, read: Callable[[Path], T]) -> T:
        """Checks the version folder and reads it with `read`.

        Raises:
            TritonModelException: A file is damaged, or files or other models in the repository belong to another
                export.
        """
        folder = self._folder / self._version
        try:
            if self._unchecked is not None:
                fingerprint = read_interest_config(folder).fingerprint
                require_one_export(self._folder.parent, int(self._version), fingerprint, hashed=self._unchecked)
                self._unchecked = None
            return read(folder)
        except Exception as error:
            raise pb_utils.TritonModelException(f"unable to load model '{self.name}': {error}") from None

    def users(self) -> Users:
        """The states of the users, in the store that the server's environment names.

        The store need not answer yet: then the server's log has a warning.

        Raises:
            TritonModelException: The address or a setting of the store is not usable.
        """
        try:
            store = store_from_environment()
            users = Users(store, read_interest_config(self._folder / self._version).states)
        except Exception as error:
            raise pb_utils.TritonModelException(f"unable to load model '{self.name}': {error}") from None
        if users.waits_for is not None:
            pb_utils.Logger.log_warn(f"{self.name}: loaded without the store of the users' states: {users.waits_for}")
        return users

    def measure(self, *families: Family) -> tuple[Meters | None, Measuring | None]:
        """What counts answers for the server's metrics page, and what hands the counts on; None where they are off.

        Call it last in `initialize`: a model that fails to load afterwards could not close it.

        Args:
            families: What the model counts beside `meters.FAILED`.

        Raises:
            TritonModelException: The setting is not usable.
        """
        if not self.load(lambda _: meters.is_on(os.environ)):
            return None, None
        self._meters = Meters((*families, meters.FAILED))
        # With the process: Triton frees a series when the first of the processes that share it is unloaded, and ends
        # when another one writes to it (triton-inference-server/server, issue 8663).
        labels = {"model": self.name, "version": self._version, "process": str(os.getpid())}
        return self._meters, Measuring(self._meters, labels, self._warn_of_metrics)

    def follow(
        self, pipeline: InterestPipeline, users: Users, *, scores: Scored, rules: RuleTables | None = None
    ) -> Following:
        """Keeps the items of a pipeline and its popularity prior up to date, in threads.

        Args:
            pipeline: Answers with what is newest.
            users: Of the export.
            scores: Which items the model scores, and so needs a prior of.
            rules: Of the export, if the model's answers are lists, which rules of the house change.

        Raises:
            TritonModelException: A file of the export or a setting is not usable.
        """
        if not users.keeps_states:
            return Following([])
        found: list[Periodic] = []
        counted = factors = None
        if scores is not Scored.NONE:
            counted, seconds = self._popularity()
            factors = self.load(lambda folder: read_factors(folder, pipeline.parameters.config))
            if counted is not None and seconds is not None:
                reader = PopularityReader(pipeline, users, counted, factors)
                # Scores of the export's items come to the head of candidates with the score adjustments.
                wanted = scores is Scored.ALL
                poll = partial(self._poll_if, reader, lambda: wanted or pipeline.items.new is not None)
                found.append(Periodic(poll, seconds, self._warn))
        items_s = self.load(lambda _: seconds_of(ITEMS_VARIABLE, os.environ, DEFAULT_ITEMS_SECONDS))
        if items_s is not None:
            reader_of_items = ItemsReader(pipeline, users, counted, factors, rules)
            found.append(Periodic(partial(self._poll_items, reader_of_items), items_s, self._warn_of_items))
        return Following(found)

    def count_popularity(self, users: Users) -> tuple[PopularityWriter | None, Periodic | None]:
        """What counts observed events for the prior, and the thread that writes the counts; None if nobody follows.

        Raises:
            TritonModelException: A file of the export or a setting is not usable.
        """
        counted, seconds = self._popularity()
        if counted is None or seconds is None or not users.keeps_states:
            return None, None
        writer = PopularityWriter(users, counted)
        longest_s = _LONGEST_WRITE_PAUSE * seconds
        return writer, Periodic(writer.flush, min(seconds, _WRITE_SECONDS), self._warn, longest_s)

    def _popularity(self) -> tuple[CountedPopularity | None, float | None]:
        return self.load(
            lambda folder: (read_popularity(folder, read_interest_config(folder)), popularity_seconds(os.environ))
        )

    def _poll_if(self, reader: PopularityReader, is_wanted: Callable[[], bool]) -> None:
        if is_wanted():
            reader.poll()
            self._note_time(meters.POPULARITY_READ)

    def _poll_items(self, reader: ItemsReader) -> None:
        reader.poll()
        self._note_time(meters.ITEMS_READ)

    def _note_time(self, family: Gauge) -> None:
        if self._meters is not None:
            self._meters.set(family, time.time())

    def _warn_of_metrics(self, message: str) -> None:
        pb_utils.Logger.log_warn(f"{self.name}: its metrics wait: {message}")

    def _warn_of_items(self, message: str) -> None:
        pb_utils.Logger.log_warn(f"{self.name}: added items, stock or rules wait: {message}")

    def _warn(self, message: str) -> None:
        pb_utils.Logger.log_warn(f"{self.name}: live popularity waits: {message}")

    def tensors(self, request: Any) -> dict[str, npt.NDArray[Any]]:  # noqa: ANN401 - Triton's own class, which carries no types
        """The inputs of a request, by name; views of the server's memory."""
        return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}

    def answer_all(
        self, requests: Sequence[Any], run: Callable[[Sequence[RequestTensors], frozenset[str]], Sequence[Answer]]
    ) -> list[Any]:
        """Triton's responses to a batch of requests, from one run for the whole batch.

        Requests without a tensor that the model needs are refused here: configs call every input of a Python model
        optional, since Triton itself counts the inputs of a request that may leave some out, and does not look at
        their names.

        Args:
            requests: Triton's request objects.
            run: Computes the answers from the inputs of all requests and the names of the outputs that any of them asks
                for.
        """
        tensors = [self.tensors(request) for request in requests]
        wanted = [frozenset(request.requested_output_names()) for request in requests]
        for one, names in zip(tensors, wanted, strict=True):
            if contract.ADJUST_ITEM.name in names and contract.ITEM_FILTER.name not in names:
                one[contract.FOR_CANDIDATES] = _MARK
        lacking = map(self._lacking, tensors, wanted)
        refused = {index: error for index, error in enumerate(lacking) if error is not None}
        sound = [one for index, one in enumerate(tensors) if index not in refused] if refused else tensors
        answers: Sequence[Answer] = run_guarded(sound, frozenset().union(*wanted), run) if sound else ()
        if refused:
            left = iter(answers)
            answers = [refused[index] if index in refused else next(left) for index in range(len(tensors))]
        if self._meters is not None:
            _count(self._meters, answers)
        return [self.response(answer, names) for answer, names in zip(answers, wanted, strict=True)]

    def _lacking(self, tensors: RequestTensors, wanted: frozenset[str]) -> RequestError | None:
        for tensor in self._needed_for.get(wanted, self._needed):
            if tensor.name not in tensors:
                return RequestError(tensor.name, "no tensor", tensor.meaning)
        return None

    def response(self, answer: Answer, wanted: frozenset[str]) -> Any:  # noqa: ANN401 - Triton's own class
        """The outputs of a request, or its error.

        The error is INVALID_ARGUMENT for faulty input, UNAVAILABLE if the store failed, INTERNAL for any other.
        """
        if isinstance(answer, Exception):
            said = f"{STORE_FAILED}: {answer}" if isinstance(answer, StoreError) else str(answer)
            return self.error(said, _code(answer))
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, answer[name]) for name in self._outputs if name in wanted]
        )

    def error(self, message: str, code: int) -> Any:  # noqa: ANN401 - Triton's own class
        """An error response. The message names the model, since an ensemble's error does not say which step failed."""
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.name}: {message}", code))

    def cancelled(self) -> Any:  # noqa: ANN401 - Triton's own class
        """The response to a request that the client has cancelled."""
        return self.error("the request was cancelled", pb_utils.TritonError.CANCELLED)


class Measuring:
    """The metrics of one instance on Triton's metrics page."""

    def __init__(self, counted: Meters, labels: Mapping[str, str], report: Callable[[str], None]) -> None:
        """Adds the series that begin at 0 to the page, and starts a thread that hands on what is counted.

        Args:
            counted: What the model counts.
            labels: Of every series.
            report: Is told the first of several failures in a row.
        """
        self._counted = counted
        self._labels = labels
        self._families: dict[str, Any] = {}
        self._metrics: dict[Series, Any] = {}
        for family in counted.families:
            for series in family.series():
                self._metric(family, series)
        self._thread = Periodic(self._hand_on, _METRICS_SECONDS, report)

    def close(self) -> None:
        """Hands on what is left, and takes the metrics off the page.

        A model's process ends with signal 11 if they are still there after `finalize` (issue 8662).
        """
        self._thread.close()
        self._metrics.clear()
        self._families.clear()

    def _hand_on(self) -> None:
        for family, series, value in self._counted.taken():
            metric = self._metric(family, series)
            if isinstance(family, Gauge):
                metric.set(value)
            else:
                metric.increment(value)

    def _metric(self, family: Family, series: Series) -> Any:  # noqa: ANN401 - Triton's own class
        if series not in self._metrics:
            if series.name not in self._families:
                kinds = pb_utils.MetricFamily
                kind = kinds.GAUGE if isinstance(family, Gauge) else kinds.COUNTER
                self._families[series.name] = kinds(name=series.name, description=family.meaning, kind=kind)
            labels = {**self._labels, **dict(series.labels)}
            self._metrics[series] = self._families[series.name].Metric(labels=labels)
        return self._metrics[series]


def _code(error: Exception) -> int:
    codes = pb_utils.TritonError
    if isinstance(error, RequestError):
        return codes.INVALID_ARG  # type: ignore[no-any-return]
    return codes.UNAVAILABLE if isinstance(error, StoreError) else codes.INTERNAL  # type: ignore[no-any-return]


def _count(counted: Meters, answers: Sequence[Answer]) -> None:
    """Counts the failures of a batch, and what became of the states of its users."""
    for answer in answers:
        if isinstance(answer, Exception):
            at_fault = (isinstance(answer, RequestError), isinstance(answer, StoreError))
            counted.add(meters.FAILED, *at_fault, not any(at_fault))
        elif contract.STATE_STATUS.name in answer:
            counted.keep(meters.count_states, answer[contract.STATE_STATUS.name])
