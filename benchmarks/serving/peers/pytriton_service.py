"""Peer 2: PyTriton with its batching decorator around eager PyTorch.

PyTriton's batcher joins only requests of equal length. The requests of this benchmark have equal length, so they need
no padding.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

from benchmarks.serving.peers.torch_answers import TOP_N, TorchRecommender
from ebbtide.interest import contract, served_models

Array = npt.NDArray[np.generic]


def main() -> None:
    """Parses the command line and serves until the process is stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--ports", type=int, nargs=3, required=True, help="gRPC, HTTP, metrics")
    parser.add_argument("--instances", type=int, default=1)
    parser.add_argument("--torch-threads", type=int, default=1)
    parser.add_argument("--queue-delay-us", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.torch_threads)
    recommender = TorchRecommender(arguments.bundle)
    item_id = np.array([text.encode() for text in recommender.item_id])

    @batch  # type: ignore[untyped-decorator]
    def recommend(**inputs: Array) -> dict[str, Array]:
        tensors = (contract.EVENT_ITEM, contract.EVENT_TIME, contract.EVENT_IS_CURRENT, contract.NOW)
        item, time_ms, current, now_ms = (torch.from_numpy(inputs[tensor.name]) for tensor in tensors)
        answers = recommender.answer(item, time_ms, current, now_ms, mask=None)
        return {
            contract.ITEM_ID.name: item_id[answers.index],
            contract.SCORE.name: answers.score,
            contract.ALPHA_USED.name: answers.alpha_used,
            contract.EVENT_COUNTS.name: answers.event_counts,
        }

    grpc_port, http_port, metrics_port = arguments.ports
    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=grpc_port,
        http_address="127.0.0.1",
        http_port=http_port,
        metrics_port=metrics_port,
    )
    # No endpoint is restricted: the load generator reads the statistics.
    with Triton(config=config, security_config=TritonSecurityConfig(restricted_endpoints=[])) as triton:
        triton.bind(
            model_name=served_models.RECOMMEND.name,
            infer_func=[recommend] * arguments.instances,
            inputs=[
                Tensor(name=contract.EVENT_ITEM.name, dtype=np.int64, shape=(-1,)),
                Tensor(name=contract.EVENT_TIME.name, dtype=np.int64, shape=(-1,)),
                Tensor(name=contract.EVENT_IS_CURRENT.name, dtype=np.bool_, shape=(-1,)),
                Tensor(name=contract.NOW.name, dtype=np.int64, shape=(1,)),
            ],
            outputs=[
                Tensor(name=contract.ITEM_ID.name, dtype=np.bytes_, shape=(TOP_N,)),
                Tensor(name=contract.SCORE.name, dtype=np.float32, shape=(TOP_N,)),
                Tensor(name=contract.ALPHA_USED.name, dtype=np.float32, shape=(1,)),
                Tensor(name=contract.EVENT_COUNTS.name, dtype=np.int32, shape=(3,)),
            ],
            config=ModelConfig(
                max_batch_size=64,
                batcher=DynamicBatcher(max_queue_delay_microseconds=arguments.queue_delay_us),
            ),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()
