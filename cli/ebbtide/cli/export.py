"""``ebbtide export``: writes a Triton model repository from an interest bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ebbtide.cli.console import console, timed, working
from ebbtide.cli.log_options import EncodingOfTexts
from ebbtide.cli.modules import require_modules, warn_of_two_runtimes
from ebbtide.cli.outputs import require_replaced_folder
from ebbtide.export.choices import Accelerator, Precision, RetrievalMethod
from ebbtide.interest.contract import MANIFEST_FILE, Limits

if TYPE_CHECKING:
    from ebbtide.export.encoder.check import EncoderReport
    from ebbtide.export.repository import ExportReport
    from ebbtide.export.serving import ServingOptions

_DEFAULTS = Limits()

_SHOWN_VALUES = 8


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle written by `ebbtide train`.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the model repository to write. To add a version to an existing one, see --version."
        ),
    ],
    top_n: Annotated[int, typer.Option(min=1, help="Number of items in an answer, and of candidates of a slate.")] = 50,
    max_events: Annotated[
        int, typer.Option(min=1, help="Maximum number of events in a request, history and session together.")
    ] = _DEFAULTS.max_events,
    max_exclude_items: Annotated[
        int, typer.Option(min=0, help="Maximum number of items that a request may exclude by id.")
    ] = _DEFAULTS.max_exclude_items,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Add this version to the folder. Without it the folder is replaced."),
    ] = None,
    machine: Annotated[
        list[str] | None,
        typer.Option(
            help="Machine to serve on: cpu, cpu:CORES, gpu or gpu:GPUS. Default: the cores of this machine. "
            "Repeat the option "
            "to write more configs for `ebbtide serve --model-config-name`, such as gpu-1 (docs/configs.md)."
        ),
    ] = None,
    accelerator: Annotated[
        Accelerator | None, typer.Option(help="Execution accelerator of ONNX Runtime on GPU machines.")
    ] = None,
    max_queue_size: Annotated[
        int | None,
        typer.Option(min=0, help="Maximum number of requests that wait for a model; more are refused. 0: no limit."),
    ] = None,
    queue_timeout_ms: Annotated[
        int | None,
        typer.Option(min=0, help="Milliseconds that a request may wait for a model before it is refused. 0: no limit."),
    ] = None,
    response_cache: Annotated[
        bool | None,
        typer.Option("--response-cache", help="Let the server answer identical requests from its response cache."),
    ] = None,
    rate_limiter: Annotated[
        bool | None,
        typer.Option("--rate-limiter", help="Let Triton's rate limiter share the cores between model instances."),
    ] = None,
    sweep: Annotated[
        bool | None,
        typer.Option("--sweep", help="Measure batch sizes on this machine and set the fast ones as preferred."),
    ] = None,
    tuned: Annotated[
        list[str] | None,
        typer.Option(
            help="Tuned settings of a model for the first machine, as `ebbtide tune` prints them (docs/tune.md). "
            "Repeat the option for other models."
        ),
    ] = None,
    head_precision: Annotated[
        Precision,
        typer.Option(
            help="Number format of item factors. int8: selects candidates with integers and scores them in fp32, "
            "faster for 100,000 items and more in small batches (docs/head.md). fp16: half the file size, same speed."
        ),
    ] = "fp32",
    retrieval: Annotated[
        RetrievalMethod,
        typer.Option(
            help="How the scoring head finds the best items: ivf asks an approximate index, faster for a million "
            "items and more (docs/head.md); its server needs faiss-cpu."
        ),
    ] = "exact",
    least_recall: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1,
            help="Minimum recall of the index: share of the exact top 100 that it must find, or the export is refused.",
        ),
    ] = 0.98,
    attributes: Annotated[
        Path | None,
        typer.Option(
            help="Catalog file with attributes that requests may filter by (see --attribute-col and --numeric-col): "
            "Parquet, CSV, TSV, JSON Lines. Without it a new version of the same items has those of the version in "
            "service."
        ),
    ] = None,
    attribute_col: Annotated[
        list[str] | None,
        typer.Option(
            help="Attribute column, such as a category or whether the item is in stock. A list counts as "
            "several values. Repeat the option for more columns."
        ),
    ] = None,
    numeric_col: Annotated[
        list[str] | None,
        typer.Option(help="Column of --attributes with a number, such as a price, for ranges. Repeat the option."),
    ] = None,
    attribute_item_col: Annotated[
        str | None, typer.Option(help="Column with the item ids. Default: as in training.")
    ] = None,
    attribute_separator: Annotated[
        str,
        typer.Option(help="Separator of several values in one text, as in Action|Comedy. '': the text is one value."),
    ] = "|",
    encoding: EncodingOfTexts = None,
    ignore_unknown: Annotated[
        bool,
        typer.Option(
            "--ignore-unknown",
            help="Ignore and count events with unknown items, unless a request says otherwise. "
            "Default: refuse such requests.",
        ),
    ] = False,
    online_learning_rate: Annotated[
        float,
        typer.Option(
            min=0,
            help="How fast the server adapts the alpha of each user to what the user takes of the shown items "
            "(see the docs on online interest). 0: not at all. Try a rate with `ebbtide evaluate --online` first.",
        ),
    ] = 0,
    precision: Annotated[
        Precision, typer.Option(help="Of the text encoder: int8 is for CPUs, fp16 for GPUs (docs/encoder.md).")
    ] = "fp32",
    allow_fidelity_loss: Annotated[
        bool,
        typer.Option("--allow-fidelity-loss", help="Write the encoder even if it differs too much from the full one."),
    ] = False,
) -> None:
    """Export a bundle as a Triton model repository: ONNX graphs, Python models and every config.pbtxt.

    The graphs are checked against torch on several batch sizes and lengths before anything is written. The folder is
    self-contained: copied into any Triton's model repository it needs NumPy and tokenizers there, and no edit.

    **Examples**

    ebbtide export artifacts/bundle --out artifacts/repository

    ebbtide export artifacts/bundle --out artifacts/repository --version 2 --precision int8

    ebbtide export artifacts/bundle --out artifacts/repository --retrieval ivf

    ebbtide export artifacts/bundle --out artifacts/repository --attributes movies.parquet --attribute-col genres

    ebbtide export artifacts/bundle --out artifacts/repository --machine cpu:8 --machine gpu:1 --accelerator tensorrt

    ebbtide export artifacts/bundle --out artifacts/repository --tuned scoring_head:instances=2,threads=1
    """
    if bool(attribute_col or numeric_col) != (attributes is not None):
        raise typer.BadParameter("give --attributes and --attribute-col or --numeric-col, or none of them")
    require_replaced_folder("--out", out)
    warn_of_two_runtimes()
    if retrieval == "ivf":
        require_modules("--retrieval ivf", "retrieval", "faiss")
    with working("Loading torch and onnx"):
        from ebbtide.export.attributes import read_attributes
        from ebbtide.export.earlier import attributes_in_service
        from ebbtide.export.encoder.options import EncoderOptions
        from ebbtide.export.head.options import RetrievalOptions
        from ebbtide.export.options import ExportOptions
        from ebbtide.export.repository import export_repository, require_replaceable
        from ebbtide.train.bundle import InterestBundle

        require_replaceable(out)
        loaded = InterestBundle.load(bundle)
    options = ExportOptions(
        top_n=top_n,
        limits=Limits(max_events=max_events, max_exclude_items=max_exclude_items),
        serving=_serving(
            machines=machine,
            accelerator=accelerator,
            max_queue_size=max_queue_size,
            queue_timeout_ms=queue_timeout_ms,
            response_cache=response_cache,
            rate_limiter=rate_limiter,
            sweep=sweep,
            tuned=tuned,
        ),
        ignore_unknown=ignore_unknown,
        online_learning_rate=online_learning_rate,
        head_precision=head_precision,
        retrieval=RetrievalOptions(retrieval, least_recall),
        encoder=EncoderOptions(precision, allow_fidelity_loss),
    )
    with timed(f"exported {out}"), working("Exporting") as status:
        filters = None
        if attributes is not None:
            filters = read_attributes(
                attributes,
                attribute_col or [],
                loaded.catalog.item_id,
                item_column=attribute_item_col or loaded.config.data.catalog_item_column,
                separator=attribute_separator,
                encoding=encoding,
                numeric=numeric_col or [],
            )
        elif version is not None and (out / MANIFEST_FILE).is_file():
            # Callers of the version in service may filter by them.
            filters = attributes_in_service(out, loaded)
        report = export_repository(
            loaded,
            out,
            options,
            attributes=filters,
            version=version,
            report=lambda part: status.update(f"Exporting: {part}"),
        )
    _print_report(report)
    for column, values in ({} if filters is None else filters.values).items():
        shown = ", ".join(values[:_SHOWN_VALUES]) + (", ..." if len(values) > _SHOWN_VALUES else "")
        console.print(f"filter {column}: {len(values)} values: {shown}", markup=False)
    for column, (least, most) in ({} if filters is None else filters.number_ranges).items():
        console.print(f"filter {column}: numbers from {least:g} to {most:g}", markup=False)
    if not report.is_served:
        console.print(
            f"Version {report.version} lies beside those before it; a running server switches to it with "
            "`ebbtide deploy`.",
            markup=False,
        )


def _serving(
    *,
    machines: list[str] | None,
    tuned: list[str] | None,
    **given: Any,  # noqa: ANN401 - as the options are
) -> ServingOptions | None:
    """How to serve; None where nothing was said, so that a version which is added takes the configs that are there."""
    from ebbtide.export.machines import Machine
    from ebbtide.export.serving import ServingOptions
    from ebbtide.export.tuned_settings import TunedSettings

    chosen = {name: value for name, value in given.items() if value is not None}
    if machines:
        chosen["machines"] = tuple(Machine.parse(text) for text in machines)
    if tuned:
        chosen["tuned"] = tuple(TunedSettings.parse(text) for text in tuned)
    return ServingOptions(**chosen) if chosen else None


def _print_report(report: ExportReport) -> None:
    table = Table(
        title=f"{report.items:,} items, answers of {report.top_n}, {report.size_bytes / 2**20:,.0f} MiB in all",
        title_justify="left",
    )
    table.add_column("checked against torch")
    table.add_column("largest difference", justify="right")
    table.add_column("allowed", justify="right")
    for name, difference, allowed in (
        (f"encoder, {report.encoder.precision}", report.encoder_difference, report.encoder_tolerance),
        ("scoring head", report.head_difference, report.head_tolerance),
        ("whole requests", report.pipeline_difference, report.head_tolerance),
    ):
        table.add_row(name, f"{difference:.1e}", f"{allowed:.0e}")
    console.print(table)
    _print_encoder(report.encoder)
    if report.retrieval is not None:
        found = report.retrieval
        parameters = ", ".join(f"{name} {value}" for name, value in found.parameters.items())
        console.print(
            f"index {found.method} ({parameters}): {found.recall_at_100:.3f} of the true best 100, "
            f"{found.search_ms:.2f} ms a search",
            markup=False,
        )
    if report.sweep:
        _print_sweep(report)


def _print_encoder(report: EncoderReport) -> None:
    """What was fused, and what a compressed encoder loses and gains."""
    if report.kept_plain is not None:
        console.print(f"encoder: not fused: {report.kept_plain}", markup=False)
    fidelity = report.fidelity
    if fidelity is None:
        return
    from ebbtide.export.encoder.speed import BATCH_TEXTS, BATCH_TOKENS

    table = Table(title=f"Encoder in {report.precision} against fp32, on event vectors", title_justify="left")
    table.add_column("measured")
    table.add_column("value", justify="right")
    table.add_row(f"mean cosine, {fidelity.texts:,} catalog texts", f"{fidelity.cosine_mean:.4f}")
    table.add_row("worst cosine", f"{fidelity.cosine_min:.4f}")
    table.add_row("mean cosine, a few words of each", f"{fidelity.fragment_cosine_mean:.4f}")
    ndcg = fidelity.ndcg_at_10
    if ndcg is None:
        table.add_row(f"NDCG@10 ({fidelity.ndcg_not_measured})", "not measured")
    else:
        table.add_row(
            f"NDCG@10 of texts, {ndcg.events:,} events of {ndcg.users} users, over fp32's",
            f"{ndcg.ratio:.4f} ± {ndcg.standard_error:.4f}",
        )
    table.add_row(f"{BATCH_TEXTS} texts of {BATCH_TOKENS} tokens, texts/s", f"{fidelity.speed.texts_per_s:,.0f}")
    table.add_row("the same, over fp32's", f"{fidelity.speedup:.2f}")
    table.add_row("one text, ms", f"{fidelity.speed.text_s * 1000:.3f}")
    table.add_row("one text in fp32, ms", f"{fidelity.fp32_speed.text_s * 1000:.3f}")
    console.print(table)


def _print_sweep(report: ExportReport) -> None:
    table = Table(title="Batch sizes on this machine", title_justify="left")
    for column in ("model", "tokens", "batch", "median ms", "rows/s"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in report.sweep:
        table.add_row(
            row.model,
            "" if row.tokens is None else str(row.tokens),
            str(row.batch),
            f"{row.median_ms:.2f}",
            f"{row.rows_per_s:,.0f}",
        )
    console.print(table)
