"""Recommendations in eager PyTorch over padded batches, as a service without Triton would compute them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.interest.keys import item_keys
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.model import Context, Sums

TOP_N = 50
_MS_PER_DAY = 86_400_000
_MS_PER_HOUR = 3_600_000
_LATER_THAN_ALL = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Answers:
    """Answers to B requests."""

    index: npt.NDArray[np.int64]
    """``[requests, TOP_N]``: catalog indices, best first."""
    score: npt.NDArray[np.float32]
    """``[requests, TOP_N]``."""
    alpha_used: npt.NDArray[np.float32]
    """``[requests, 1]``."""
    event_counts: npt.NDArray[np.int32]
    """``[requests, 3]``."""


class TorchRecommender:
    """The model of a bundle with precomputed tables."""

    def __init__(self, bundle: Path) -> None:
        """Reads a bundle and computes the tables."""
        content = InterestBundle.load(bundle)
        keys = item_keys(content.catalog.item_id)
        order = np.argsort(keys)
        self.item_id = content.catalog.item_id
        self._model = content.model.eval()
        with torch.inference_mode():
            self._sorted_key = torch.from_numpy(keys[order])
            self._catalog_index = torch.from_numpy(order)
            self._event_vectors = self._model.event_vectors()
            self._factors = self._model.item_factors().T.contiguous()
            self._prior = torch.from_numpy(content.prior_columns) @ self._model.prior_weight
            self._decay_rate = self._model.decay_rate_per_day.clone()
            self._rank_decay_rate = self._model.rank_decay_rate.clone()

    def answer_ragged(self, requests: Sequence[tuple[Tensor, Tensor, Tensor, int]]) -> Answers:
        """Answers requests of different lengths.

        Args:
            requests: Item keys, timestamps and flags of the current session, each ``[events]``, and `now` in Unix ms.
        """
        keys, times, flags, now = zip(*requests, strict=True)
        lengths = [len(key) for key in keys]
        mask = None
        if len(set(lengths)) == 1:
            columns = [torch.stack(tensors) for tensors in (keys, times, flags)]
        else:
            mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
            columns = [
                torch.nn.utils.rnn.pad_sequence(list(tensors), batch_first=True) for tensors in (keys, times, flags)
            ]
        return self.answer(columns[0], columns[1], columns[2], torch.tensor(now)[:, None], mask)

    @torch.inference_mode()
    def answer(self, key: Tensor, time_ms: Tensor, current: Tensor, now_ms: Tensor, mask: Tensor | None) -> Answers:
        """Answers a padded batch of B requests with at most L events.

        Args:
            key: ``[requests, events]``, item keys.
            time_ms: ``[requests, events]``, timestamps of the events.
            current: ``[requests, events]``, whether an event is of the current session.
            now_ms: ``[requests, 1]``, timestamps of the requests.
            mask: ``[requests, events]``, false for padding; None if there is no padding.

        Raises:
            ValueError: A key is not in the catalog.
        """
        real = torch.ones_like(current) if mask is None else mask
        position = torch.searchsorted(self._sorted_key, key).clamp_(max=len(self._sorted_key) - 1)
        if not bool(((self._sorted_key[position] == key) | ~real).all()):
            raise ValueError("event_item: got a key that is not in the catalog")
        item = self._catalog_index[position]
        time_ms, order = time_ms.masked_fill(~real, _LATER_THAN_ALL).sort(dim=1, stable=True)
        ordered, current, real = item.gather(1, order), current.gather(1, order), real.gather(1, order)
        counts = real.sum(1, keepdim=True)
        rank = (counts - 1 - torch.arange(key.shape[1])).clamp_(min=0).float()
        age_ms = (now_ms - time_ms).masked_fill_(~real, 0)
        age_days = (age_ms.double() / _MS_PER_DAY).float()
        kept = torch.exp(-(age_days[..., None] * self._decay_rate + rank[..., None] * self._rank_decay_rate))
        weighted = self._event_vectors[ordered] * kept
        squared = weighted.square()
        of_history, of_current = (real & ~current).float(), (real & current).float()
        sets = torch.stack([of_history, of_current], dim=1)
        sums, squares = torch.bmm(sets, weighted), torch.bmm(sets, squared)
        newest = age_ms.gather(1, (counts - 1).clamp(min=0)).squeeze(1)
        context = Context(of_history.sum(1), of_current.sum(1), (newest.double() / _MS_PER_HOUR).float())
        blend = self._model.blend(Sums(sums[:, 0], squares[:, 0], sums[:, 1], squares[:, 1]), context)
        scores = torch.addmm(self._prior, blend.interest, self._factors)
        if mask is None:
            scores.scatter_(1, item, -torch.inf)
        else:
            scores[mask.nonzero(as_tuple=True)[0], item[mask]] = -torch.inf
        score, index = scores.topk(TOP_N, dim=1)
        events = torch.stack([context.history_count, context.current_count, torch.zeros(len(key))], dim=1)
        return Answers(index.numpy(), score.numpy(), blend.alpha.mean(1, keepdim=True).numpy(), events.int().numpy())
