"""What training and validation compute on stays on the model's device, shown without a GPU.

`Elsewhere` is a tensor on a pretended device: it computes on the CPU, but refuses to meet a tensor that was left on the
CPU, as a tensor on a GPU does.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ebbtide.data.baskets import has_past
from ebbtide.train.choices import Loss
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.evaluation import ranks
from ebbtide.train.evaluation.scores import live_popularity
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import LivePopularity, PopularitySnapshots, snapshot_times
from ebbtide.train.step import Step
from ebbtide.train.windows import LogTensors, training_windows

DEVICE = torch.device("meta")
# A table may be indexed by tensors of the CPU, and copies may go from one device to another.
MAY_MEET = {"aten::index", "aten::index_put_", "aten::copy_"}


class Elsewhere(torch.Tensor):
    """A tensor on the pretended device."""

    @staticmethod
    def __new__(cls, here):
        made = torch.Tensor._make_wrapper_subclass(
            cls, here.size(), strides=here.stride(), dtype=here.dtype, device=DEVICE
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, function, _types, arguments=(), options=None):
        return computed(function, arguments, options or {})


class Placing(TorchDispatchMode):
    """Takes tensors to the pretended device where they are asked to go there."""

    def __torch_dispatch__(self, function, _types, arguments=(), options=None):
        return computed(function, arguments, options or {})


def computed(function, arguments, options):
    tensors = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    left = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.dim()]
    name = function._schema.name
    if there and left and (name not in MAY_MEET or not isinstance(arguments[0], Elsewhere)):
        raise RuntimeError(f"{name}: tensors of two devices: {[tuple(tensor.shape) for tensor in tensors]}")
    device = options.get("device")
    here = {**options, "device": torch.device("cpu")} if device is not None else options
    result = function(*tree_map(_here, arguments), **tree_map(_here, here))
    if function._schema.is_mutable:
        return arguments[0]
    if not (bool(there) if device is None else torch.device(device) == DEVICE):
        return result
    return tree_map(lambda leaf: Elsewhere(leaf) if isinstance(leaf, torch.Tensor) else leaf, result)


def _here(leaf):
    return leaf.here if isinstance(leaf, Elsewhere) else leaf


def move(module):
    for part in module.modules():
        for name, value in part.named_parameters(recurse=False):
            setattr(part, name, torch.nn.Parameter(Elsewhere(value.detach()), requires_grad=False))
        for name, value in part.named_buffers(recurse=False):
            setattr(part, name, Elsewhere(value))


def test_pretended_device_refuses_tensors_of_the_cpu():
    with Placing():
        tensor = torch.ones(3).to(DEVICE)
        with pytest.raises(RuntimeError, match="two devices"):
            tensor + torch.ones(3)
        with pytest.raises(RuntimeError, match="numpy"):
            tensor.numpy()
        assert (tensor + tensor).cpu().tolist() == [2, 2, 2]


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("loss", list(Loss))
def test_loss_and_validation_are_the_same_on_another_device(small_log, small_vectors, monkeypatch, loss, repeats):
    # Neither autocast nor inference mode knows the pretended device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(ranks, "score_baskets", ranks.score_baskets.__wrapped__)
    log, catalog = small_log
    config = ModelConfig(dimensions=8, exclude_seen=not repeats, repeat_score=repeats)
    training = has_past(log)
    targets = training & (np.arange(log.events) % 19 == 0)
    tensors = LogTensors.of(log, config.session_gap_ms)
    smoothing = InterestModel(config, torch.from_numpy(small_vectors)).smoothing
    columns = len(config.prior_starts)
    live = LivePopularity(log.item, log.time_ms, len(catalog), smoothing)
    timestamps = snapshot_times(log.time_ms, len(catalog), columns)
    popularity = PopularitySnapshots.of(live, timestamps, len(catalog), columns)
    found = []
    for context in (nullcontext(), Placing()):
        torch.manual_seed(0)
        model = InterestModel(config, torch.from_numpy(small_vectors))
        step = Step(model, log, tensors, popularity, training, TrainConfig(loss=loss, dropout=0.0))
        if isinstance(context, Placing):
            move(step)
        windows = training_windows(log, step.heads, 32, np.random.default_rng(0))[:8]
        with torch.no_grad(), context:
            value, alpha, baskets = step(windows)
            _, rank = ranks.target_ranks.__wrapped__(model, log, tensors, targets, live_popularity(model, log))
            found.append((float(value), float(alpha), baskets, rank.tolist()))
    assert isinstance(value, Elsewhere)
    assert found[0] == found[1]
