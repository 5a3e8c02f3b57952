"""``ebbtide train``: an event log and a catalog become an interest bundle."""

from __future__ import annotations

import math
import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ebbtide.cli.console import console, errors, timed
from ebbtide.cli.training_display import TrainingDisplay

if TYPE_CHECKING:
    from ebbtide.train.bundle import InterestBundle
    from ebbtide.train.trainer import Fit


class LossName(str, Enum):
    """`ebbtide.train.losses.Loss`, here without loading torch; a test holds the two together."""

    full_softmax = "full-softmax"
    sampled_softmax = "sampled-softmax"
    bpr = "bpr"
    gbce = "gbce"
    mse = "mse"


class FineTuningName(str, Enum):
    """`ebbtide.train.fine_tuning.Tuning`, here without loading torch; a test holds the two together."""

    frozen = "frozen"
    lora = "lora"
    full = "full"


class DeviceName(str, Enum):
    """Of `ebbtide.train.devices.DeviceConfig`, here without loading torch; a test holds the two together."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class PrecisionName(str, Enum):
    """`ebbtide.train.devices.Precision`, here without loading torch; a test holds the two together."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def command(
    events: Annotated[Path, typer.Option(help="Event log: Parquet, CSV, TSV or JSON Lines.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle to write.")],
    user_col: Annotated[str, typer.Option(help="Column with the user's id.")] = "user",
    item_col: Annotated[str, typer.Option(help="Column with the item's id.")] = "item",
    time_col: Annotated[
        str, typer.Option(help="Column with the time: Unix seconds or milliseconds, a date-time, or ISO 8601 text.")
    ] = "time",
    weight_col: Annotated[
        str | None, typer.Option(help="Column with a rating, quantity or dwell; every event weighs 1 without it.")
    ] = None,
    catalog: Annotated[
        Path | None, typer.Option(help="Catalog file; without it the log's items are described by their ids.")
    ] = None,
    catalog_item_col: Annotated[
        str | None, typer.Option(help="The id column there. As --item-col unless given.")
    ] = None,
    text_template: Annotated[str, typer.Option(help="Text of an item, with {column} for its values.")] = "{text}",
    title_template: Annotated[str | None, typer.Option(help="What users see. The text unless given.")] = None,
    max_bad_rows: Annotated[float, typer.Option(help="Share of unusable rows above which a file is refused.")] = 0.01,
    encoder: Annotated[
        str,
        typer.Option(help="Pre-trained language model: 'packaged' (all-MiniLM-L6-v2), a folder or a Hugging Face id."),
    ] = "packaged",
    holdout: Annotated[
        str,
        typer.Option(help="Kept for `ebbtide evaluate`: none, leave-last-out, time:F (the last share F) or time:DATE."),
    ] = "none",
    dimensions: Annotated[int, typer.Option(help="Interest dimensions.")] = 96,
    decay: Annotated[
        str, typer.Option(help="learned: half-lives of each dimension; none: nothing ever ebbs.")
    ] = "learned",
    alpha: Annotated[
        str, typer.Option(help="Share of history in the blend: learned, per-dimension, or fixed:A with A from 0 to 1.")
    ] = "learned",
    session_gap_minutes: Annotated[float, typer.Option(help="A longer pause ends a session.")] = 30.0,
    prior_half_lives: Annotated[
        str, typer.Option(help="Half-lives of the popularity prior in days, 'inf' for no decay; or 'none'.")
    ] = "2,7,30,365",
    repeats: Annotated[
        bool, typer.Option(help="Whether items already seen may be recommended again, and gain by it.")
    ] = False,
    epochs: Annotated[int, typer.Option(help="At most; a later period of the log decides when to stop.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Peak of the one-cycle schedule.")] = 4e-3,
    dropout: Annotated[float, typer.Option(help="Of event vectors, while training.")] = 0.4,
    residual_dropout: Annotated[
        float, typer.Option(help="Share of the items that a step knows by their texts alone: what new items need.")
    ] = 0.2,
    windows_per_batch: Annotated[
        int, typer.Option(help="Stretches of up to 32 events in one step; more make a long log faster to go through.")
    ] = 32,
    refit: Annotated[bool, typer.Option(help="Train again on all events once the epochs are chosen.")] = True,
    loss: Annotated[
        LossName | None,
        typer.Option(
            help="full-softmax; sampled-softmax, bpr or gbce with drawn negatives; mse on ratings. Unless given, the "
            "first, and for catalogs above 20,000 items the second."
        ),
    ] = None,
    negatives: Annotated[int, typer.Option(help="Drawn for each step by the losses that sample.")] = 512,
    encoder_fine_tuning: Annotated[
        FineTuningName,
        typer.Option(help="frozen; lora: low-rank adapters (needs ebbtide[lora]); full: all weights of the encoder."),
    ] = FineTuningName.frozen,
    encoder_learning_rate: Annotated[
        float | None, typer.Option(help="Its peak; 5e-4 for lora and 2e-5 for full unless given.")
    ] = None,
    encoder_items_per_step: Annotated[int, typer.Option(help="Texts encoded with gradients in one step.")] = 64,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints; a killed training goes on from there with --resume.")
    ] = None,
    checkpoint_batches: Annotated[
        int, typer.Option(min=1, help="Checkpoints within an epoch: one after so many batches.")
    ] = 1000,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint; the bundle comes out as without the kill.")
    ] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard's logs (needs ebbtide[tensorboard]).")
    ] = None,
    device: Annotated[DeviceName, typer.Option(help="auto: a GPU where there is one.")] = DeviceName.cpu,
    devices: Annotated[
        int,
        typer.Option(min=1, help="Processes that share each batch, one a GPU; under torchrun as many as it starts."),
    ] = 1,
    precision: Annotated[
        PrecisionName, typer.Option(help="Of large matrix products: fp32; bf16; fp16, for GPUs without bfloat16.")
    ] = PrecisionName.fp32,
    seed: Annotated[int, typer.Option(help="Same seed, data and versions: same bundle.")] = 0,
) -> None:
    """Train the interest model on an event log.

    **Example**

    ebbtide train --events ratings.parquet --user-col userId --item-col movieId --time-col timestamp
    --catalog movies.parquet --text-template "{title} ({year}). {genres}" --out artifacts/bundle

    The formulas of the source method, without anything learned in the blend: --decay none --alpha fixed:0.5, and
    --loss mse --weight-col rating for its loss.
    """
    if resume and checkpoint is None:
        raise typer.BadParameter("expected --checkpoint FOLDER with --resume")
    # Several processes all run this command; the first one speaks.
    console.quiet = errors.quiet = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) != "0"
    with timed("loaded torch and transformers"), console.status("Loading torch and transformers"):
        from pydantic import ValidationError

        from ebbtide.data.dataset import DataReference
        from ebbtide.train.board import Board
        from ebbtide.train.checkpoint import CheckpointFolder
        from ebbtide.train.config import ModelConfig, TrainConfig, parse_half_lives
        from ebbtide.train.devices import DeviceConfig, Devices, Precision
        from ebbtide.train.stage import train_bundle
        from ebbtide.train.watcher import Watchers
    try:
        model_config = ModelConfig.model_validate(
            {
                "dimensions": dimensions,
                "decay": decay,
                "alpha": alpha,
                "session_gap_minutes": session_gap_minutes,
                "prior_half_life_days": parse_half_lives(prior_half_lives),
                "exclude_seen": not repeats,
                "repeat_score": repeats,
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
                "loss": None if loss is None else loss.value,
                "negatives": negatives,
                "encoder_fine_tuning": encoder_fine_tuning.value,
                "encoder_learning_rate": encoder_learning_rate,
                "encoder_items_per_step": encoder_items_per_step,
                "refit": refit,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{first['loc'][0]}: got {first['input']!r}; {first['msg']}") from error
    indices = Devices(DeviceConfig(device=device.value, devices=devices, precision=Precision(precision.value)))
    data = DataReference(
        events=str(events),
        catalog=None if catalog is None else str(catalog),
        user_column=user_col,
        item_column=item_col,
        time_column=time_col,
        weight_column=weight_col,
        catalog_item_column=catalog_item_col or item_col,
        text_template=text_template,
        title_template=title_template,
        max_bad_rows=max_bad_rows,
        holdout=holdout,
    )

    checkpoints = None
    if checkpoint is not None:
        checkpoints = CheckpointFolder(checkpoint, resume=resume, every_batches=checkpoint_batches)
    with timed("trained"), TrainingDisplay() as display:
        watcher = display if tensorboard is None else Watchers(display, Board(tensorboard))
        bundle, fit, _ = train_bundle(data, encoder, model_config, train_config, watcher, checkpoints, indices)
    if not indices.is_first:
        return
    bundle.save(out)
    if checkpoints is not None:
        checkpoints.clear()
    _print_bundle(bundle, fit, out)


def _print_bundle(bundle: InterestBundle, fit: Fit, out: Path) -> None:
    table = Table(title="Learned half-lives over the interest dimensions", title_justify="left")
    for heading in ("", "shortest", "quarter", "half", "three quarters", "longest"):
        table.add_column(heading, justify="left" if not heading else "right")
    model = bundle.model
    if model.config.decay == "learned":
        for name, rate, unit in (
            ("by age", model.decay_rate_per_day, " d"),
            ("by later events", model.rank_decay_rate, ""),
        ):
            ordered = (math.log(2) / rate.detach()).sort().values.tolist()
            indices = [round(part * (len(ordered) - 1)) for part in (0, 0.25, 0.5, 0.75, 1)]
            table.add_row(name, *(f"{ordered[index]:,.3g}{unit}" for index in indices))
        console.print(table)
    console.print(
        f"[green]✓[/green] bundle {bundle.fingerprint} in {out}: best epoch {fit.best_epoch}, "
        f"validation NDCG@10 {bundle.config.validation_ndcg_at_10:.4f}"
    )
