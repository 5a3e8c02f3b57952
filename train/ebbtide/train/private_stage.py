"""The train stage with differential privacy: read data, embed the public catalog, fit with noise, make the bundle."""

from __future__ import annotations

import math

import numpy as np
from platformdirs import user_cache_path

from ebbtide.data.dataset import DataReference, Dataset, read_dataset
from ebbtide.data.errors import DataError
from ebbtide.data.splits import held_out
from ebbtide.data.value_notes import note_script
from ebbtide.train.bundle import BundleConfig, EncoderReference, InterestBundle, fingerprint_of
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.encoder import PACKAGED, embed_cached, encoder_fingerprint, encoder_folder
from ebbtide.train.privacy import PrivacyConfig
from ebbtide.train.private_fit import fit_private, require_private
from ebbtide.train.watcher import Watcher


def train_private_bundle(
    data_reference: DataReference,
    encoder: str,
    model_config: ModelConfig,
    train_config: TrainConfig,
    privacy: PrivacyConfig,
    watcher: Watcher | None = None,
    dataset: Dataset | None = None,
) -> tuple[InterestBundle, Dataset]:
    """Trains on the events that the data description does not hold out, with the user as the unit of privacy.

    What the bundle says of the log besides the model is in the data description alone: paths, names of columns and
    the holdout, as they were given. It has no popularity, no time of the last event and no result of a validation.

    Args:
        data_reference: Files, columns and holdout.
        encoder: ``packaged``, a folder, or a Hugging Face id.
        model_config: Shape of the model, without prior and repeat score.
        train_config: Learning rate, dropout, negatives.
        privacy: What is promised.
        watcher: Told of progress, but of no loss: it is not private.
        dataset: The data of the reference, if they are read already.

    Returns:
        The bundle (not yet saved), and the data.

    Raises:
        DataError: Unusable data, or settings under which something would leak.
        EncoderError: No such encoder.
    """
    _require_public(data_reference)
    require_private(model_config, train_config)
    watcher = watcher or Watcher()
    data = read_dataset(data_reference) if dataset is None else dataset
    if encoder == PACKAGED and model_config.text and data.bad_items is not None:
        note_script(data.catalog.text, data.bad_items)
    watcher.data_read(data)
    train_config = train_config.for_catalog(len(data.catalog))
    folder = encoder_folder(encoder)
    reference = EncoderReference(source=encoder, fingerprint=encoder_fingerprint(folder))
    total = len(data.catalog)
    text_vectors = embed_cached(
        *(folder, reference.fingerprint, data.catalog.text, user_cache_path("ebbtide")),
        lambda done: watcher.texts_embedded(done, total),
    )
    watcher.fit_started("train privately", 1, 0)
    is_training = ~held_out(data.log, data_reference.holdout)
    model, guarantee = fit_private(
        data.log, is_training, text_vectors, model_config, train_config, privacy, watcher.epoch_part_done
    )
    prior_columns = np.zeros((total, 0), dtype=np.float32)
    config = BundleConfig(
        fingerprint=fingerprint_of(model, prior_columns, data.catalog, reference),
        model=model_config,
        training=train_config,
        encoder=reference,
        data=data_reference,
        prior_counted_at_ms=0,
        best_epoch=0,
        validation_ndcg_at_10=math.nan,
        privacy=guarantee,
    )
    return InterestBundle(config, data.catalog, model, prior_columns), data


def _require_public(data: DataReference) -> None:
    """Refuses a data description by which one user's events would change what is read of others.

    Raises:
        DataError: Names the setting.
    """
    if data.catalog is None:
        raise DataError(
            "catalog: got none with private training; expected a file: else the items would be those of the log"
        )
    if data.vectors:
        raise DataError(
            f"vectors: got {', '.join(sorted(data.vectors))} with private training; expected none: vectors may "
            "be learned from the events of users"
        )
    if data.event_type_column is not None:
        raise DataError(
            f"event types: got column {data.event_type_column!r} with private training; expected none: their names are "
            "read from the log"
        )
    kind, _, value = data.holdout.partition(":")
    if kind == "time" and value.replace(".", "", 1).isdigit():
        raise DataError(
            f"holdout: got {data.holdout!r} with private training; expected time:DATE, leave-last-out or none: the "
            "time of a share depends on the events of all users"
        )
