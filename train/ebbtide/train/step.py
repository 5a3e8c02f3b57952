"""One step of training: from a few windows of the log to the loss of the targets of their baskets."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ebbtide.data.baskets import basket_heads
from ebbtide.data.events import EventLog
from ebbtide.train import losses
from ebbtide.train.choices import Loss
from ebbtide.train.config import TrainConfig
from ebbtide.train.evaluation.scores import seen_before
from ebbtide.train.fine_tuning import EncoderFineTuner
from ebbtide.train.model import InterestModel
from ebbtide.train.negatives import Candidates, Sampler
from ebbtide.train.popularity import PopularitySnapshots
from ebbtide.train.repeat import seen_items_loss, with_repeat_scores
from ebbtide.train.seen_items import SeenItems
from ebbtide.train.windows import LogTensors, predict_windows

MAX_SCORES = 1 << 25
"""Scores in memory at a time, 128 MiB. For a larger catalog the baskets are processed in slices, whose scores are
computed again for the gradient."""
_STANDARDISED_BY = 1_000
"""Baskets from which the centre and spread of the repeat score's features are computed."""

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Step(nn.Module):
    """The loss of some windows, as a module, so that data-parallel training can wrap it.

    The log stays on the CPU; the rows that a step needs are copied to the model's device.
    """

    prior_columns: Tensor | None

    def __init__(
        self,
        model: InterestModel,
        log: EventLog,
        tensors: LogTensors,
        popularity: PopularitySnapshots | None,
        training: Mask,
        config: TrainConfig,
        fine_tuner: EncoderFineTuner | None = None,
        max_scores: int = MAX_SCORES,
        sampler: Sampler | None = None,
    ) -> None:
        """Prepares one fit.

        Args:
            model: What learns.
            log: Events.
            tensors: The same events.
            popularity: The prior over time; None for a model without prior.
            training: ``[events]``, which events are targets.
            config: Loss, context, dropout.
            fine_tuner: The encoder, if it is fine-tuned.
            max_scores: Scores that may exist at a time.
            sampler: Draws the negatives, for a loss that has some; None for one by the counts of the targets.
        """
        super().__init__()
        self.model = model
        self.fine_tuner = fine_tuner
        self.log = log
        self.tensors = tensors
        self.popularity = popularity
        columns = None if popularity is None else torch.from_numpy(popularity.columns)
        self.register_buffer("prior_columns", columns, persistent=False)
        self.config = config
        self.loss = config.loss or Loss.full_softmax
        self.max_scores = max_scores
        self.items = model.text_vectors.shape[0]
        heads = basket_heads(log)
        # The items of one basket are predicted together, from the events before its first one.
        self.heads: Mask = np.zeros(log.events, dtype=np.bool_)
        self.heads[heads[training]] = True
        self.baskets = int(self.heads.sum())
        self._is_head = torch.from_numpy(self.heads)
        self._events = np.flatnonzero(log.is_target)
        self._sizes = np.bincount(heads[self._events], minlength=log.events).astype(np.int32)
        self._sampler: Sampler | None = None
        if self.loss.draws and sampler is not None:
            self._sampler = sampler
        elif self.loss.draws:
            counts = np.bincount(log.item[training], minlength=self.items)
            self._sampler = Sampler(counts, config.negatives, by_popularity=self.loss is Loss.sampled_softmax)
        self.rating_mean = float(log.weight[training].mean(dtype=np.float64)) if self.loss is Loss.mse else None

    def standardise_repeats(self) -> None:
        """Fits the scale of the repeat score's features to some of the baskets, spread over the log."""
        repeat, heads = self.model.repeat, np.flatnonzero(self.heads)
        if repeat is None or not heads.size:
            return
        chosen = heads[np.linspace(0, heads.size - 1, min(_STANDARDISED_BY, heads.size)).astype(np.int64)]
        seen = self.model.weighed(seen_before(self.log, self.tensors, chosen))
        if seen.item.shape[0] > 1:
            repeat.standardise(seen, self._seen_prior(seen, chosen))

    def forward(self, windows: Ints) -> tuple[Tensor, Tensor, int]:
        """Mean loss over the baskets of some windows, their mean alpha, and the number of baskets.

        Args:
            windows: ``[windows, 2]`` from `training_windows`.
        """
        if self.fine_tuner is None:
            return self._loss(windows)
        refreshed = self.model.text_vectors
        self.model.text_vectors = self.fine_tuner.mixed(refreshed, self._items(windows))
        try:
            return self._loss(windows)
        finally:
            self.model.text_vectors = refreshed

    def _items(self, windows: Ints) -> Tensor:
        """Catalog indices of the items in some windows, ascending."""
        config = self.config
        start, owner = windows[:, :1], windows[:, 1]
        index = start + np.arange(-config.context_events, config.targets_per_window)
        first, stop = (part.numpy()[owner, None] for part in (self.tensors.first, self.tensors.stop))
        return torch.from_numpy(np.unique(self.log.item[index[(index >= first) & (index < stop)]]).astype(np.int64))

    def _loss(self, windows: Ints) -> tuple[Tensor, Tensor, int]:
        config = self.config
        # No more than the longest of these histories, which most logs have shorter.
        longest = int((windows[:, 0] - self.tensors.first.numpy()[windows[:, 1]]).max(initial=0))
        predicted = predict_windows(
            self.model,
            self.tensors,
            windows,
            min(config.context_events, longest),
            config.targets_per_window,
            self._is_head,
            dropout=config.dropout,
            residual_dropout=config.residual_dropout,
            block_dropout=config.block_dropout,
        )
        heads = predicted.event.numpy()
        candidates = self._candidates(heads)
        item = None if candidates is None else candidates.item
        factors = self.model.item_factors(item, config.residual_dropout, config.block_dropout)
        rows = max(self.max_scores // factors.shape[0], 1)
        if candidates is None and self.model.repeat is None:
            loss = self._whole_catalog_loss(heads, predicted.blend.interest, factors)
        elif len(heads) <= rows:
            loss = self._slice_loss(candidates, heads, predicted.blend.interest, factors)
        else:
            parts = []
            for start in range(0, len(heads), rows):
                part = slice(start, start + rows)
                function = partial(self._slice_loss, candidates, heads[part])
                value = checkpoint(function, predicted.blend.interest[part], factors, use_reentrant=False)
                parts.append(value * (len(heads[part]) / len(heads)))
            loss = torch.stack(parts).sum()
        if self.model.repeat is not None:
            loss = loss + self.model.repeat.negative_log_prior(config) / self.baskets
        return loss, predicted.blend.alpha.detach().mean(), len(heads)

    def _candidates(self, heads: Ints) -> Candidates | None:
        """The items that are scored for the baskets; None for the whole catalog."""
        device = self.model.gamma.device
        targets = torch.from_numpy(self.log.item[self._targets(heads)[1]].astype(np.int64))
        if self._sampler is not None:
            return self._sampler.candidates(targets).to(device)
        if self.loss is Loss.mse:
            item = torch.unique(targets)
            nothing = torch.zeros(item.shape[0])
            return Candidates(item, nothing, nothing).to(device)
        return None

    def _whole_catalog_loss(self, heads: Ints, interest: Tensor, factors: Tensor) -> Tensor:
        """The full softmax without a repeat score; arguments as in `_slice_loss`."""
        rows, index = self._targets(heads)
        row = torch.from_numpy(rows).to(interest.device)
        item = torch.from_numpy(self.log.item[index].astype(np.int64)).to(interest.device)
        prior = None
        if self.popularity is not None and self.prior_columns is not None:
            timestamp = torch.from_numpy(self.popularity.index_at(self.log.time_ms[heads])).to(interest.device)
            prior = losses.PriorRows(self.prior_columns, timestamp, self.model.prior_weight)
        return losses.catalog_softmax(interest, factors, prior, row, item)

    def _slice_loss(self, candidates: Candidates | None, heads: Ints, interest: Tensor, factors: Tensor) -> Tensor:
        """Mean loss over baskets.

        Args:
            candidates: What the factors belong to; None for the whole catalog.
            heads: ``[baskets]``, log index of the first event of each basket.
            interest: ``[baskets, d]``.
            factors: ``[candidates, d]``.
        """
        scores = self._scores(candidates, heads, interest, factors)
        rows, index = self._targets(heads)
        row = torch.from_numpy(rows).to(scores.device)
        item = torch.from_numpy(self.log.item[index].astype(np.int64)).to(scores.device)
        repeat = self.model.repeat
        if repeat is None:
            return self._catalog_loss(candidates, scores, row, item, index)
        seen = self.model.weighed(seen_before(self.log, self.tensors, heads).to(scores.device))
        # In full precision: matrix products in 16 bits are for the large ones.
        with torch.autocast(scores.device.type, enabled=False):
            value = repeat(seen, self.model.repeat_item_bias(), self._seen_prior(seen, heads))
            level = repeat.common_level(seen)
        columns = None if candidates is None else candidates.item
        if self.loss is Loss.mse:
            return self._catalog_loss(candidates, with_repeat_scores(scores, seen, value, columns), row, item, index)
        # The order of seen items is learned among themselves, and only their common level among the whole catalog.
        scores = with_repeat_scores(scores, seen, (value - level).detach() + level, columns)
        loss = self._catalog_loss(candidates, scores, row, item, index)
        return loss + self.config.seen_items_weight * seen_items_loss(value, seen, row, item, len(heads))

    def _catalog_loss(
        self, candidates: Candidates | None, scores: Tensor, row: Tensor, item: Tensor, index: Ints
    ) -> Tensor:
        """The configured loss of the scores ``[baskets, candidates]``.

        Args:
            candidates: What the columns belong to; None for the whole catalog.
            scores: Before each basket.
            row: ``[targets]``, the basket of each target.
            item: ``[targets]``, catalog indices.
            index: ``[targets]``, log indices.
        """
        config = self.config
        if candidates is None:
            return losses.full_softmax(scores, row, item)
        pairs = (scores, row, candidates.column(item))
        if self.loss is Loss.sampled_softmax:
            return losses.sampled_softmax(*pairs, candidates.drawn, candidates.log_expected)
        if self.loss is Loss.bpr:
            return losses.bpr(*pairs, candidates.drawn)
        if self.loss is Loss.gbce:
            return losses.gbce(*pairs, candidates.drawn, self.items, config.gbce_calibration)
        rating = torch.from_numpy(self.log.weight[index]).to(scores.device) - (self.rating_mean or 0.0)
        return losses.mse(*pairs, rating)

    def _scores(self, candidates: Candidates | None, heads: Ints, interest: Tensor, factors: Tensor) -> Tensor:
        """``[baskets, candidates]`` by factors and popularity, before each basket; arguments as in `_slice_loss`."""
        scores = (interest @ factors.T).float()
        item = None if candidates is None else candidates.item
        # Added in full precision: matrix products in 16 bits are for the large ones.
        with torch.autocast(scores.device.type, enabled=False):
            if self.popularity is not None and self.prior_columns is not None:
                timestamp = torch.from_numpy(self.popularity.index_at(self.log.time_ms[heads])).to(scores.device)
                used, index = torch.unique(timestamp, return_inverse=True)
                columns = self.prior_columns[used] if item is None else self.prior_columns[used[:, None], item]
                # In place: another tensor of this size costs more than the sum.
                scores += nn.functional.embedding(index, columns @ self.model.prior_weight)
        return scores

    def _seen_prior(self, seen: SeenItems, heads: Ints) -> Tensor | None:
        """The prior's columns of seen items at the time of their baskets, ``[pairs, p]``; None without a prior."""
        if self.popularity is None or self.prior_columns is None:
            return None
        timestamp = torch.from_numpy(self.popularity.index_at(self.log.time_ms[heads])).to(seen.basket.device)
        return self.prior_columns[timestamp[seen.basket], seen.item]

    def _targets(self, heads: Ints) -> tuple[Ints, Ints]:
        """Row and log index of every target of some baskets, ``[targets]`` each."""
        counts = self._sizes[heads].astype(np.int64)
        row = np.repeat(np.arange(heads.shape[0]), counts)
        first = np.searchsorted(self._events, heads)
        return row, self._events[first[row] + np.arange(row.shape[0]) - np.repeat(np.cumsum(counts) - counts, counts)]
