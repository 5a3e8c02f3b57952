"""Scoring heads with an approximate index: exact scores and high recall, in process and on the server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tritonclient.grpc as triton
from safetensors.numpy import save_file
from tritonclient.utils import InferenceServerException

from ebbtide.export import versions
from ebbtide.export.attributes import read_attributes
from ebbtide.export.errors import LimitError, RepositoryError, RetrievalError, VersionError
from ebbtide.export.head import index as indexes
from ebbtide.export.head.options import RetrievalOptions
from ebbtide.export.head.retrieval import check_retrieval, write_index
from ebbtide.export.head.served import open_head, read_item_ids
from ebbtide.export.inprocess import Answer, InProcessPipeline
from ebbtide.export.merge import require_fitting
from ebbtide.export.options import ExportOptions
from ebbtide.export.parity import TOLERANCE, ranking_difference
from ebbtide.export.writer import RepositoryWriter
from ebbtide.interest import contract, exported, served_models
from ebbtide.interest.checks import Request
from ebbtide.interest.contract import Size
from ebbtide.interest.keys import item_keys
from ebbtide.interest.lookup import KeyIndex
from ebbtide.interest.numbers import ordered
from ebbtide.interest.retrieval import RETRIEVAL_FILE
from ebbtide.interest.stock import OutOfStock
from ebbtide.serve import ServerConfig
from ebbtide.train.bundle import InterestBundle
from servers import mark_complete, serving

ITEMS, WIDTH, ADJUSTMENTS, TOP_N = 6_000, 20, 64, 10
FINGERPRINT = "0123456789abcdef"
IDS = [f"número {position}" for position in range(ITEMS)]
INDEX = {item: position for position, item in enumerate(IDS)}
COLUMNS = ((0, 1), (1, 3))
INPUTS = [tensor.name for tensor in served_models.SCORING_HEAD.inputs]
OUTPUTS = [contract.ITEM_ID.name, contract.SCORE.name]
HEAD = served_models.SCORING_HEAD.name
MOVIES = Path(__file__).parents[2] / "examples" / "movielens-small" / "movies.parquet"


def near_one_of(centres: np.ndarray, count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    chosen = centres[random.integers(0, len(centres), count)]
    return (chosen + random.standard_normal(chosen.shape) * 0.4).astype(np.float32)


@pytest.fixture(scope="module")
def centres() -> np.ndarray:
    return np.random.default_rng(4).standard_normal((60, WIDTH))


@pytest.fixture(scope="module")
def factors(centres: np.ndarray) -> np.ndarray:
    factors = near_one_of(centres, ITEMS, 5)
    # As the prior's columns: counts, never negative, and as large as all the rest.
    factors[:, -1] = np.log1p(np.random.default_rng(6).exponential(50, ITEMS))
    return factors


@pytest.fixture(scope="module")
def interests(centres: np.ndarray) -> np.ndarray:
    interests = near_one_of(centres, 64, 7) * 0.3
    interests[:, -1] = 0.4
    return interests


@pytest.fixture(scope="module")
def words() -> np.ndarray:
    words = np.random.default_rng(8).integers(0, 2**62, (ITEMS, COLUMNS[-1][1]))
    # Values of the first bits are had by half of the items, bit 40 by one in a hundred.
    words[:, 0] &= ~(1 << 40)
    words[::100, 0] |= 1 << 40
    for first, _ in COLUMNS:
        words[:, first] |= 1
    return words


@pytest.fixture(scope="module")
def folder(
    factors: np.ndarray,
    interests: np.ndarray,
    words: np.ndarray,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The version folder of a head, without its code."""
    folder = tmp_path_factory.mktemp("head")
    index = indexes.build_index(factors, interests, TOP_N, RetrievalOptions("ivf"))
    assert index.recall >= 0.98
    write_index(index, IDS, TOP_N, FINGERPRINT, folder)
    metadata = {"fingerprint": FINGERPRINT}
    save_file({exported.ITEM_FACTORS: factors}, str(folder / exported.FACTORS_FILE), metadata)
    column_word = np.array([first for first, _ in COLUMNS] + [COLUMNS[-1][1]])
    attributes = {exported.ITEM_WORDS: words, exported.COLUMN_WORD: column_word}
    save_file(attributes, str(folder / exported.ATTRIBUTES_FILE), metadata)
    return folder


@pytest.fixture(scope="module")
def head(folder: Path) -> Any:
    return open_head(folder, FINGERPRINT)


