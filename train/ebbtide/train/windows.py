"""Interest before every event of a window of the log, by the constant-size recurrence, for training and evaluation.

Where a request sums over its events, this walks along a user's events once: each new event multiplies the two sums by
a decay and adds a vector, and the end of a session moves the current sum into the history. Same numbers, one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ebbtide.data.events import EventLog
from ebbtide.data.sessions import pauses_ms, session_starts
from ebbtide.interest.events import COUNTED_EVENTS, MS_PER_DAY, MS_PER_HOUR
from ebbtide.train.model import Blend, Context, InterestModel, Sums
from ebbtide.train.recurrence import walk

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LogTensors:
    """An event log as tensors, with what the recurrence needs of each event."""

    item: Tensor
    """``[events]`` catalog indices."""
    time_ms: Tensor
    """``[events]`` Unix milliseconds."""
    weight: Tensor
    """``[events]`` float32."""
    pause_days: Tensor
    """``[events]`` float32, since the user's previous event; 0 for the first."""
    opens_session: Tensor
    """``[events]`` bool, whether the pause before the event ended a session; true for the first."""
    session_start: Tensor
    """``[events]``, the log index of the first event of the event's session."""
    first: Tensor
    """``[events]``, the log index of the user's first event."""
    stop: Tensor
    """``[events]``, one past the user's last event."""
    event_type: Tensor | None
    """``[events]``, index of the type of each; None for events of one type."""

    @classmethod
    def of(cls, log: EventLog, session_gap_ms: int) -> LogTensors:
        """Prepares a log."""
        lengths = np.diff(log.start)
        first = np.repeat(log.start[:-1], lengths)
        stop = np.repeat(log.start[1:], lengths)
        session_start = session_starts(log, session_gap_ms)
        return cls(
            item=torch.from_numpy(log.item.copy()),
            time_ms=torch.from_numpy(log.time_ms.copy()),
            weight=torch.from_numpy(log.weight.copy()),
            pause_days=torch.from_numpy((pauses_ms(log) / MS_PER_DAY).astype(np.float32)),
            opens_session=torch.from_numpy(session_start == np.arange(log.events)),
            session_start=torch.from_numpy(session_start),
            first=torch.from_numpy(first),
            stop=torch.from_numpy(stop),
            event_type=None if log.event_type is None else torch.from_numpy(log.event_type.copy()),
        )


