"""Feature blocks: the named terms that event vectors and item factors are sums of, each with its own projections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ebbtide.data.vectors import ItemVectors

TEXT, RESIDUAL = "text", "residual"
"""The two blocks of every model."""
_MODULE = "block_"
"""Before the name of a block in the names of its parameters, so that a name such as ``items`` is no method of the
module that holds the blocks."""


@dataclass(frozen=True)
class FeatureBlock:
    """One term of x = sum_b P_b f_b and a = sum_b Q_b f_b, over all items, with d interest dimensions."""

    features: Tensor | None
    """f, ``[items, width]``; None for one-hot features, with which each item has its own row of P and of Q."""
    event_projection: Tensor
    """P, ``[width, d]``, or ``[items, d]`` for one-hot features."""
    item_projection: Tensor
    """Q, of the same shape."""

    @property
    def term(self) -> Tensor:
        """Q f, what the block adds to the item factors before gamma, ``[items, d]``."""
        return self.item_projection if self.features is None else self.features @ self.item_projection


@dataclass(frozen=True)
class Standardised:
    """Vectors of items at the scale of text vectors, whose norm is 1: f = (v - centre) / scale.

    One scale for all coordinates keeps the angles between vectors, so embeddings keep their meaning. The centre is
    taken off because a part that all items share says nothing. An item without a vector has zeros: it adds nothing to
    any score, as the average item with a vector does.
    """

    features: npt.NDArray[np.float32]
    """f, ``[items, width]``."""
    centre: npt.NDArray[np.float32]
    """``[width]``: the mean of the vectors."""
    scale: float
    """Root mean square of the norms of v - centre."""

    @classmethod
    def of(cls, vectors: ItemVectors) -> Standardised:
        """Standardises over the items that have a vector, in double precision."""
        present = vectors.vector[vectors.is_present].astype(np.float64)
        features = np.zeros(vectors.vector.shape, dtype=np.float32)
        if not present.shape[0]:
            return cls(features, np.zeros(vectors.width, dtype=np.float32), 1.0)
        centre = present.mean(axis=0)
        present -= centre
        scale = float(np.sqrt(np.square(present).sum(axis=1).mean())) or 1.0
        features[vectors.is_present] = present / scale
        return cls(features, centre.astype(np.float32), scale)


class AddedBlock(nn.Module):
    """A feature block beside text and residual. Its projections start at zero, so it adds nothing until trained."""

    features: Tensor
    centre: Tensor
    """``[width]``: what was taken off the vectors that the features are made from."""
    scale: Tensor
    """``[]``: what they were then divided by."""

    def __init__(self, features: Tensor, dimensions: int) -> None:
        """Takes the features of all items, ``[items, width]``; the bundle keeps them beside the parameters."""
        super().__init__()
        width = features.shape[1]
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))
        self.event_projection = nn.Parameter(torch.zeros(width, dimensions))
        self.item_projection = nn.Parameter(torch.zeros(width, dimensions))


class AddedBlocks(nn.ModuleDict):
    """The feature blocks of a model beside text and residual, by name."""

    def __init__(self, features: Mapping[str, Tensor], items: int, dimensions: int) -> None:
        """Makes a module for each block, in the order of their names: a sum depends on its order.

        Args:
            features: Name to ``[items, width]``.
            items: Number of items.
            dimensions: d.

        Raises:
            ValueError: A name is taken or cannot name a parameter, or a block does not have one row for each item.
        """
        for name, rows in features.items():
            if name in (TEXT, RESIDUAL) or not name.isidentifier():
                raise ValueError(
                    f"feature block: got name {name!r}; expected an identifier other than {TEXT!r} and {RESIDUAL!r}"
                )
            if rows.ndim != 2 or rows.shape[0] != items:
                raise ValueError(f"feature block {name}: got shape {list(rows.shape)}; expected [{items} items, width]")
        super().__init__({_MODULE + name: AddedBlock(features[name], dimensions) for name in sorted(features)})

    def modules_by_name(self) -> dict[str, AddedBlock]:
        """The module of each block."""
        return {name.removeprefix(_MODULE): module for name, module in self.items() if isinstance(module, AddedBlock)}

    def features(self) -> dict[str, Tensor]:
        """The features of each block, ``[items, width]``."""
        return {name: module.features for name, module in self.modules_by_name().items()}

    def blocks(self) -> dict[str, FeatureBlock]:
        """Features and projections of each block."""
        return {
            name: FeatureBlock(module.features, module.event_projection, module.item_projection)
            for name, module in self.modules_by_name().items()
        }

    @torch.no_grad()
    def remember(self, standardised: Mapping[str, Standardised]) -> None:
        """Keeps how the features of each block were made, for vectors that come later."""
        for name, module in self.modules_by_name().items():
            module.centre.copy_(torch.from_numpy(standardised[name].centre))
            module.scale.fill_(standardised[name].scale)


def side_by_side(text: Tensor, added: Iterable[Tensor]) -> Tensor:
    """The features of all blocks that have some, the text's first, ``[items, sum of widths]``.

    Args:
        text: ``[items, text width]``.
        added: ``[items, width]`` each, in the order of the blocks' names.
    """
    blocks = [text, *added]
    return text if len(blocks) == 1 else torch.cat(blocks, dim=1)
