"""Memory of the server with one and with four instances of `adaptive_weights` on a million items.

The figure is the proportional set size, which counts shared memory once and divides it among the processes. Before the
measurement every page of the event table is read, so that a mapped table counts as much as a copied one.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from tritonclient.grpc import InferenceServerClient

from benchmarks.serving.exported import exported
from benchmarks.serving.inputs import infer_inputs
from benchmarks.serving.large import Ints, with_instances, write_large
from benchmarks.serving.settings import Settings
from benchmarks.serving.turns import ratio
from ebbtide.interest import contract, served_models
from ebbtide.interest.exported import CATALOG_FILE, SORTED_KEY
from ebbtide.interest.tensorfile import read_tensors
from ebbtide.serve import ServerConfig, TritonServer

ITEMS = 1_000_000
INSTANCES = (1, 4)
_EVENTS = 512
_CALLERS = 16
_RECOMMENDATIONS = 32
_NOW_MS = 1_700_000_000_000
_WHOLE, _ALONE = "recommend", "adaptive_weights_alone"


def measure(settings: Settings) -> dict[str, Any]:
    """Starts servers with `recommend` and with `adaptive_weights` alone, and returns the memory by instances."""
    out = settings.work / "large"
    keys = write_large(exported(settings), out, ITEMS)
    served = {_WHOLE: served_models.RECOMMEND.name, _ALONE: served_models.ADAPTIVE_WEIGHTS.name}
    found: dict[str, dict[int, list[dict[str, float]]]] = {name: {count: [] for count in INSTANCES} for name in served}
    # Memory hardly differs between runs, so a quick run measures once.
    for _ in range(1 if settings.quick else settings.repeats):
        for name, model in served.items():
            for count in INSTANCES:
                with_instances(out, served_models.ADAPTIVE_WEIGHTS.name, count)
                found[name][count].append(_used(out, model, keys))
    shutil.rmtree(out)

    def over(name: str) -> float:
        few, many = ([one["pss_mib"] for one in found[name][count]] for count in INSTANCES)
        return ratio(many, few)

    return {
        "instances_ratio": over(_WHOLE),
        f"instances_ratio_{_ALONE}": over(_ALONE),
        "items": ITEMS,
        "instances": list(INSTANCES),
        "table_mib": round(ITEMS * _table_row_bytes(exported(settings)) / 2**20, 1),
        **{
            name: {
                str(count): {key: round(median(run[key] for run in runs), 1) for key in runs[0]}
                for count, runs in by_count.items()
            }
            for name, by_count in found.items()
        },
    }


def _used(repository: Path, model: str, keys: Ints) -> dict[str, float]:
    """Memory of a server after requests with every item of the catalog."""
    config = ServerConfig(repository, model_control="explicit", load_models=(model,), startup_timeout_s=300)
    with TritonServer(config) as server:
        with InferenceServerClient(server.grpc_url) as client, ThreadPoolExecutor(_CALLERS) as callers:
            shuffled = np.random.default_rng(1).permutation(keys)

            def send(name: str, start: int) -> None:
                client.infer(name, infer_inputs(_arrays(shuffled[start : start + _EVENTS])), client_timeout=60)

            list(
                callers.map(
                    lambda start: send(served_models.ADAPTIVE_WEIGHTS.name, start), range(0, len(keys), _EVENTS)
                )
            )
            list(callers.map(lambda start: send(model, start), range(_RECOMMENDATIONS)))
        process = psutil.Process(server.pid)
        tree = [process, *process.children(recursive=True)]
        used = [one.memory_full_info() for one in tree]
    return {
        "pss_mib": sum(one.pss for one in used) / 2**20,
        "rss_mib": sum(one.rss for one in used) / 2**20,
        "unique_mib": sum(one.uss for one in used) / 2**20,
        "processes": float(len(used)),
    }


def _arrays(keys: Ints) -> dict[str, Ints]:
    """A request whose events are these items, one minute apart."""
    return {
        contract.EVENT_ITEM.name: keys[None],
        contract.EVENT_TIME.name: _NOW_MS - 60_000 * np.arange(1, len(keys) + 1)[None],
        contract.NOW.name: np.array([[_NOW_MS]]),
    }


def _table_row_bytes(repository: Path) -> int:
    """Bytes per item in the tables of `adaptive_weights`."""
    (path,) = (repository / served_models.ADAPTIVE_WEIGHTS.name).glob(f"*/{CATALOG_FILE}")
    tables, _ = read_tensors(path)
    return sum(table.nbytes for table in tables.values()) // len(tables[SORTED_KEY])
