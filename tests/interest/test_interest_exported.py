"""The files of one export are read as memory maps without reading whole tables; mixed exports are refused."""

import mmap

import numpy as np
import pytest
from safetensors.numpy import save_file

from ebbtide.interest import exported
from ebbtide.interest.parameters import CONFIG_FILE, TENSORS_FILE
from ebbtide.interest.served_models import MODELS, Kind


@pytest.fixture
def write(tmp_path):
    """Writes what the Python models read; the catalog's key order is not its own."""

    def written(model, fingerprint="f" * 16, attributes=True):
        index = model.pipeline.index
        files = {
            TENSORS_FILE: model.parameters.tensors(),
            exported.CATALOG_FILE: {
                exported.SORTED_KEY: index.sorted_key,
                exported.CATALOG_INDEX: index.catalog_index,
                exported.EVENT_VECTORS: model.vectors,
            },
            exported.FACTORS_FILE: {exported.ITEM_FACTORS: model.factors},
            exported.ATTRIBUTES_FILE: {exported.COLUMN_WORD: np.array([0, 1])},
        }
        if attributes:
            found = model.attributes
            order = found.keys.catalog_index
            files[exported.ATTRIBUTES_FILE] = {
                exported.COLUMN_WORD: found.column_word,
                exported.ATTRIBUTE_KEY: found.keys.sorted_key,
                exported.ATTRIBUTE_COLUMN: found.column[order],
                exported.ATTRIBUTE_BIT: found.bit[order],
            }
        (tmp_path / CONFIG_FILE).write_text(model.parameters.config.to_json())
        for name, arrays in files.items():
            save_file(arrays, str(tmp_path / name), metadata={"fingerprint": fingerprint})
        return tmp_path

    return written


def is_mapped(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


@pytest.mark.parametrize("attributes", [True, False])
def test_everything_answers_alike_when_it_was_read_from_files(make_model, ask_at_random, write, attributes):
    model = make_model()
    folder = write(model, attributes=attributes)
    pipeline, explainer = exported.read_pipeline(folder), exported.read_explainer(folder)
    scorer = exported.read_candidate_scorer(folder)
    random = np.random.default_rng(2)
    requests = [ask_at_random(random, model, candidates=True) for _ in range(8)]
    if not attributes:
        requests = [type(one)(**(vars(one) | {"allow_attribute": None})) for one in requests]
    for one, got, expected in zip(requests, pipeline.run(requests), model.pipeline.run(requests), strict=True):
        for name, value in vars(expected).items():
            if attributes or name != "item_filter":
                np.testing.assert_array_equal(getattr(got, name), value)
        np.testing.assert_array_equal(explainer.run(one).event_share, model.explainer.run(one).event_share)
        part = {name: getattr(expected, name)[None] for name in ("interest", "adjust_item", "adjust_score")}
        part["candidate_item"] = one.candidate_item[None]
        (score,), (known,) = scorer.run_requests([part]), model.scorer.run_requests([part])
        np.testing.assert_array_equal(score["candidate_score"], known["candidate_score"])


def test_tables_are_mapped_and_not_copied(make_model, write):
    folder = write(make_model(items=70_000))
    pipeline, scorer = exported.read_pipeline(folder), exported.read_candidate_scorer(folder)
    for table in (pipeline._vectors, pipeline.index.sorted_key, pipeline.index.catalog_index, scorer._factors):
        assert is_mapped(table)
        assert type(table) is np.ndarray
    assert pipeline.index._first_keys.size * 64 <= 70_000 + 63


@pytest.mark.parametrize(
    ("read", "file"),
    [
        (exported.read_pipeline, TENSORS_FILE),
        (exported.read_candidate_scorer, TENSORS_FILE),
        (exported.read_explainer, TENSORS_FILE),
    ],
)
def test_files_are_refused_with_both_ids_when_they_are_of_two_exports(make_model, write, read, file):
    folder = write(make_model(), fingerprint="e" * 16)
    with pytest.raises(ValueError, match=rf"{file}: got fingerprint e+; expected f+"):
        read(folder)


def test_every_python_model_states_its_files():
    assert set(exported.MODEL_FILES) == {model.name for model in MODELS.values() if model.kind is Kind.PYTHON}
