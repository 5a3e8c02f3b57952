"""The whole way of the data, once for the session: train on a real slice, export, start the embedded Triton."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from commands import ebbtide
from deadlines import PATIENT
from ebbtide.client import InterestClient
from ebbtide.serve import ServerConfig
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import embed_texts, encoder_folder
from servers import serving

MOVIELENS = Path(__file__).parents[2] / "examples" / "movielens-small"
USERS = 20
"""Of the shipped log; the encoder embeds every item that they rated."""
TEXTS = ["space opera with robots", "a quiet film about a lighthouse", "heist", "slasher at summer camp " * 30]


@dataclass(frozen=True)
class Trained:
    """What the stages wrote."""

    bundle_folder: Path
    repository: Path
    bundle: InterestBundle
    train_output: str
    export_output: str


@pytest.fixture(scope="session")
def command():
    """Runs the command line with arguments; its output, after it ended well."""
    return ebbtide


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("e2e")
    ratings = pl.read_parquet(MOVIELENS / "ratings.parquet").filter(pl.col("userId") <= USERS)
    rated = ratings["movieId"].unique()
    ratings.write_csv(folder / "ratings.csv")
    pl.read_parquet(MOVIELENS / "movies.parquet").filter(pl.col("movieId").is_in(rated.implode())).write_parquet(
        folder / "movies.parquet"
    )
    train_output = ebbtide(
        *("train", "--out", folder / "bundle", "--holdout", "leave-last-out"),
        *("--events", folder / "ratings.csv", "--user-col", "userId", "--item-col", "movieId"),
        *("--time-col", "timestamp", "--catalog", folder / "movies.parquet"),
        *("--text-template", "{title} ({year}). {genres}", "--title-template", "{title} ({year})"),
        *("--dimensions", "32", "--epochs", "2"),
    )
    export_output = ebbtide("export", folder / "bundle", "--out", folder / "repository", "--top-n", "20")
    bundle = InterestBundle.load(folder / "bundle")
    return Trained(folder / "bundle", folder / "repository", bundle, train_output, export_output)


@pytest.fixture(scope="session")
def server(trained, tmp_path_factory):
    state = f"embedded:{tmp_path_factory.mktemp('state')}"
    # Tests compare its answers with torch as exported, whatever other tests let it observe.
    frozen = {"EBBTIDE_POPULARITY_SECONDS": "off"}
    with serving(ServerConfig(model_repository=trained.repository, state=state, environment=frozen)) as triton:
        yield triton


@pytest.fixture(scope="session")
def client(server):
    with InterestClient(server.grpc_url, config=PATIENT) as connected:
        yield connected


@pytest.fixture(scope="session")
def text_vectors():
    """The encoder's vector of each of the texts."""
    return dict(zip(TEXTS, embed_texts(encoder_folder("packaged"), TEXTS), strict=True))


@pytest.fixture
def random():
    return np.random.default_rng(20)