def training_windows(
    log: EventLog, is_target: npt.NDArray[np.bool_], targets: int, random: np.random.Generator
) -> Ints:
    """Windows that cover every user's events once, in random order, ``[windows, 2]``; see `predict_windows`.

    Args:
        log: Events.
        is_target: ``[events]``; windows without a target are left out.
        targets: Consecutive targets a window covers.
        random: Shifts where each user's windows begin, and shuffles them.
    """
    lengths = np.diff(log.start)
    shift = random.integers(0, targets, size=lengths.shape[0])
    count = -(-(lengths + shift) // targets)
    user = np.repeat(np.arange(lengths.shape[0]), count)
    index = np.arange(user.shape[0]) - np.repeat(np.cumsum(count) - count, count)
    starts = log.start[user] - shift[user] + index * targets
    cumulative = np.concatenate([[0], np.cumsum(is_target)])
    low = np.maximum(starts, log.start[user])
    high = np.minimum(starts + targets, log.start[user + 1])
    useful = cumulative[high] > cumulative[low]
    # A window is named by its user's events, also where it begins before them.
    chosen = np.stack([starts[useful], low[useful]], axis=1)
    return random.permutation(chosen)


def batches(windows: Ints, size: int) -> Iterator[Ints]:
    """The windows in groups of ``size``, the last one maybe smaller."""
    for start in range(0, len(windows), size):
        yield windows[start : start + size]


@dataclass(frozen=True)
class Predicted:
    """Interest just before each predicted event."""

    event: Tensor
    """``[targets]``, log index of the predicted event; on the CPU, like the log."""
    blend: Blend
    """One row for each target."""


def predict_windows(
    model: InterestModel,
    log: LogTensors,
    windows: Ints,
    context_events: int,
    targets: int,
    is_target: Tensor,
    vectors: Tensor | None = None,
    dropout: float = 0.0,
    residual_dropout: float = 0.0,
    block_dropout: float = 0.0,
    *,
    exact: bool = False,
) -> Predicted:
    """Interest before the target events of some windows.

    Args:
        model: The interest model.
        log: Events, on the CPU wherever the model is.
        windows: ``[windows, 2]``: the log index of each window's first target, and any event of the same user.
        context_events: Events before the first target that are read.
        targets: Events from the first target on that may be targets.
        is_target: ``[events]`` bool, which events are predicted.
        vectors: ``[items, d]``, event vectors; None computes those of the windows' items and no others.
        dropout: Share of the entries of event vectors that are zeroed.
        residual_dropout: As for `InterestModel.event_vectors`, where `vectors` is None.
        block_dropout: Likewise.
        exact: Whether every target has at most `context_events` events before it, as a request has. Otherwise the later
            targets of a window have up to ``targets - 1`` more.
    """
    # The log stays on the CPU; what these windows hold of it goes to the model's device.
    device = model.gamma.device
    start, owner = torch.from_numpy(windows).unbind(1)
    index = start[:, None] - context_events + torch.arange(context_events + targets)
    first, stop = log.first[owner, None], log.stop[owner, None]
    inside = (index >= first) & (index < stop)
    index = index.clamp(0, log.item.shape[0] - 1)

    items = log.item[index]
    if vectors is None:
        used, items = torch.unique(items, return_inverse=True)
        vectors = model.event_vectors(used.to(device), residual_dropout, block_dropout)
    # Not vectors[...]: the gradient of indexing adds up in the order in which threads arrive.
    weight = (log.weight[index] * inside).to(device)
    weight = model.event_weight(weight, None if log.event_type is None else log.event_type[index])
    terms = nn.functional.embedding(items.to(device), vectors) * weight.unsqueeze(-1)
    terms = nn.functional.dropout(terms, dropout, training=dropout > 0)
    pause = (log.pause_days[index] * (inside & (index > first))).to(device)
    # Age decays over every pause, rank decays at every new event.
    age_decay = torch.exp(-pause.unsqueeze(-1) * model.decay_rate_per_day)
    opens = log.opens_session[index].to(device, terms.dtype).unsqueeze(-1)
    sums = _scan(terms, age_decay, torch.exp(-model.rank_decay_rate), opens, context_events)
    if exact and bool(inside[:, : targets - 1].any()):
        sums = _without_older(model, sums, terms, log.time_ms[index].to(device), opens)

    wanted = (inside & is_target[index])[:, context_events:]
    event = index[:, context_events:][wanted]
    history_stop = torch.where(log.opens_session[event], event, log.session_start[event - 1].clamp(min=0))
    first_counted = torch.maximum(log.first[event], event - COUNTED_EVENTS)
    history_stop = torch.maximum(history_stop, first_counted)
    context = Context(
        history_count=(history_stop - first_counted).to(device, terms.dtype),
        current_count=(event - history_stop).to(device, terms.dtype),
        idle_hours=(log.pause_days[event] * (MS_PER_DAY / MS_PER_HOUR)).to(device),
    )
    wanted = wanted.to(device)
    chosen = Sums(*(part[wanted] for part in (sums.history, sums.history_square, sums.current, sums.current_square)))
    if exact:
        # What subtraction leaves of an empty history is rounding, which the norm would make large.
        has_history = context.history_count[:, None] > 0
        chosen = replace(
            chosen, history=chosen.history * has_history, history_square=chosen.history_square * has_history
        )
    return Predicted(event, model.blend(chosen, context))


def _scan(terms: Tensor, age_decay: Tensor, rank_decay: Tensor, opens: Tensor, context: int) -> Sums:
    """Sums just before each event from ``context`` on, ``[windows, targets, d]``.

    Args:
        terms: ``[windows, window events, d]``, weighted event vectors.
        age_decay: ``[windows, window events, d]``, over the pause before each event.
        rank_decay: ``[d]``, for each later event.
        opens: ``[windows, window events, 1]``, 1 where an event opens a session.
        context: Events before the first target.
    """
    # Sums and sums of squares go through one recurrence together; squares decay twice as fast.
    added = torch.cat([terms, terms.square()], dim=-1).transpose(0, 1)
    pause = torch.cat([age_decay, age_decay.square()], dim=-1).transpose(0, 1)
    step = torch.cat([rank_decay, rank_decay.square()])
    histories, currents = walk(
        added.contiguous(), pause.contiguous(), step, opens.transpose(0, 1).contiguous(), context
    )
    d = terms.shape[-1]
    histories, currents = histories.transpose(0, 1), currents.transpose(0, 1)
    return Sums(histories[..., :d], histories[..., d:], currents[..., :d], currents[..., d:])


def _without_older(model: InterestModel, sums: Sums, terms: Tensor, time_ms: Tensor, opens: Tensor) -> Sums:
    """The sums without the events that a request for a later target of the window is too short for.

    The target at offset j has the first j events of the window too many.

    Args:
        model: For its decay.
        sums: Just before each target, ``[windows, targets, d]``.
        terms: ``[windows, window events, d]``, weighted event vectors.
        time_ms: ``[windows, window events]``.
        opens: ``[windows, window events, 1]``, 1 where an event opens a session.
    """
    targets = sums.history.shape[1]
    context, older = terms.shape[1] - targets, targets - 1
    offset = torch.arange(targets, device=terms.device)[:, None]
    position = torch.arange(older, device=terms.device)
    # Before the user's first event are other users' times; their terms are 0.
    age_days = ((time_ms[:, context:, None] - time_ms[:, None, :older]) / MS_PER_DAY).clamp(min=0)
    rank = context + offset - 1 - position
    decay = torch.exp(
        -age_days[..., None].to(terms.dtype) * model.decay_rate_per_day - rank[..., None] * model.rank_decay_rate
    )
    added = terms[:, None, :older] * decay * (position < offset)[..., None]
    sessions = opens.cumsum(1)
    is_current = sessions[:, context:, None] == sessions[:, None, :older]
    past, present = added * ~is_current, added * is_current
    return Sums(
        sums.history - past.sum(2),
        (sums.history_square - past.square().sum(2)).clamp(min=0),
        sums.current - present.sum(2),
        (sums.current_square - present.square().sum(2)).clamp(min=0),
    )
