"""The whole train stage: read the data, embed the catalog, fit the interest model, put the bundle together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from platformdirs import user_cache_path

from ebbtide.data.baskets import repeat_share
from ebbtide.data.dataset import DataReference, Dataset, read_blocks, read_dataset
from ebbtide.data.errors import DataError
from ebbtide.data.splits import held_out
from ebbtide.data.value_notes import note_script
from ebbtide.data.vectors import ItemVectors
from ebbtide.train.blocks import Standardised
from ebbtide.train.bundle import TUNED, BlockConfig, BundleConfig, EncoderReference, InterestBundle, fingerprint_of
from ebbtide.train.checkpoint import CheckpointFolder
from ebbtide.train.choices import FineTuning, Loss
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.devices import Devices
from ebbtide.train.encoder import PACKAGED, embed_cached, encoder_fingerprint, encoder_folder, files_fingerprint
from ebbtide.train.fine_tuning import EncoderFineTuner
from ebbtide.train.popularity import counted_at
from ebbtide.train.trainer import Fit, fit
from ebbtide.train.watcher import Watcher

REPEATS_FROM = 0.05
"""Share of the events that repeat an item of their user from which seen items are recommended again."""


def train_bundle(
    data_reference: DataReference,
    encoder: str,
    model_config: ModelConfig,
    train_config: TrainConfig,
    watcher: Watcher | None = None,
    checkpoints: CheckpointFolder | None = None,
    devices: Devices | None = None,
    *,
    detect_repeats: bool = False,
    dataset: Dataset | None = None,
    vectors: Mapping[str, ItemVectors] | None = None,
) -> tuple[InterestBundle, Fit, Dataset]:
    """Trains on the events that the data description does not hold out.

    Args:
        data_reference: Files, columns and holdout.
        encoder: ``packaged``, a folder, or a Hugging Face id.
        model_config: Shape of the model.
        train_config: Seed, epochs, rates.
        watcher: Told of progress.
        checkpoints: Where to keep what is needed to go on after a kill, and to look for it.
        devices: Where to compute; one CPU unless given. Of several processes each gets the whole result.
        detect_repeats: Whether the log decides about seen items and the repeat score, instead of the configuration.
        dataset: The data of the reference, if they are read already.
        vectors: Feature blocks beside text and residual, by name, with a row for each item of the dataset; None reads
            those that the reference names.

    Returns:
        The bundle (not yet saved), how the fit went, and the data.

    Raises:
        DataError: Unusable data.
        EncoderError: No such encoder.
        CheckpointError: The checkpoint there is of another training.
    """
    if train_config.loss is Loss.mse and data_reference.weight_column is None:
        raise DataError("loss: got 'mse' without ratings; expected --weight-col to name their column, or another loss")
    watcher = watcher or Watcher()
    data = read_dataset(data_reference) if dataset is None else dataset
    if encoder == PACKAGED and model_config.text and data.bad_items is not None:
        note_script(data.catalog.text, data.bad_items)
    watcher.data_read(data)
    if vectors is None:
        vectors = {name: found for name, (found, _) in read_blocks(data_reference, data.catalog).items()}
    train_config = train_config.for_catalog(len(data.catalog))
    is_training = ~held_out(data.log, data_reference.holdout)
    if data.log.event_types is not None:
        names = data.log.event_types.names
        data_reference = data_reference.model_copy(update={"event_types": names})
        model_config = model_config.model_copy(update={"event_types": names})
    is_counted = is_training & data.log.is_target
    if detect_repeats:
        share = repeat_share(data.log, is_counted)
        repeats = share >= REPEATS_FROM
        model_config = model_config.model_copy(update={"exclude_seen": not repeats, "repeat_score": repeats})
        watcher.repeats_detected(share, repeats)
    folder = encoder_folder(encoder)
    encoder_reference = EncoderReference(source=encoder, fingerprint=encoder_fingerprint(folder))
    total = len(data.catalog)
    text_vectors = embed_cached(
        folder,
        encoder_reference.fingerprint,
        data.catalog.text,
        user_cache_path("ebbtide"),
        lambda done: watcher.texts_embedded(done, total),
    )
    if not model_config.text:
        text_vectors = np.zeros_like(text_vectors)
    make_fine_tuner = None
    if train_config.encoder_fine_tuning is not FineTuning.frozen:
        make_fine_tuner = partial(
            EncoderFineTuner,
            folder,
            data.catalog.text,
            train_config.encoder_fine_tuning,
            train_config.encoder_items_per_step,
        )
    standardised = {name: Standardised.of(one) for name, one in sorted(vectors.items())}
    result = fit(
        data.log,
        is_training,
        text_vectors,
        model_config,
        train_config,
        watcher,
        checkpoints,
        make_fine_tuner,
        devices,
        {name: one.features for name, one in standardised.items()},
    )
    result.model.added_blocks.remember(standardised)
    encoder_files = None
    if result.fine_tuner is not None:
        encoder_files = result.fine_tuner.files()
        encoder_reference = EncoderReference(source=TUNED, fingerprint=files_fingerprint(encoder_files))

    counted_at_ms = int(data.log.time_ms[is_training].max()) + 1
    counted = counted_at(
        data.log.item[is_counted], data.log.time_ms[is_counted], total, result.model.smoothing, counted_at_ms
    )
    prior_columns = counted.columns()
    config = BundleConfig(
        fingerprint=fingerprint_of(result.model, prior_columns, data.catalog, encoder_reference),
        model=model_config,
        training=train_config,
        encoder=encoder_reference,
        data=data_reference,
        prior_counted_at_ms=counted_at_ms,
        best_epoch=result.best_epoch,
        validation_ndcg_at_10=result.validation_ndcg_at_10,
        rating_mean=result.rating_mean,
        blocks={name: BlockConfig(width=one.width, items=one.items) for name, one in sorted(vectors.items())},
    )
    bundle = InterestBundle(
        config,
        data.catalog,
        result.model,
        prior_columns,
        encoder_files=encoder_files,
        prior_counts=counted.counts if model_config.prior_starts else None,
    )
    return bundle, result, data
