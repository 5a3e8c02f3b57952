"""Feature blocks: the named terms that event vectors and item factors are sums of, each with its own projections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TEXT, RESIDUAL = "text", "residual"
"""The two blocks of every model."""


@dataclass(frozen=True)
class FeatureBlock:
    """One term of x = sum_b P_b f_b and a = sum_b Q_b f_b, over all items, with d interest dimensions."""

    features: Tensor | None
    """f, ``[items, width]``; None for one-hot features, with which each item has its own row of P and of Q."""
    event_projection: Tensor
    """P, ``[width, d]``, or ``[items, d]`` for one-hot features."""
    item_projection: Tensor
    """Q, of the same shape."""


class AddedBlock(nn.Module):
    """A feature block beside text and residual. Its projections start at zero, so it adds nothing until trained."""

    features: Tensor

    def __init__(self, features: Tensor, dimensions: int) -> None:
        """Takes the features of all items, ``[items, width]``; the bundle keeps them beside the parameters."""
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.event_projection = nn.Parameter(torch.zeros(features.shape[1], dimensions))
        self.item_projection = nn.Parameter(torch.zeros(features.shape[1], dimensions))


class AddedBlocks(nn.ModuleDict):
    """The feature blocks of a model beside text and residual, by name."""

    def __init__(self, features: Mapping[str, Tensor], items: int, dimensions: int) -> None:
        """Makes a module for each block.

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
        super().__init__({name: AddedBlock(rows, dimensions) for name, rows in features.items()})

    def features(self) -> dict[str, Tensor]:
        """The features of each block, ``[items, width]``."""
        return {name: module.features for name, module in self.items() if isinstance(module, AddedBlock)}

    def blocks(self) -> dict[str, FeatureBlock]:
        """Features and projections of each block."""
        return {
            name: FeatureBlock(module.features, module.event_projection, module.item_projection)
            for name, module in self.items()
            if isinstance(module, AddedBlock)
        }
