"""The choices of an export, in a module that imports nothing heavy, so that the command line can offer them at once."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "fp16", "int8"]
"""Number format of the encoder's weights, or of the scoring head's item factors."""

RetrievalMethod = Literal["exact", "ivf"]
"""How the scoring head finds the best items: it scores the whole catalog, or asks an approximate index."""

Accelerator = Literal["cuda", "tensorrt"]
"""Execution accelerators of NVIDIA's ONNX Runtime backend."""
