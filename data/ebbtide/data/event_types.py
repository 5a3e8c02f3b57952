"""The event types of a log: their names, and which of them are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ebbtide.data.errors import DataError
from ebbtide.interest.event_types import known_types


@dataclass(frozen=True)
class EventTypeNames:
    """The event types of a log, in the order in which a model has their weights."""

    names: tuple[str, ...]
    """Those that are predicted come first."""
    targets: int
    """How many are predicted, 1 or more."""

    @classmethod
    def found(cls, event_type: pl.Series, targets: Sequence[str]) -> EventTypeNames:
        """Those of a log: the targets, then the others by name.

        Args:
            event_type: Of each event.
            targets: Names of those that are predicted, at least one.

        Raises:
            DataError: There is no target, or the log has no event of a target type.
        """
        names = sorted(event_type.unique().to_list())
        if not targets:
            raise DataError(
                f"target: got none; expected at least one of the log's event types, --target NAME: {known_types(names)}"
            )
        for target in targets:
            if target not in names:
                raise DataError(
                    f"target: got {target!r}, which no event has; expected a type of the log, such as "
                    f"{known_types(names, target)}"
                )
        ordered = (*dict.fromkeys(targets), *(name for name in names if name not in targets))
        return cls(ordered, len(set(targets)))

    def indices(self, event_type: pl.Series, column: str) -> npt.NDArray[np.int64]:
        """The index of the type of each event, ``[events]``.

        Raises:
            DataError: An event has another type.
        """
        unknown = event_type.filter(~event_type.is_in(list(self.names)))
        if len(unknown):
            raise DataError(
                f"column {column}: got {unknown[0]!r}; expected an event type of the training, such as "
                f"{known_types(self.names, unknown[0])}: train again, or leave these events out"
            )
        index: npt.NDArray[np.int64] = event_type.replace_strict(
            {name: index for index, name in enumerate(self.names)}, return_dtype=pl.Int64
        ).to_numpy()
        return index
