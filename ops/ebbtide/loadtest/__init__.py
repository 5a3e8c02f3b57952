"""Load tests with real sessions: replay, open and closed models, objectives, reports and comparisons."""

from ebbtide.loadtest._triton import learns_online, served_limits, stated_limits
from ebbtide.loadtest.access import Access
from ebbtide.loadtest.arrivals import RateProfile
from ebbtide.loadtest.compare import Comparison, Difference, compare, read_result
from ebbtide.loadtest.engine import Generator
from ebbtide.loadtest.errors import LoadTestError
from ebbtide.loadtest.known_users import known_users
from ebbtide.loadtest.replay import ENDPOINTS, STATELESS_ENDPOINTS, USER_PREFIX, Replayed, Workload, build_workload
from ebbtide.loadtest.run import Load, Run
from ebbtide.loadtest.session import Options, load_test
from ebbtide.loadtest.settings import Slo, parse_duration, parse_levels, parse_mix

__all__ = [
    "ENDPOINTS",
    "STATELESS_ENDPOINTS",
    "USER_PREFIX",
    "Access",
    "Comparison",
    "Difference",
    "Generator",
    "Load",
    "LoadTestError",
    "Options",
    "RateProfile",
    "Replayed",
    "Run",
    "Slo",
    "Workload",
    "build_workload",
    "compare",
    "known_users",
    "learns_online",
    "load_test",
    "parse_duration",
    "parse_levels",
    "parse_mix",
    "read_result",
    "served_limits",
    "stated_limits",
]
