"""The choices of a training as enums, in a module without torch, so that the command line can offer them at once."""

from __future__ import annotations

from enum import Enum


class Loss(str, Enum):
    """What training minimises."""

    full_softmax = "full-softmax"
    """Cross-entropy over the whole catalog."""
    sampled_softmax = "sampled-softmax"
    """Cross-entropy over drawn negatives, corrected by how likely they were drawn: for large catalogs."""
    bpr = "bpr"
    """Targets should score above drawn negatives."""
    gbce = "gbce"
    """Binary cross-entropy with drawn negatives, calibrated against overconfidence."""
    mse = "mse"
    """Squared error of predicted ratings, as in the source method."""

    @property
    def draws(self) -> bool:
        """Whether negatives are drawn."""
        return self in {Loss.sampled_softmax, Loss.bpr, Loss.gbce}


class FineTuning(str, Enum):
    """What of the encoder learns."""

    frozen = "frozen"
    lora = "lora"
    """Low-rank adapters in every linear layer (Hu et al., ICLR 2022), merged into the weights at the end."""
    full = "full"


class DeviceKind(str, Enum):
    """Where training runs."""

    auto = "auto"
    """CUDA if PyTorch finds a GPU, otherwise the CPU."""
    cpu = "cpu"
    cuda = "cuda"


class Precision(str, Enum):
    """Precision of matrix products; parameters, the optimiser and the loss stay in float32."""

    fp32 = "fp32"
    bf16 = "bf16"
    """bfloat16 through autocast."""
    fp16 = "fp16"
    """float16 through autocast; the loss is scaled so that small gradients do not become 0."""


class Decay(str, Enum):
    """What fades with time."""

    learned = "learned"
    """The interest, at half-lives that are learned for each dimension, and popularity."""
    popularity = "popularity"
    """Popularity alone: an ablation."""
    none = "none"
    """Neither."""


class Start(str, Enum):
    """Where training begins."""

    items = "items"
    """At a linear model of which items occur together: best where the catalog changes little."""
    texts = "texts"
    """At the directions in which texts predict texts: best where items come and go."""