def feeds_of(
    interest: np.ndarray, adjustments: dict[int, float] | None = None, item_filter: tuple[int, ...] = (1, 1, 0)
) -> dict[str, np.ndarray]:
    """The head's inputs; the same adjustments and filter for every row."""
    rows = len(interest)
    item, score = np.zeros((rows, ADJUSTMENTS), np.int64), np.zeros((rows, ADJUSTMENTS), np.float32)
    for position, (index, value) in enumerate((adjustments or {}).items()):
        item[:, position], score[:, position] = index, value
    words = np.tile(np.array(item_filter, np.int64), (rows, 1))
    return dict(zip(INPUTS, [interest, item, score, words], strict=True))


def scores_of(factors: np.ndarray, interest: np.ndarray, adjustments: dict[int, float] | None = None) -> np.ndarray:
    scores = factors @ interest
    for index, value in (adjustments or {}).items():
        scores[index] = value
    return scores


def best_of(scores: np.ndarray, count: int) -> set[int]:
    return set(np.argsort(-scores)[:count].tolist())


def test_head_names_nearly_all_the_best_with_exact_scores_when_nobody_filters(
    head: Any, factors: np.ndarray, centres: np.ndarray
) -> None:
    fresh = near_one_of(centres, 40, 9) * 0.3
    fresh[:, -1] = 0.4
    item_id, score = head.run(OUTPUTS, feeds_of(fresh))
    found = 0
    for row in range(len(fresh)):
        scores = scores_of(factors, fresh[row])
        assert ranking_difference(item_id[row].tolist(), score[row], scores, INDEX, complete=False) < 1e-5
        assert np.all(np.diff(score[row]) <= 0)
        found += len({INDEX[item] for item in item_id[row]} & best_of(scores, TOP_N))
    assert found >= 0.97 * len(fresh) * TOP_N


def test_head_answers_a_request_alike_when_its_neighbours_differ(head: Any, interests: np.ndarray) -> None:
    together = head.run(OUTPUTS, feeds_of(interests))
    for row in (0, 17, 63):
        alone = head.run(OUTPUTS, feeds_of(interests[row : row + 1]))
        assert alone[0][0].tolist() == together[0][row].tolist()
        np.testing.assert_allclose(alone[1][0], together[1][row], atol=1e-6)


def test_head_leaves_out_excluded_items_and_names_others_in_their_place(
    head: Any, factors: np.ndarray, interests: np.ndarray
) -> None:
    best = best_of(scores_of(factors, interests[0]), ADJUSTMENTS)
    adjustments = dict.fromkeys(best, -np.inf)
    item_id, score = head.run(OUTPUTS, feeds_of(interests[:1], adjustments))
    assert not {INDEX[item] for item in item_id[0]} & best
    assert np.isfinite(score).all()
    known = scores_of(factors, interests[0], adjustments)
    assert ranking_difference(item_id[0].tolist(), score[0], known, INDEX, complete=False) < 1e-5


