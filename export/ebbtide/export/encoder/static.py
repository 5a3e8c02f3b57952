"""Distils the encoder into one vector for each token: a text's event vector is their mean.

The method of model2vec (Tulkens and van Dongen, 2024, https://github.com/MinishLab/model2vec): every token of the
vocabulary goes through the language model on its own. Where model2vec then reduces and weighs the vectors without any
text (PCA, SIF), the catalog's texts are at hand here, so a ridge regression learns the one linear map from their mean
vectors to the full encoder's event vectors, and a second one what each token adds to that. Both act on the vectors
before the mean, and so fold, with the projection P, into a table ``[vocabulary, d]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ebbtide.export.encoder.graph import EventEncoder
from ebbtide.export.encoder.ridge import fit_ridge
from ebbtide.export.encoder.texts import EncoderTokens, Floats

_TOKENS_PER_BATCH = 1024
_OWN_STRENGTH = 0.1
"""Of the second ridge, in units of one text of one token: of 0.003 to 0.3 the best on unseen MovieLens texts."""
_ITERATIONS = 40
_SMALLEST = 1e-30


class StaticEncoder(nn.Module):
    """Event vectors as the mean of their tokens' vectors."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        """Takes one vector for each token, ``[vocabulary, d]``."""
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Event vectors, float32 ``[texts, d]``, from int64 ``[texts, tokens]`` each."""
        mask = attention_mask.unsqueeze(-1).to(self.table.dtype)
        summed = (nn.functional.embedding(input_ids, self.table) * mask).sum(1)
        return summed / mask.sum(1).clamp(min=1)


def distil(
    full: EventEncoder,
    tokens: EncoderTokens,
    texts: Sequence[str],
    targets: Floats,
    report: Callable[[str], None],
) -> StaticEncoder:
    """The table that comes nearest to the full encoder.

    Args:
        full: The encoder.
        tokens: Its tokenizer.
        texts: To fit on.
        targets: Their event vectors from the full encoder, ``[texts, d]``.
        report: Called with what is done next.
    """
    report("vectors of the vocabulary")
    vectors = _vocabulary_vectors(full, tokens)
    report("fit of the static encoder")
    used, means = _mean_matrix(tokens.ids(texts))
    shared, _ = fit_ridge(torch.sparse.mm(means, torch.from_numpy(vectors[used])).numpy(), targets)
    table = torch.from_numpy(shared(vectors))
    table[used] += _own_part(means, torch.from_numpy(targets) - torch.sparse.mm(means, table[used]))
    return StaticEncoder(table)


@torch.inference_mode()
def _vocabulary_vectors(full: EventEncoder, tokens: EncoderTokens) -> Floats:
    """Each token's mean vector in a text of its own, ``[vocabulary, width]``."""
    parts = []
    for start in range(0, tokens.vocabulary, _TOKENS_PER_BATCH):
        ids = torch.from_numpy(
            tokens.around(np.arange(start, min(start + _TOKENS_PER_BATCH, tokens.vocabulary), dtype=np.int64))
        )
        hidden: Tensor = full.encoder.transformer(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        parts.append(hidden.mean(1))
    vectors: Floats = torch.cat(parts).numpy()
    return vectors


def _mean_matrix(ids: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int64], Tensor]:
    """The tokens that texts have, and a sparse ``[texts, tokens]``: times their table, the mean vector of each text."""
    lengths = np.array([len(text) for text in ids])
    used, column = np.unique(np.concatenate([np.asarray(text) for text in ids]), return_inverse=True)
    indices = np.stack([np.repeat(np.arange(len(ids)), lengths), column])
    values = np.repeat(1 / lengths, lengths).astype(np.float32)
    size = (len(ids), len(used))
    return used, torch.sparse_coo_tensor(
        torch.from_numpy(indices), torch.from_numpy(values), size, check_invariants=True
    ).coalesce()


def _own_part(means: Tensor, rest: Tensor) -> Tensor:
    """What each token adds, ``[tokens, d]``: ridge regression of what is left, by conjugate gradients.

    Tokens that no text has stay with the shared map.
    """
    back = means.t().coalesce()
    gradient = torch.sparse.mm(back, rest)
    direction, squared = gradient.clone(), gradient.square().sum(0)
    solution = torch.zeros_like(gradient)
    for _ in range(_ITERATIONS):
        turned = torch.sparse.mm(back, torch.sparse.mm(means, direction)) + _OWN_STRENGTH * direction
        step = squared / (direction * turned).sum(0).clamp(min=_SMALLEST)
        solution += step * direction
        gradient -= step * turned
        before, squared = squared, gradient.square().sum(0)
        direction = gradient + direction * (squared / before.clamp(min=_SMALLEST))
    return solution
