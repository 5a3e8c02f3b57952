"""How like the items chosen before it a candidate is, as maximal marginal relevance and a DPP measure it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_LEAST_VARIANCE = np.float32(1e-6)
"""What is left of a candidate that the chosen items span; its logarithm stays finite."""


class Likeness(Protocol):
    """A penalty for each candidate, which grows as items are chosen."""

    penalty: Floats
    """``[candidates]``: 0 for a candidate that is like no chosen item."""

    def choose(self, index: int) -> None:
        """Notes that a candidate is chosen."""
        ...


def unit_rows(factors: Floats) -> Floats:
    """Rows of length 1, ``[candidates, d]``; a row of zeros stays as it is, and is like no other."""
    norms = np.sqrt(np.einsum("nk,nk->n", factors, factors))
    return np.asarray(factors / np.where(norms > 0, norms, np.float32(1))[:, None])


class MarginalRelevance:
    """Maximal marginal relevance: the largest cosine to a chosen item (Carbonell and Goldstein, SIGIR 1998, eq. 1)."""

    def __init__(self, directions: Floats, most: int) -> None:
        """Starts with no chosen item.

        Args:
            directions: ``[candidates, d]``, each of length 1.
            most: Items that will be chosen, at most.
        """
        del most
        self._directions = directions
        self._is_first = True
        self.penalty: Floats = np.zeros(directions.shape[0], dtype=np.float32)

    def choose(self, index: int) -> None:
        """Notes that a candidate is chosen."""
        alike = _cosines(self._directions, index)
        # A maximum with the zeros of the start would hide negative cosines.
        self.penalty = alike if self._is_first else np.maximum(self.penalty, alike)
        self._is_first = False


class Determinantal:
    """A determinantal point process: minus the logarithm of what a candidate adds to the determinant of cosines.

    The greedy MAP inference of Chen, Zhang and Zhou (NeurIPS 2018, algorithm 1), which updates a Cholesky factor: each
    choice costs time in proportion to candidates times items chosen so far.
    """

    def __init__(self, directions: Floats, most: int) -> None:
        """As for `MarginalRelevance`."""
        candidates = directions.shape[0]
        self._directions = directions
        self._factor = np.empty((most, candidates), dtype=np.float32)
        self._variance = np.ones(candidates, dtype=np.float32)
        self._chosen = 0
        self.penalty: Floats = np.zeros(candidates, dtype=np.float32)

    def choose(self, index: int) -> None:
        """Notes that a candidate is chosen."""
        known = self._factor[: self._chosen]
        row = _cosines(self._directions, index)
        row[index] = 1
        row -= np.einsum("kn,k->n", known, known[:, index])
        row /= np.sqrt(max(self._variance[index], _LEAST_VARIANCE))
        self._factor[self._chosen] = row
        self._chosen += 1
        self._variance -= row * row
        self.penalty = -np.log(np.maximum(self._variance, _LEAST_VARIANCE))


def _cosines(directions: Floats, index: int) -> Floats:
    # Not by BLAS, whose threads would fight with those of the other instances over products this small.
    return np.asarray(np.einsum("nk,k->n", directions, directions[index]))
