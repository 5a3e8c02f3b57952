"""What a slate costs: `recommend_slate` beside a do-nothing third step on the same server.

    python -m benchmarks.slate [--requests 300] [--json FILE]

The shipped films, exported with 200 candidates; lists of 20. The do-nothing step takes the same tensors, reads them and
answers with the first 20. Requests go to all cases in turn, one at a time, so that they meet the same machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from rich.console import Console
from rich.table import Table

from benchmarks.serving import machine
from ebbtide.client import Slate, recommend_request, slate
from ebbtide.client.codec import EncodedRequest, encode
from ebbtide.data.dataset import read_dataset
from ebbtide.export.attributes import read_attributes
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import export_repository
from ebbtide.interest import served_models
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.v1 import Event, RecommendRequest

ROOT = Path(__file__).parents[1]
CANDIDATES, ITEMS = 200, 20
_HISTORY_EVENTS = 60
_USERS = 50
_WARM_UP = 20
_NOTHING, _RECOMMEND_NOTHING = "do_nothing", "recommend_nothing"
_GENRE = "Documentary"
WISHES: dict[str, Slate] = {
    "by_score": slate(),
    "mmr": slate(diversity=0.3),
    "dpp": slate(diversity=0.3, method="dpp"),
    "mmr_cap_minimum": slate(diversity=0.3, at_most={"genres": 8}, at_least={f"genres={_GENRE}": 2}),
    "exposure": slate(exposure={f"genres={_GENRE}": 0.2}),
    "calibration": slate(calibrate="genres"),
}
_CODE = f'''"""The do-nothing third step: reads what `slate_composer` reads, and answers with the first items."""

import numpy as np
import triton_python_backend_utils as pb_utils

NOTES = np.array([[b"{{}}"]], dtype=np.object_)


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            found = {{tensor.name(): tensor.as_numpy() for tensor in request.inputs()}}
            outputs = [
                pb_utils.Tensor("slate_item_id", found["item_id"][:, :{ITEMS}]),
                pb_utils.Tensor("slate_score", found["score"][:, :{ITEMS}]),
                pb_utils.Tensor("slate_notes", NOTES),
            ]
            wanted = request.requested_output_names()
            responses.append(pb_utils.InferenceResponse([one for one in outputs if one.name() in wanted]))
        return responses
'''


def main() -> None:
    """Parses the command line, measures, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slate", description=__doc__)
    parser.add_argument("--requests", type=int, default=300, help="of each case")
    parser.add_argument("--bundle", type=Path, default=ROOT / "artifacts" / "bundle")
    parser.add_argument("--repository", type=Path, help="its export with 200 candidates; default: made here")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "slate.json")
    arguments = parser.parse_args()
    console, busy = Console(), machine.load_average()
    bundle = InterestBundle.load(arguments.bundle)
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        if arguments.repository is None:
            with console.status("export"):
                _export(bundle, repository)
        else:
            shutil.copytree(arguments.repository, repository)
        add_do_nothing(repository)
        with console.status("requests"), TritonServer(ServerConfig(repository)) as server:
            results = measure(server.grpc_url, _requests(bundle), arguments.requests)
    console.print(table(results))
    report = {
        "machine": machine.facts(),
        "load_average_before": busy,
        "candidates": CANDIDATES,
        "items": ITEMS,
        "requests_of_each": arguments.requests,
        "cases": results,
    }
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _export(bundle: InterestBundle, out: Path) -> None:
    movies = ROOT / "examples" / "movielens-small" / "movies.parquet"
    genres = read_attributes(movies, ["genres"], bundle.catalog.item_id, item_column="movieId")
    export_repository(bundle, out, ExportOptions(top_n=CANDIDATES), attributes=genres)


