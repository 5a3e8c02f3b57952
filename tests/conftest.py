"""What holds for all tests, and a small real export that several folders serve.

Torch and the exporter take seconds to import, so the fixtures import them: tests without a model start at once.
"""

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Threads that wait do not spin: on a busy machine a fit is twice as fast. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Workers of pytest-xdist share the cores: with a second thread each, small models take a tenth more processor time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# NumPy's threads spin whatever one says, and the matrices of tests are small. Read when NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Servers, commands and stores of tests wait for a store on a busy machine; tests of this deadline set their own.
os.environ.setdefault("EBBTIDE_STATE_TIMEOUT_MS", "60000")

# A busy machine is no error: no test fails for the time that it takes. The same examples on every run, so that a
# failure is the change's own; `make test-random` looks for new ones.
settings.register_profile("fixed", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None, print_blob=True)
settings.load_profile("fixed")


class _ByFolder(LoadScopeScheduling):
    """Gives the tests of a folder to one worker of pytest-xdist, so that its servers and exports are made once."""

    def _split_scope(self, nodeid):
        return nodeid.partition("::")[0].rpartition("/")[0]


_LONG = (
    "tests/export",
    "tests/ops/deploy",
    "tests/train",
    "tests/client",
    "tests/e2e",
    "tests/serve",
    "tests/ops/check",
    "tests/cli",
)
"""Folders that take longest; they begin first, so that no worker is left alone with one in the end."""


def pytest_collection_modifyitems(items):
    rank = {folder: index for index, folder in enumerate(_LONG)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0].rpartition("/")[0], len(_LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return _ByFolder(config, log)


@pytest.fixture(scope="session")
def movielens():
    """The folder of the shipped data."""
    return Path(__file__).parents[1] / "examples" / "movielens-small"


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """The folder of a real encoder of one small layer, with random weights."""
    from bundles import write_tiny_encoder

    folder = tmp_path_factory.mktemp("encoder")
    write_tiny_encoder(folder)
    return folder


@pytest.fixture(scope="session")
def make_bundle(tiny_encoder):
    """Makes bundles with random parameters; see `untrained_bundle`. From here on encoders are traced once."""
    from bundles import untrained_bundle
    from traces import traced_once

    with traced_once():
        yield partial(untrained_bundle, encoder=str(tiny_encoder))


@pytest.fixture(scope="session")
def tiny_bundle(make_bundle):
    return make_bundle()


@pytest.fixture(scope="session")
def tiny_export(tiny_bundle, movielens, tmp_path_factory):
    """The report of a whole export of `tiny_bundle`, whose requests may filter by genres; read it, change nothing."""
    from ebbtide.export.attributes import read_attributes
    from ebbtide.export.options import ExportOptions
    from ebbtide.export.repository import export_repository

    folder = tmp_path_factory.mktemp("export") / "model_repository"
    genres = read_attributes(
        movielens / "movies.parquet", ["genres"], tiny_bundle.catalog.item_id, item_column="movieId"
    )
    return export_repository(tiny_bundle, folder, ExportOptions(top_n=20), attributes=genres)


@pytest.fixture(scope="session")
def two_versions(make_bundle, tiny_export, tmp_path_factory):
    """The folder of `tiny_export`, which answers, with a version 2 of another training and the same filters; to be
    copied."""
    from ebbtide.export.earlier import attributes_in_service
    from ebbtide.export.options import ExportOptions
    from ebbtide.export.repository import export_repository

    folder = shutil.copytree(tiny_export.folder, tmp_path_factory.mktemp("two_versions") / "repository")
    bundle = make_bundle(seed=1)
    filters = attributes_in_service(folder, bundle)
    export_repository(bundle, folder, ExportOptions(top_n=20), attributes=filters, version=2)
    return folder
