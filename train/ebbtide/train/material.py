"""What the fits of one training share: their data and settings, and the history of their epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from torch import Tensor

from ebbtide.data.events import EventLog
from ebbtide.interest.popularity import Smoothing
from ebbtide.train.checkpoint import CheckpointFolder
from ebbtide.train.choices import Start
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.devices import Devices
from ebbtide.train.evaluation.ranks import Variant
from ebbtide.train.fine_tuning import EncoderFineTuner
from ebbtide.train.popularity import PopularitySnapshots
from ebbtide.train.progress import Epoch, Tried
from ebbtide.train.related import Related
from ebbtide.train.watcher import Watcher
from ebbtide.train.windows import LogTensors


@dataclass(frozen=True)
class Material:
    """The data and settings of a training."""

    log: EventLog
    tensors: LogTensors
    popularity: PopularitySnapshots | None
    validation_popularity: PopularitySnapshots | None
    """The prior at the times of the validation events; None where it is too large to keep, and without a prior."""
    smoothing: Smoothing | None
    text_vectors: Tensor
    features: Mapping[str, Tensor]
    """Further feature blocks by name."""
    related: Related | None
    """None where related items are to get nothing."""
    model_config: ModelConfig
    config: TrainConfig
    devices: Devices
    watcher: Watcher
    checkpoints: CheckpointFolder | None
    make_fine_tuner: Callable[[], EncoderFineTuner] | None
    """Makes an encoder to fine-tune; None leaves the encoder frozen."""


@dataclass
class History:
    """The validated epochs of a training, and the best of them."""

    start: Start
    earlier: list[Tried] = field(default_factory=list)
    """Starts that were tried before this one."""
    epochs: list[Epoch] = field(default_factory=list)
    """Epochs with validation; the first is number 0, the model before its first step."""
    best_epoch: int = 0
    """The last one that is no worse than the best by more than chance."""
    best_ndcg_at_10: float = -1.0
    """Of all epochs."""
    best_variant: Variant = field(default_factory=Variant)
    """How the parts of the score were put together best in the best epoch."""
    text_weights: tuple[float, ...] = ()
    """Of the texts' groups of dimensions, as fitted before the first epoch."""

    @classmethod
    def of(cls, tried: Tried, earlier: Sequence[Tried]) -> History:
        """The history of one start."""
        variant = Variant(*(getattr(tried, field.name) for field in fields(Variant)))
        best = (tried.best_epoch, tried.best_ndcg_at_10, variant)
        return cls(tried.start, list(earlier), list(tried.epochs), *best, tried.text_weights)

    @property
    def tried(self) -> Tried:
        """The start, judged by its best epoch."""
        return Tried(
            start=self.start,
            epochs=self.epochs,
            best_epoch=self.best_epoch,
            best_ndcg_at_10=self.best_ndcg_at_10,
            text_weights=self.text_weights,
            **asdict(self.best_variant),
        )
