"""Finds the instances, threads and batching with which this machine serves most under an objective.

It stands above `export` (the configs), `loadtest` (the requests), `serve` (the servers) and `deploy` (loading models),
and beside them in no other room: none of them needs it.
"""

from ebbtide.tune.errors import TuneError
from ebbtide.tune.search import Rules, Search, Trial
from ebbtide.tune.space import read_limits
from ebbtide.tune.tune import TuneOptions, tune
from ebbtide.tune.write import write_winner

__all__ = ["Rules", "Search", "Trial", "TuneError", "TuneOptions", "read_limits", "tune", "write_winner"]
