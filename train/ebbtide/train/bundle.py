"""The interest bundle: a folder with the results of training. Reading it runs no code from it.

=====================  =================================================================================
``bundle.json``        settings, encoder, prior, data description, fingerprint
``weights.safetensors``  the interest model's parameters, the catalog's text vectors and other features, the
                         prior's columns
``catalog.parquet``    ``item_id``, ``text``, ``title``; the row is the catalog index
``encoder/``           the language model, only after fine-tuning
=====================  =================================================================================
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ebbtide.data.catalog import Catalog
from ebbtide.data.dataset import BUNDLE_CATALOG_FILE as CATALOG_FILE
from ebbtide.data.dataset import BUNDLE_CONFIG_FILE as CONFIG_FILE
from ebbtide.data.dataset import DataReference
from ebbtide.interest.popularity import CountedPopularity
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.encoder import encoder_folder
from ebbtide.train.errors import BundleError
from ebbtide.train.files import default_mode, partial_folder, put_in_place
from ebbtide.train.model import InterestModel
from ebbtide.train.privacy import Guarantee

FORMAT = 4
WEIGHTS_FILE = "weights.safetensors"
ENCODER_FOLDER = "encoder"
TUNED = "bundle:encoder"
"""`EncoderReference.source` of a fine-tuned encoder, which the bundle contains."""
_TEXT_VECTORS = "text_vectors"
_PRIOR_COLUMNS = "prior_columns"
_PRIOR_COUNTS = "prior_counts"
_FEATURES = "features."
_MODEL = "model."
_FINGERPRINT_CHARACTERS = 16


class EncoderReference(BaseModel):
    """The language model that embedded the texts; the bundle does not copy its weights unless they were fine-tuned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """``packaged``, a folder, a Hugging Face id, or `TUNED`."""
    fingerprint: str
    """`ebbtide.train.encoder.encoder_fingerprint` of its files."""


class BlockConfig(BaseModel):
    """A feature block beside text and residual; its arrays are in the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int
    """Numbers in a vector."""
    items: int
    """Items that have a vector."""


class _Versioned(BaseModel):
    """The fields of ``bundle.json`` that every format has."""

    format: int


class BundleConfig(BaseModel):
    """The content of ``bundle.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    format: int = FORMAT
    fingerprint: str
    """First 16 hex digits of the SHA-256 over the files' content and the settings."""
    model: ModelConfig
    training: TrainConfig
    encoder: EncoderReference
    data: DataReference
    prior_counted_at_ms: int
    """Unix time in milliseconds up to which the prior counts events."""
    best_epoch: int
    validation_ndcg_at_10: float
    rating_mean: float | None = None
    """Scores are predicted ratings minus this mean; None for a bundle that was trained to rank."""
    privacy: Guarantee | None = None
    """What a private training promises to each user; None for a training without noise."""
    counted: DataReference | None = None
    """The log of the last refresh, if it is another one than that of the training."""
    blocks: dict[str, BlockConfig] = {}
    """The feature blocks beside text and residual, by name."""