def add_do_nothing(repository: Path) -> None:
    """Adds a copy of the ensemble whose last step does nothing."""
    composer, ensemble = served_models.SLATE_COMPOSER.name, served_models.RECOMMEND_SLATE.name
    for name, copy in ((composer, _NOTHING), (ensemble, _RECOMMEND_NOTHING)):
        config = (repository / name / "config.pbtxt").read_text(encoding="utf-8")
        for old, new in ((composer, _NOTHING), (ensemble, _RECOMMEND_NOTHING)):
            config = config.replace(f'name: "{old}"', f'name: "{new}"')
        (repository / copy / "1").mkdir(parents=True)
        (repository / copy / "config.pbtxt").write_text(config, encoding="utf-8")
    shutil.copytree(repository / composer / "warmup", repository / _NOTHING / "warmup")
    (repository / _NOTHING / "1" / "model.py").write_text(_CODE, encoding="utf-8")


def _requests(bundle: InterestBundle) -> list[RecommendRequest]:
    """Requests of users with long histories, an hour after the last event of each."""
    log = read_dataset(bundle.config.data).log
    ids, found = bundle.catalog.item_id, []
    for user in log.users[:_USERS]:
        span = log.of_user(str(user))
        times = log.time_ms[span][-_HISTORY_EVENTS:]
        events: list[Event] = []
        for item, time_ms in zip(log.item[span][-_HISTORY_EVENTS:], times, strict=True):
            one = Event(item_id=ids[item])
            one.time.FromMilliseconds(int(time_ms))
            events.append(one)
        request = recommend_request(events=events, top_n=ITEMS)
        request.now.FromMilliseconds(int(times[-1]) + 3_600_000)
        found.append(request)
    return found


def measure(address: str, requests: list[RecommendRequest], count: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each case, and its ratio to the do-nothing step."""
    cases: dict[str, Callable[[RecommendRequest], EncodedRequest]] = {
        "recommend": lambda request: encode(request, 0),
        _NOTHING: lambda request: EncodedRequest(_RECOMMEND_NOTHING, encode(_with(request), 0).tensors),
    }
    for name, wishes in WISHES.items():
        cases[name] = lambda request, wishes=wishes: encode(_with(request, wishes), 0)  # type: ignore[misc]
    taken: dict[str, list[float]] = {name: [] for name in cases}
    with triton.InferenceServerClient(address) as client:
        for number in range(-_WARM_UP, count):
            request = requests[number % len(requests)]
            for name, encoded_of in cases.items():
                encoded = encoded_of(request)
                inputs = _inputs(encoded)
                began = time.perf_counter()
                client.infer(encoded.model_name, inputs)
                if number >= 0:
                    taken[name].append(1_000 * (time.perf_counter() - began))
    nothing = statistics.median(taken[_NOTHING])
    return {
        name: {
            "p50_ms": round(statistics.median(times), 3),
            "p95_ms": round(float(np.quantile(times, 0.95)), 3),
            "p50_ratio": round(statistics.median(times) / nothing, 3),
        }
        for name, times in taken.items()
    }


def _with(request: RecommendRequest, wishes: Slate | None = None) -> RecommendRequest:
    found = RecommendRequest()
    found.CopyFrom(request)
    found.slate.CopyFrom(wishes or Slate())
    return found


def _inputs(encoded: EncodedRequest) -> list[Any]:
    datatypes = {tensor.name: tensor.dtype.value for tensor in served_models.RECOMMEND_SLATE.inputs}
    found: list[Any] = []
    for name, array in encoded.tensors.items():
        entry = triton.InferInput(name, array.shape, datatypes[name])
        entry.set_data_from_numpy(array)
        found.append(entry)
    return found


def table(results: dict[str, dict[str, float]]) -> Table:
    """The figures of each case."""
    found = Table("case", "p50, ms", "p95, ms", "p50 / do-nothing", title=f"Lists of {ITEMS} from {CANDIDATES}")
    for name, figures in results.items():
        found.add_row(name, f"{figures['p50_ms']:.2f}", f"{figures['p95_ms']:.2f}", f"{figures['p50_ratio']:.2f}")
    return found


if __name__ == "__main__":
    main()
