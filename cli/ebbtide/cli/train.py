"""``ebbtide train``: an event log and a catalog become an interest bundle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.bundle_data import absolute
from ebbtide.cli.console import console, errors, escape, timed, working
from ebbtide.cli.log_options import EncodingOfTexts, FormatOfTimes, UnitOfTimes
from ebbtide.cli.modules import require_modules
from ebbtide.cli.outputs import require_bundle_folder, require_different, require_folder, require_outside
from ebbtide.cli.training_display import TrainingDisplay
from ebbtide.train.choices import Decay, DeviceKind, FineTuning, Loss, Precision

if TYPE_CHECKING:
    from ebbtide.train.bundle import InterestBundle
    from ebbtide.train.config import TrainConfig
    from ebbtide.train.trainer import Fit


_TEXT_TEMPLATE = "{text}"
_DRAWING = ", ".join(loss.value for loss in Loss if loss.draws)
_TUNING = "lora or full"
_WITHOUT_DECAY = {"auto", "none", "inf"}
"""Values of --prior-half-lives that mean the same with and without decay."""


def command(
    events: Annotated[
        str,
        typer.Option(help="Event log: Parquet, CSV, TSV or JSON Lines; a folder or an s3:// URL of Parquet files."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the bundle to.")],
    user_col: Annotated[str, typer.Option(help="Column with the user id.")] = "user",
    item_col: Annotated[str, typer.Option(help="Column with the item id.")] = "item",
    time_col: Annotated[
        str, typer.Option(help="Column with the time: Unix time, a date-time, or ISO 8601 text (UTC without a zone).")
    ] = "time",
    time_unit: UnitOfTimes = None,
    time_format: FormatOfTimes = None,
    encoding: EncodingOfTexts = None,
    weight_col: Annotated[
        str | None,
        typer.Option(
            help="Column with the event weight: rating, quantity or dwell time. Without it every event has weight 1."
        ),
    ] = None,
    event_type_col: Annotated[
        str | None,
        typer.Option(
            help="Column with what the user did: view, cart, purchase, skip, dislike. The weight of each type in the "
            "interest is learned and may be negative."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE",
            help="Event type to predict, such as purchase, with --event-type-col. May be given several times.",
        ),
    ] = None,
    catalog: Annotated[
        str | None,
        typer.Option(help="Catalog file. Without it the items are those of the log, and an item's text is its id."),
    ] = None,
    catalog_item_col: Annotated[
        str | None, typer.Option(help="Item id column of the catalog. Default: the value of --item-col.")
    ] = None,
    text_template: Annotated[
        str, typer.Option(help="Text that describes an item; {column} stands for the value of a catalog column.")
    ] = _TEXT_TEMPLATE,
    title_template: Annotated[str | None, typer.Option(help="Title shown to users. Default: the text.")] = None,
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Vectors of the items from another model, as a feature block of that name: Parquet with item ids and "
            "a column of lists of numbers, or .npz. May be given several times.",
        ),
    ] = None,
    max_bad_rows: Annotated[
        float, typer.Option(help="Refuse a file if more than this share of its rows cannot be used.", min=0, max=1)
    ] = 0.01,
    encoder: Annotated[
        str,
        typer.Option(help="Pre-trained language model: 'packaged' (MiniLM, English), a folder or a Hugging Face id."),
    ] = "packaged",
    holdout: Annotated[
        str,
        typer.Option(
            help="Events to hold out for `ebbtide evaluate`: none, leave-last-out, time:F (the last share F of "
            "the log) or time:DATE."
        ),
    ] = "none",
    dimensions: Annotated[int, typer.Option(help="Number of interest dimensions.")] = 96,
    decay: Annotated[
        Decay,
        typer.Option(
            help="learned: a half-life for each interest dimension. popularity: only popularity decays. none: no decay."
        ),
    ] = Decay.learned,
    text: Annotated[
        bool, typer.Option(help="Whether items have a text part. --no-text shows what the texts are worth.")
    ] = True,
    alpha: Annotated[
        str, typer.Option(help="Share of history in the blend: learned, per-dimension, or fixed:A with A from 0 to 1.")
    ] = "learned",
    session_gap_minutes: Annotated[float, typer.Option(help="A pause longer than this ends a session.")] = 30.0,
    prior_half_lives: Annotated[
        str,
        typer.Option(
            help="Half-lives of the popularity prior, in days, separated by commas; 'inf': no decay. 'none': no prior. "
            "Default: 20 minutes to 10 years, of which training keeps those that predict."
        ),
    ] = "auto",
    repeats: Annotated[
        bool | None,
        typer.Option(
            "--repeats/--no-repeats",
            help="Whether seen items are recommended again, by a learned score for repeats (groceries, songs, news). "
            "Default: if at least 5 % of the log's events are repeats.",
        ),
    ] = None,
    epochs: Annotated[
        int,
        typer.Option(
            help="Maximum number of epochs. Validation on the last part of the training period decides when to stop."
        ),
    ] = 8,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of the one-cycle schedule.")] = 4e-3,
    dropout: Annotated[float, typer.Option(help="Dropout rate of event vectors in training.")] = 0.4,
    residual_dropout: Annotated[
        float,
        typer.Option(
            help="Share of items whose learned residual is dropped in a training step, so that the text part "
            "also works for new items."
        ),
    ] = 0.2,
    block_dropout: Annotated[
        float | None,
        typer.Option(
            help="Share of items that a training step leaves without their vector, in each block of --vectors. "
            "Default: 0.2."
        ),
    ] = None,
    windows_per_batch: Annotated[
        int, typer.Option(help="Training windows per batch (32 events each). Larger is faster on long logs.")
    ] = 32,
    refit: Annotated[
        bool,
        typer.Option(help="Train again on all events, with those of validation, for the best number of epochs."),
    ] = True,
    loss: Annotated[
        Loss | None,
        typer.Option(
            help="full-softmax; sampled-softmax, bpr or gbce with sampled negatives; mse on ratings. Default: "
            "full-softmax, or sampled-softmax for catalogs with more than 5,000 items."
        ),
    ] = None,
    negatives: Annotated[
        int | None,
        typer.Option(help="Sampled negatives per training step, for the losses that use them. Default: 2048."),
    ] = None,
    encoder_fine_tuning: Annotated[
        FineTuning,
        typer.Option(help="frozen; lora: low-rank adapters (needs ebbtide[lora]); full: all weights of the encoder."),
    ] = FineTuning.frozen,
    encoder_learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate of the encoder. Default: 5e-4 for lora, 2e-5 for full.")
    ] = None,
    encoder_items_per_step: Annotated[
        int | None,
        typer.Option(help="Texts encoded with gradients per training step, for lora and full. Default: 64."),
    ] = None,
    private_epsilon: Annotated[
        float | None,
        typer.Option(
            help="Train with differential privacy for each user, with this epsilon (needs the extra private). Leaves "
            "out popularity, repeats and the items' own vectors."
        ),
    ] = None,
    private_delta: Annotated[
        float | None, typer.Option(help="Delta of this privacy; below one over the number of users.")
    ] = None,
    private_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of a private training, in place of epochs. Default: 300.")
    ] = None,
    private_users: Annotated[
        int | None, typer.Option(min=1, help="Users of a private step, on average. Default: 64.")
    ] = None,
    private_clip_norm: Annotated[
        float | None, typer.Option(help="Largest gradient of a user in a private step. Default: 1.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints. After an interruption, --resume continues from there.")
    ] = None,
    checkpoint_batches: Annotated[
        int | None, typer.Option(min=1, help="Batches between two checkpoints within an epoch. Default: 1000.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue from the checkpoint. The bundle is the same as without the interruption."
        ),
    ] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard's logs (needs the package tensorboard).")
    ] = None,
    device: Annotated[
        DeviceKind, typer.Option(help="Device to train on. auto: a GPU if there is one.")
    ] = DeviceKind.cpu,
    devices: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of processes that share each batch, one per GPU. Under torchrun: the number that it starts.",
        ),
    ] = 1,
    precision: Annotated[
        Precision,
        typer.Option(help="Precision of large matrix products: fp32, bf16, or fp16 for GPUs without bfloat16."),
    ] = Precision.fp32,
    seed: Annotated[int, typer.Option(help="Random seed. The same seed, data and versions give the same bundle.")] = 0,
) -> None:
    """Train the interest model on an event log.

    **Example**

    ebbtide train --events ratings.parquet --user-col userId --item-col movieId --time-col timestamp
    --catalog movies.parquet --text-template "{title} ({year}). {genres}" --out artifacts/bundle

    The plain formulas, without learned decay and alpha: --decay none --alpha fixed:0.5. Their loss:
    --loss mse --weight-col rating.
    """
    if time_unit is not None and time_format is not None:
        raise typer.BadParameter("expected --time-unit for numbers or --time-format for text, not both")
    if catalog is None:
        for option, is_given in (
            ("--catalog-item-col", catalog_item_col is not None),
            ("--text-template", text_template != _TEXT_TEMPLATE),
            ("--title-template", title_template is not None),
        ):
            if is_given:
                raise typer.BadParameter(f"expected --catalog FILE with {option}, which names its columns")
    tunes, is_private = encoder_fine_tuning is not FineTuning.frozen, private_epsilon is not None
    if is_private:
        for option, is_given in (
            ("--repeats", bool(repeats)),
            ("--prior-half-lives", prior_half_lives.strip() not in {"auto", "none"}),
            ("--vectors", bool(vectors)),
            ("--checkpoint", checkpoint is not None),
            ("--tensorboard", tensorboard is not None),
            ("--devices", devices > 1),
            ("--device cuda", device is DeviceKind.cuda),
            (f"--precision {precision.value}", precision is not Precision.fp32),
        ):
            if is_given:
                raise typer.BadParameter(f"expected no {option} with --private-epsilon")
    for option, is_given, needed, has_it in (
        ("--resume", resume, "--checkpoint FOLDER", checkpoint is not None),
        ("--checkpoint-batches", checkpoint_batches is not None, "--checkpoint FOLDER", checkpoint is not None),
        ("--loss mse", loss is Loss.mse, "--weight-col COLUMN, which has the ratings,", weight_col is not None),
        ("--private-epsilon", is_private, "--private-delta", private_delta is not None),
        ("--private-delta", private_delta is not None, "--private-epsilon", is_private),
        ("--private-steps", private_steps is not None, "--private-epsilon", is_private),
        ("--private-users", private_users is not None, "--private-epsilon", is_private),
        ("--private-clip-norm", private_clip_norm is not None, "--private-epsilon", is_private),
        ("--block-dropout", block_dropout is not None, "--vectors NAME=FILE", bool(vectors)),
        ("--target", bool(target), "--event-type-col COLUMN", event_type_col is not None),
        ("--negatives", negatives is not None, f"--loss {_DRAWING}", loss is None or loss.draws),
        ("--encoder-items-per-step", encoder_items_per_step is not None, f"--encoder-fine-tuning {_TUNING}", tunes),
        ("--encoder-learning-rate", encoder_learning_rate is not None, f"--encoder-fine-tuning {_TUNING}", tunes),
        (f"--encoder-fine-tuning {encoder_fine_tuning.value}", tunes, "--text, not --no-text,", text),
    ):
        if is_given and not has_it:
            raise typer.BadParameter(f"expected {needed} with {option}")
    if decay is Decay.none and prior_half_lives.strip() not in _WITHOUT_DECAY:
        raise typer.BadParameter(
            f"got --prior-half-lives {prior_half_lives} with --decay none, which counts without decay; expected one of "
            "the two"
        )
    events = absolute(events)
    require_bundle_folder("--out", out)
    require_folder("--checkpoint", checkpoint)
    require_folder("--tensorboard", tensorboard)
    folders = {"--out": out, "--checkpoint": checkpoint, "--tensorboard": tensorboard}
    require_different(folders)
    for option, folder in folders.items():
        require_outside(option, folder, "--events", events)
        require_outside(option, folder, "--out", out)
    require_modules("ebbtide train", "train", "torch", "transformers")
    if encoder_fine_tuning is FineTuning.lora:
        require_modules("--encoder-fine-tuning lora", "lora", "peft")
    if is_private:
        require_modules("--private-epsilon", "private", "opacus")
    if tensorboard is not None:
        require_modules("--tensorboard", "tensorboard", "tensorboard")
    # Under torchrun every process runs this command; only the first one prints.
    console.quiet = errors.quiet = console.quiet or os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) != "0"
    from ebbtide.data.dataset import DataReference, read_blocks, read_dataset
    from ebbtide.data.splits import held_out, require_protocol
    from ebbtide.data.vectors import parse_vectors

    require_protocol(holdout)
    data = DataReference(
        events=events,
        catalog=None if catalog is None else absolute(catalog),
        user_column=user_col,
        item_column=item_col,
        time_column=time_col,
        weight_column=weight_col,
        catalog_item_column=catalog_item_col or item_col,
        text_template=text_template,
        title_template=title_template,
        max_bad_rows=max_bad_rows,
        holdout=holdout,
        time_unit=time_unit,
        time_format=time_format,
        encoding=encoding,
        event_type_column=event_type_col,
        target_types=tuple(dict.fromkeys(target or ())),
        vectors={name: absolute(path) for name, path in parse_vectors(vectors or ()).items()},
    )
    from pydantic import ValidationError

    from ebbtide.train.config import ModelConfig, TrainConfig, parse_half_lives
    from ebbtide.train.privacy import PrivacyConfig

    try:
        model_config = ModelConfig.model_validate(
            {
                "dimensions": dimensions,
                "decay": decay,
                "alpha": alpha,
                "session_gap_minutes": session_gap_minutes,
                "prior_half_life_days": () if is_private else parse_half_lives(prior_half_lives),
                "exclude_seen": not repeats,
                "repeat_score": bool(repeats),
                "text": text,
            }
        )
        train_config = TrainConfig.model_validate(
            {
                "seed": seed,
                "epochs": epochs,
                "learning_rate": learning_rate,
                "dropout": dropout,
                "residual_dropout": residual_dropout,
                "windows_per_batch": windows_per_batch,
                "loss": loss,
                "encoder_fine_tuning": encoder_fine_tuning,
                "encoder_learning_rate": encoder_learning_rate,
                "refit": refit,
                **{
                    name: value
                    for name, value in (
                        ("negatives", negatives),
                        ("encoder_items_per_step", encoder_items_per_step),
                        ("block_dropout", block_dropout),
                    )
                    if value is not None
                },
            }
        )
        privacy = None
        if is_private:
            given = {
                "epsilon": private_epsilon,
                "delta": private_delta,
                "steps": private_steps,
                "users_per_step": private_users,
                "clip_norm": private_clip_norm,
            }
            privacy = PrivacyConfig.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{first['loc'][0]}: got {first['input']!r}; {first['msg']}") from error
    # Most mistakes are in the names of files and columns: they show before torch is loaded.
    with working("Reading the log"):
        dataset = read_dataset(data)
        blocks = read_blocks(data, dataset.catalog)
    held_out(dataset.log, holdout)
    if negatives is not None:
        _say_if_nothing_is_drawn(train_config, len(dataset.catalog))
    with timed("loaded torch and transformers"), working("Loading torch and transformers"):
        from ebbtide.train.board import Board
        from ebbtide.train.checkpoint import CheckpointFolder
        from ebbtide.train.devices import DeviceConfig, Devices
        from ebbtide.train.encoder import encoder_folder
        from ebbtide.train.encoder_settings import EncoderSettings
        from ebbtide.train.stage import train_bundle
        from ebbtide.train.watcher import Watchers
    with working("Looking for the encoder"):
        EncoderSettings.read(encoder_folder(encoder))
    if privacy is not None:
        from ebbtide.train.private_stage import train_private_bundle

        with timed("trained"), _told_when_stopped(out, None), TrainingDisplay() as display:
            private, _ = train_private_bundle(data, encoder, model_config, train_config, privacy, display, dataset)
        private.save(out)
        _print_private(private, out)
        return
    compute = Devices(DeviceConfig(device=device, devices=devices, precision=precision))
    checkpoints = None
    if checkpoint is not None:
        checkpoints = CheckpointFolder(checkpoint, resume=resume, every_batches=checkpoint_batches or 1000)
    with timed("trained"), _told_when_stopped(out, checkpoint), TrainingDisplay() as display:
        display.bad_vectors = {name: bad for name, (_, bad) in blocks.items()}
        watcher = display if tensorboard is None else Watchers(display, Board(tensorboard))
        bundle, fit, _ = train_bundle(
            data,
            encoder,
            model_config,
            train_config,
            watcher,
            checkpoints,
            compute,
            detect_repeats=repeats is None,
            dataset=dataset,
            vectors={name: found for name, (found, _) in blocks.items()},
        )
    if not compute.is_first:
        return
    bundle.save(out)
    if checkpoints is not None:
        checkpoints.clear()
    _print_bundle(bundle, fit, out)


def _print_private(bundle: InterestBundle, out: Path) -> None:
    promised = bundle.config.privacy
    if promised is not None:
        console.print(
            f"[green]✓[/green] private bundle {bundle.fingerprint} in {escape(str(out))}: epsilon "
            f"{promised.epsilon:.3g}, delta {promised.delta:g} for each user; noise {promised.noise_multiplier:.3g} "
            f"times the clip norm, {promised.steps:,} steps"
        )


def _say_if_nothing_is_drawn(config: TrainConfig, items: int) -> None:
    loss = config.for_catalog(items).loss
    if loss is not None and not loss.draws:
        errors.print(
            f"note: --negatives {config.negatives} has no effect: {loss.value}, the default for a catalog of {items:,} "
            f"items, draws none; a --loss that does: {_DRAWING}",
            soft_wrap=True,
        )


@contextmanager
def _told_when_stopped(out: Path, checkpoint: Path | None) -> Iterator[None]:
    """On Ctrl-C, says what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        kept = "nothing was written; with --checkpoint FOLDER a training can be continued"
        if checkpoint is not None:
            kept = f"the newest checkpoint, if there is one, is in {checkpoint}: continue with --resume"
        earlier = f"; the earlier bundle in {out} is unchanged" if (out / "bundle.json").is_file() else ""
        errors.print(f"stopped: {escape(kept + earlier)}", soft_wrap=True)
        raise


def _print_bundle(bundle: InterestBundle, fit: Fit, out: Path) -> None:
    from ebbtide.cli.inspect import event_type_table, half_life_table
    from ebbtide.train.inspection import inspect_bundle

    model = bundle.model
    if model.config.decay == "learned":
        console.print(half_life_table(inspect_bundle(bundle)))
    if model.config.event_types:
        weights = dict(zip(model.config.event_types, model.event_type_weight.tolist(), strict=True))
        console.print(event_type_table(weights, bundle.config.data.target_types))
    console.print(
        f"[green]✓[/green] bundle {bundle.fingerprint} in {escape(str(out))}: best epoch {fit.best_epoch}, "
        f"validation NDCG@10 {bundle.config.validation_ndcg_at_10:.4f}"
    )
