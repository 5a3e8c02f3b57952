"""Judges the text encoder where it serves: event vectors of catalog texts against those of torch, by their cosine.

The export judges on its own machine. Another processor may round the quantised encoder otherwise, so this asks the
server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.interest import contract, served_models
from ebbtide.verify.cases import Floats, RefusedError
from ebbtide.verify.differences import StageDifference
from ebbtide.verify.errors import VerifyError
from ebbtide.verify.server import Server
from ebbtide.verify.tolerances import Tolerances

if TYPE_CHECKING:
    from ebbtide.train.bundle import InterestBundle

_TEXTS = 256
_PER_REQUEST = 16
_FIELD = "1 - mean cosine"


def compare_fidelity(
    bundle: InterestBundle,
    pipeline: InProcessPipeline,
    server: str | None = None,
    *,
    models: Mapping[str, str] | None = None,
    tolerances: Tolerances | None = None,
) -> StageDifference:
    """How far a server's event vectors of texts are from torch's: one minus their mean cosine.

    Args:
        bundle: That the export was made from.
        pipeline: One version of the repository.
        server: Host and gRPC port of a server that serves it; None judges the exported files in this process.
        models: See `compare_server`.
        tolerances: None takes those that the repository's manifest states of this version.

    Raises:
        ServerMismatchError: The server cannot be reached, or does not serve this export.
        VerifyError: No text of the catalog is one that a request may carry, or a request was refused.
    """
    # Here, as they load torch: `ebbtide deploy` verifies on machines without it.
    from ebbtide.export.encoder.fidelity import cosines
    from ebbtide.export.encoder.kept import catalog_texts

    if tolerances is None:
        tolerances = Tolerances.read(pipeline.repository, pipeline.version)
    items, expected = catalog_texts(bundle, pipeline.limits, _TEXTS)
    if not items:
        raise VerifyError("catalog: got no text that a request may carry; expected at least one")
    texts = [bundle.catalog.text[item] for item in items]
    if server is None:
        name, got = "in process", _embed(texts, pipeline.limits.max_texts, pipeline.embed)
    else:
        with Server(server, pipeline.version, models) as triton:
            triton.require_export(pipeline.fingerprint)
            name = triton.name
            got = _embed(texts, pipeline.limits.max_texts, partial(_embed_on, triton))
    similar = cosines(got, expected)
    worst = int(similar.argmin())
    return StageDifference(
        f"torch, {name}",
        served_models.EMBED.name,
        _FIELD,
        difference=float(1 - similar.mean()),
        tolerance=1 - tolerances.least_cosine,
        compared=len(texts),
        kind=served_models.EMBED.name,
        item=bundle.catalog.item_id[items[worst]],
        detail=f"mean cosine of {len(texts)} catalog texts: got {similar.mean():.4f}; expected at least "
        f"{tolerances.least_cosine:.4f}; the item's is the worst, {similar[worst]:.4f}",
    )


def _embed_on(triton: Server, texts: list[str]) -> Floats:
    encoded = np.array([text.encode() for text in texts], dtype=np.object_)
    return triton.infer(served_models.EMBED, {contract.TEXT.name: encoded})[contract.TEXT_VECTOR.name]


def _embed(texts: list[str], most: int, embed: Callable[[list[str]], Floats]) -> Floats:
    step = min(_PER_REQUEST, most)
    try:
        return np.concatenate([embed(texts[start : start + step]) for start in range(0, len(texts), step)])
    except RefusedError as error:
        raise VerifyError(f"{served_models.EMBED.name}: refused texts of the catalog: {error}") from error