def test_head_is_exact_when_thousands_of_items_are_out_of_stock(
    head: Any, factors: np.ndarray, interests: np.ndarray
) -> None:
    out = best_of(scores_of(factors, interests[0]), 2 * ITEMS // 3)
    adjustments = dict.fromkeys(out, -np.inf)
    stock = OutOfStock.of(np.array(list(out)), KeyIndex(np.arange(ITEMS), np.arange(ITEMS)), ITEMS)
    assert stock is not None
    feeds = feeds_of(interests[:1])
    names = [contract.ADJUST_ITEM.name, contract.ADJUST_SCORE.name]
    feeds.update(zip(names, stock.exclude(*(feeds[name] for name in names), np.array([False])), strict=True))
    item_id, score = head.run(OUTPUTS, feeds)
    known = scores_of(factors, interests[0], adjustments)
    assert ranking_difference(item_id[0].tolist(), score[0], known, INDEX) < 1e-5


def test_head_names_items_with_a_score_of_their_own_when_the_index_would_not(
    head: Any, factors: np.ndarray, interests: np.ndarray
) -> None:
    worst = np.argsort(scores_of(factors, interests[0]))[:3].tolist()
    item_id, score = head.run(OUTPUTS, feeds_of(interests[:1], dict.fromkeys(worst, 1e3)))
    assert {INDEX[item] for item in item_id[0, :3]} == set(worst)
    assert (score[0, :3] > 500).all()
    # The adjustments of one request are gone in the next.
    item_id, _ = head.run(OUTPUTS, feeds_of(interests[:1]))
    assert not {INDEX[item] for item in item_id[0]} & set(worst)


@pytest.mark.parametrize(
    "item_filter", [(1 << 3, 1, 0), (1, 0, 1 << 61), (1 << 40, 1, 0), (1 << 40 | 1 << 9, 1 << 2, 1 << 5)]
)
def test_head_scores_all_allowed_items_exactly_when_a_request_filters(
    head: Any, factors: np.ndarray, words: np.ndarray, interests: np.ndarray, item_filter: tuple[int, ...]
) -> None:
    adjustments = {0: -np.inf, 100: 5.0, 200: -1.0}
    item_id, score = head.run(OUTPUTS, feeds_of(interests[:3], adjustments, item_filter))
    allowed = np.ones(ITEMS, bool)
    for first, end in COLUMNS:
        allowed &= np.any(words[:, first:end] & np.array(item_filter[first:end]), axis=1)
    for row in range(3):
        known = np.where(allowed, scores_of(factors, interests[row], adjustments), -np.inf)
        assert ranking_difference(item_id[row].tolist(), score[row], known, INDEX) < 1e-5


def test_head_serves_filtered_and_plain_requests_when_they_share_a_batch(
    head: Any, factors: np.ndarray, words: np.ndarray, interests: np.ndarray
) -> None:
    feeds = feeds_of(interests[:3])
    feeds[contract.ITEM_FILTER.name][1] = (1 << 40, 1, 0)
    item_id, score = head.run(OUTPUTS, feeds)
    plain = head.run(OUTPUTS, feeds_of(interests[:3]))
    for row in (0, 2):
        assert item_id[row].tolist() == plain[0][row].tolist()
    allowed = words[:, 0] & (1 << 40) != 0
    known = np.where(allowed, scores_of(factors, interests[1]), -np.inf)
    assert ranking_difference(item_id[1].tolist(), score[1], known, INDEX) < 1e-5


def test_head_marks_what_is_left_over_when_nothing_is_allowed(head: Any, interests: np.ndarray) -> None:
    item_id, score = head.run(OUTPUTS, feeds_of(interests[:1], None, (0, 1, 0)))
    assert np.isneginf(score).all()
    assert len(set(item_id[0])) == TOP_N


def test_ids_are_read_back_from_the_index_file(folder: Path) -> None:
    assert read_item_ids(folder) == IDS


def test_head_is_refused_when_a_file_is_of_another_export_or_damaged(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{RETRIEVAL_FILE}: got fingerprint {FINGERPRINT}; expected other"):
        open_head(folder, "other")
    for file in (exported.FACTORS_FILE, exported.ATTRIBUTES_FILE):
        changed = tmp_path / file
        shutil.copytree(folder, changed)
        save_file({"nothing": np.zeros(1)}, str(changed / file), {"fingerprint": "another"})
        with pytest.raises(ValueError, match=f"{file}: got fingerprint another; expected {FINGERPRINT}"):
            open_head(changed, FINGERPRINT)
    cut = tmp_path / "cut"
    shutil.copytree(folder, cut)
    factors = np.zeros((ITEMS - 1, WIDTH), np.float32)
    save_file({exported.ITEM_FACTORS: factors}, str(cut / exported.FACTORS_FILE), {"fingerprint": FINGERPRINT})
    with pytest.raises(ValueError, match=f"got an index of {ITEMS} x"):
        open_head(cut, FINGERPRINT)


def test_index_is_refused_when_its_recall_is_too_low(
    factors: np.ndarray, interests: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "_CANDIDATES_PER_BEST", (1,))
    monkeypatch.setattr(indexes, "_SPARE_CANDIDATES", 0)
    with pytest.raises(
        RetrievalError,
        match=r"retrieval ivf: got recall 0\.\d+ of the best 100 in the widest search; expected 1\.0: choose exact, .* "
        r"--least-recall 0\.\d+",
    ):
        indexes.build_index(factors, interests, TOP_N, RetrievalOptions("ivf", 1.0))
    with pytest.raises(RetrievalError, match="got a catalog of 60 items; expected at least 100: choose exact"):
        indexes.build_index(factors[:60], interests, TOP_N, RetrievalOptions("ivf"))


def test_options_are_refused_when_they_do_not_go_together() -> None:
    with pytest.raises(LimitError, match=r"retrieval: got 'annoy'; expected one of \('exact', 'ivf'\)"):
        RetrievalOptions("annoy")
    with pytest.raises(LimitError, match="least_recall: got 0; expected above 0"):
        RetrievalOptions("ivf", 0)
    with pytest.raises(LimitError, match="head_precision: got 'int8' with retrieval 'ivf'; expected 'fp32'"):
        ExportOptions(head_precision="int8", retrieval=RetrievalOptions("ivf"))


@pytest.fixture(scope="module")
def written(bundle: InterestBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with an index, of a catalog with attributes."""
    attributes = read_attributes(MOVIES, ["genres"], bundle.catalog.item_id, item_column="movieId")
    folder = tmp_path_factory.mktemp("written")
    options = ExportOptions(top_n=TOP_N, retrieval=RetrievalOptions("ivf"))
    RepositoryWriter(bundle, folder, options, attributes=attributes).write_interest()
    return folder


def test_written_head_answers_with_items_of_a_range_when_requests_filter_by_a_number(
    bundle: InterestBundle, tmp_path: Path
) -> None:
    ids = bundle.catalog.item_id
    attributes = read_attributes(MOVIES, ["genres"], ids, item_column="movieId", numeric=["year"])
    options = ExportOptions(top_n=TOP_N, retrieval=RetrievalOptions("ivf"))
    RepositoryWriter(bundle, tmp_path, options, attributes=attributes).write_interest()
    folder = tmp_path / HEAD / "1"
    head = open_head(folder, exported.read_interest_config(folder).fingerprint)
    factors = np.array(exported.read_tensors(folder / exported.FACTORS_FILE)[0][exported.ITEM_FACTORS])
    table = dict(pl.read_parquet(MOVIES).select(pl.col("movieId").cast(pl.String), "year").iter_rows())
    year = np.array([table[item] or np.nan for item in ids], dtype=np.float64)
    words = exported.read_tensors(folder / exported.ATTRIBUTES_FILE)[0][exported.COLUMN_WORD].tolist()
    interest = np.random.default_rng(3).standard_normal((4, factors.shape[1])).astype(np.float32)
    item_filter = np.zeros((4, words[-1]), np.int64)
    item_filter[:, words[:-1]] = 1
    bounds = [(1990.0, 1994.0), (-np.inf, 1980.5), (1995.0, np.inf)]
    for row, (least, most) in enumerate(bounds):
        item_filter[row, words[-2] :] = [0, ordered(least), ordered(most)]
    none = np.zeros((4, ADJUSTMENTS), np.int64)
    feeds = dict(zip(INPUTS, [interest, none, none.astype(np.float32), item_filter], strict=True))
    item_id, score = head.run(OUTPUTS, feeds)
    index = {item: position for position, item in enumerate(ids)}
    for row, (least, most) in enumerate([*bounds, (-np.inf, np.inf)]):
        inside = (year >= least) & (year <= most)
        known = np.where(inside | (row == len(bounds)), factors @ interest[row], -np.inf)
        assert inside.any()
        assert ranking_difference(item_id[row].tolist(), score[row], known, index) < TOLERANCE


def test_written_head_scores_as_torch_and_shares_its_tables(written: Path, bundle: InterestBundle) -> None:
    in_process = InProcessPipeline(written)
    tensors = {tensor.name: tensor for tensor in served_models.SCORING_HEAD.inputs}
    words = exported.read_tensors(written / HEAD / "1" / exported.ATTRIBUTES_FILE)[0][exported.COLUMN_WORD][-1]
    sizes = {Size.TOP_N: TOP_N, Size.FILTER: int(words)}
    assert tensors[contract.ITEM_FILTER.name].config_dims(sizes, batching=True) == (int(words),)
    assert check_retrieval(in_process, bundle, sizes) < TOLERANCE
    weights = written / served_models.ADAPTIVE_WEIGHTS.name / "1"
    for file in ("interest.json", exported.ATTRIBUTES_FILE):
        assert (written / HEAD / "1" / file).samefile(weights / file)


def test_version_is_refused_when_it_is_served_by_another_backend_than_those_beside_it(
    written: Path, write_without_encoder: Callable[..., Path], bundle: InterestBundle
) -> None:
    exact = write_without_encoder(bundle, top_n=TOP_N, version=2)
    with pytest.raises(VersionError, match=r"scoring_head/config.pbtxt: got backend .*onnxruntime.* expected .*python"):
        require_fitting(exact, written, 2, same_serving=False)


def test_pipeline_is_refused_when_the_index_is_of_another_export(written: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(written, changed)
    path = changed / HEAD / "1" / RETRIEVAL_FILE
    tables, metadata = exported.read_tensors(path)
    tables = {name: np.array(table) for name, table in tables.items()}
    path.unlink()
    save_file(tables, str(path), {**metadata, "fingerprint": "another"})
    with pytest.raises(RepositoryError, match=r"retrieval\.safetensors: got fingerprint another; expected"):
        _ = InProcessPipeline(changed).head


@pytest.fixture(scope="module")
def served(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    """A server with the models that `recommend` by item ids needs."""
    position = tmp_path_factory.mktemp("served")
    models = (served_models.ADAPTIVE_WEIGHTS.name, HEAD, served_models.RECOMMEND.name)
    for name in models:
        shutil.copytree(written / name, position / "repository" / name)
    mark_complete(position / "repository")
    with (
        serving(ServerConfig(position / "repository", log_file=position / "tritonserver.log")) as server,
        triton.InferenceServerClient(server.grpc_url) as client,
    ):
        yield client


def ask(
    client: triton.InferenceServerClient, feeds: dict[str, np.ndarray], model: str = HEAD
) -> tuple[np.ndarray, np.ndarray]:
    inputs = []
    for tensor in served_models.MODELS[model].inputs:
        if tensor.name in feeds:
            inputs.append(triton.InferInput(tensor.name, feeds[tensor.name].shape, tensor.dtype.value))
            inputs[-1].set_data_from_numpy(feeds[tensor.name])
    result = client.infer(model, inputs, client_timeout=60)
    return tuple(result.as_numpy(name) for name in OUTPUTS)


def test_recommend_answers_with_allowed_items_when_a_request_filters(
    served: triton.InferenceServerClient, written: Path, bundle: InterestBundle
) -> None:
    keys = item_keys(bundle.catalog.item_id)
    movies = pl.read_parquet(MOVIES).filter(pl.col("genres").str.contains("Comedy"))
    comedies = set(movies["movieId"].cast(pl.String).to_list())
    request = Request(
        event_item=keys[:5],
        event_time=np.full(5, 1_700_000_000_000),
        now=np.array([1_700_000_000_500]),
        allow_attribute=item_keys(["genres=Comedy"]),
    )
    (local,) = InProcessPipeline(written).recommend([request])
    assert isinstance(local, Answer)
    feeds = {
        tensor.name: getattr(request, tensor.name)[None]
        for tensor in served_models.RECOMMEND.inputs
        if getattr(request, tensor.name, None) is not None
    }
    item_id, score = ask(served, feeds, served_models.RECOMMEND.name)
    assert [item.decode() for item in item_id[0]] == local.item_id
    np.testing.assert_array_equal(score[0], local.score)
    assert len(set(local.item_id) & comedies) == TOP_N


def test_served_head_equals_its_twin_and_names_what_is_wrong(
    served: triton.InferenceServerClient, written: Path
) -> None:
    in_process = InProcessPipeline(written)
    random = np.random.default_rng(0)
    width = in_process.limits.adjustments
    words = exported.read_tensors(written / HEAD / "1" / exported.ATTRIBUTES_FILE)[0][exported.COLUMN_WORD][-1]
    values = np.array([0, 0.5, -np.inf], np.float32)
    (interest_width,) = versions.read_model_config(written, HEAD).input[0].dims
    for rows in (1, 5):
        feeds = {
            contract.INTEREST.name: random.standard_normal((rows, interest_width)).astype(np.float32),
            contract.ADJUST_ITEM.name: random.integers(0, 200, (rows, width)),
            contract.ADJUST_SCORE.name: random.choice(values, (rows, width), p=[0.98, 0.01, 0.01]),
            contract.ITEM_FILTER.name: np.ones((rows, int(words)), np.int64),
        }
        item_id, score = ask(served, feeds)
        expected_id, expected_score = in_process.head.run(OUTPUTS, feeds)
        assert [[item.decode() for item in row] for row in item_id.tolist()] == expected_id.tolist()
        np.testing.assert_array_equal(score, expected_score)
    feeds[contract.ADJUST_ITEM.name][2, 3] = 200
    with pytest.raises(
        InferenceServerException,
        match=r"scoring_head: row 2: adjust_item\[3\]: got 200; expected a catalog index from 0 to 199",
    ) as caught:
        ask(served, feeds)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