@dataclass(frozen=True)
class InterestBundle:
    """A trained model with its catalog."""

    config: BundleConfig
    catalog: Catalog
    model: InterestModel
    """The trained model, which includes the catalog's text vectors."""
    prior_columns: npt.NDArray[np.float32]
    """``[items, p]``: see `ebbtide.train.popularity.Smoothing.columns`, as of `prior_counted_at_ms`."""
    folder: Path | None = None
    """The folder that the bundle was read from; None after training."""
    encoder_files: dict[str, bytes] | None = None
    """The files of an encoder that this training fine-tuned, by relative path; None otherwise."""
    prior_counts: npt.NDArray[np.float64] | None = None
    """``[half-lives, items]``: the decayed counts that the columns were computed from; None without a prior, and in a
    bundle from before servers counted on, until it is refreshed. No part of the fingerprint: the columns are."""

    @property
    def fingerprint(self) -> str:
        """The id that every model of an export carries."""
        return self.config.fingerprint

    @property
    def counted_popularity(self) -> CountedPopularity | None:
        """The counts of the prior, which a server goes on counting from; None where `prior_counts` is."""
        if self.prior_counts is None:
            return None
        return CountedPopularity(self.model.smoothing, self.prior_counts, self.config.prior_counted_at_ms)

    @property
    def text_vectors(self) -> npt.NDArray[np.float32]:
        """``[items, text width]``."""
        return self.model.text_vectors.numpy()

    def encoder_folder(self) -> Path:
        """The local folder of the encoder that embedded the texts.

        Raises:
            EncoderError: The folder is not found.
            BundleError: The encoder was fine-tuned and is in memory only.
        """
        if self.config.encoder.source != TUNED:
            return encoder_folder(self.config.encoder.source)
        if self.folder is None:
            raise BundleError("encoder: got a fine-tuned encoder in memory; expected files: save and load the bundle")
        return encoder_folder(str(self.folder / ENCODER_FOLDER))

    def save(self, folder: str | Path) -> None:
        """Writes the bundle and replaces an earlier one in one step; a failed or killed write leaves the earlier one.

        Raises:
            BundleError: The folder contains other files, or its name is empty.
            OSError: The disk is full, or the folder cannot be written to.
        """
        folder = _folder(folder)
        if folder.exists() and any(folder.iterdir()) and not (folder / CONFIG_FILE).is_file():
            raise BundleError(f"{folder}: got other files; expected an empty folder or a bundle: choose another")
        with partial_folder(folder) as partial:
            with default_mode(partial / WEIGHTS_FILE):
                counts = {} if self.prior_counts is None else {_PRIOR_COUNTS: np.ascontiguousarray(self.prior_counts)}
                save_file({**_tensors(self.model, self.prior_columns), **counts}, str(partial / WEIGHTS_FILE))
            _catalog_frame(self.catalog).write_parquet(partial / CATALOG_FILE)
            (partial / CONFIG_FILE).write_text(self.config.model_dump_json(indent=2) + "\n", encoding="utf-8")
            if self.encoder_files is not None:
                for name, content in self.encoder_files.items():
                    path = partial / ENCODER_FOLDER / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
            elif self.config.encoder.source == TUNED:
                shutil.copytree(self.encoder_folder(), partial / ENCODER_FOLDER)
            put_in_place(partial, folder)

    @classmethod
    def load(cls, folder: str | Path) -> InterestBundle:
        """Reads a bundle.

        Raises:
            BundleError: A file is missing, is damaged or belongs to another bundle; or the folder's name is empty.
        """
        folder = _folder(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE, CATALOG_FILE):
            if not (folder / name).is_file():
                raise BundleError(f"{folder}: got no {name}; expected a bundle written by `ebbtide train`")
        try:
            text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
            found_format = _Versioned.model_validate_json(text).format
            if found_format != FORMAT:
                raise BundleError(f"{folder}: got bundle format {found_format}; expected {FORMAT}: train again")
            config = BundleConfig.model_validate_json(text)
            tensors = load_file(str(folder / WEIGHTS_FILE))
        except (ValidationError, SafetensorError) as error:
            raise BundleError(f"{folder}: damaged bundle: {error}") from error
        frame = pl.read_parquet(folder / CATALOG_FILE)
        catalog = Catalog(*(frame[column].to_list() for column in ("item_id", "text", "title")))
        features = {
            name.removeprefix(_FEATURES): torch.from_numpy(tensors.pop(name))
            for name in sorted(tensors)
            if name.startswith(_FEATURES)
        }
        if set(features) != set(config.blocks):
            raise BundleError(
                f"{folder}: got feature blocks {sorted(features)} in {WEIGHTS_FILE}; expected {sorted(config.blocks)}, "
                f"as in {CONFIG_FILE}: the files belong to different bundles"
            )
        model = InterestModel(config.model, torch.from_numpy(tensors.pop(_TEXT_VECTORS)), features)
        prior_columns, prior_counts = tensors.pop(_PRIOR_COLUMNS), tensors.pop(_PRIOR_COUNTS, None)
        state = {name.removeprefix(_MODEL): torch.from_numpy(value) for name, value in tensors.items()}
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise BundleError(f"{folder}: got tensors of another model version; train again: {error}") from error
        bundle = cls(config, catalog, model.eval(), prior_columns, folder, prior_counts=prior_counts)
        found = fingerprint_of(bundle.model, prior_columns, catalog, config.encoder)
        if found != config.fingerprint:
            raise BundleError(
                f"{folder}: got files with fingerprint {found}; expected {config.fingerprint}, as in {CONFIG_FILE}: "
                "the files are damaged or belong to different bundles"
            )
        return bundle


def _folder(path: str | Path) -> Path:
    if not str(path):
        raise BundleError("got an empty path; expected the folder of a bundle")
    return Path(path)


def fingerprint_of(
    model: InterestModel, prior_columns: npt.NDArray[np.float32], catalog: Catalog, encoder: EncoderReference
) -> str:
    """The id of a bundle: equal parameters, catalog, encoder and settings give an equal id."""
    digest = hashlib.sha256()
    # The tensors already determine the settings of the repeat score. Without these settings in the digest, bundles from
    # before the repeat score keep their fingerprint.
    excluded = {name for name in ModelConfig.model_fields if name.startswith("repeat_")}
    if not model.config.event_types:
        excluded.add("event_types")
    settings = model.config.model_dump_json(exclude=excluded)
    digest.update(f"{FORMAT}\n{settings}\n{encoder.fingerprint}\n".encode())
    for name, value in sorted(_tensors(model, prior_columns).items()):
        digest.update(f"{name}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    for column in (catalog.item_id, catalog.text, catalog.title):
        digest.update("\0".join(column).encode())
    return digest.hexdigest()[:_FINGERPRINT_CHARACTERS]


def _tensors(model: InterestModel, prior_columns: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
    parameters = {_MODEL + name: value.detach().numpy() for name, value in model.state_dict().items()}
    features = {_FEATURES + name: rows.numpy() for name, rows in model.added_blocks.features().items()}
    return {**parameters, **features, _TEXT_VECTORS: model.text_vectors.numpy(), _PRIOR_COLUMNS: prior_columns}


def _catalog_frame(catalog: Catalog) -> pl.DataFrame:
    return pl.DataFrame({"item_id": catalog.item_id, "text": catalog.text, "title": catalog.title})
