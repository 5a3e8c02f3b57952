"""Finds the instances and threads of each model with which this machine serves most requests under an objective.

It uses `export` (the configs), `loadtest` (the requests), `serve` (the servers) and `deploy` (loading models); none of
them uses it.
"""

from ebbtide.tune.errors import TuneError
from ebbtide.tune.search import Rules, Search, Trial
from ebbtide.tune.space import read_limits
from ebbtide.tune.tune import TuneOptions, tune
from ebbtide.tune.write import write_winner

__all__ = ["Rules", "Search", "Trial", "TuneError", "TuneOptions", "read_limits", "tune", "write_winner"]
