"""Peer 1: a grpc.aio service with eager PyTorch, without Triton; it batches requests that wait for the model.

It uses the KServe v2 messages, so that one load generator can measure every server.
"""

from __future__ import annotations

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import torch
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from benchmarks.serving.peers.torch_answers import Answers, TorchRecommender
from ebbtide.export.configs import data_type
from ebbtide.interest import contract, served_models

INPUTS = (contract.EVENT_ITEM, contract.EVENT_TIME, contract.EVENT_IS_CURRENT, contract.NOW)
OUTPUTS = (contract.ITEM_ID, contract.SCORE, contract.ALPHA_USED, contract.EVENT_COUNTS)
_DTYPES = {"INT64": np.int64, "BOOL": np.bool_}


class RecommendService(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers `recommend`, and the other calls of a load generator as Triton would."""

    def __init__(self, recommender: TorchRecommender, max_batch: int) -> None:
        """Creates the service.

        Args:
            recommender: Model to serve.
            max_batch: Maximum number of requests in a batch; 1 for no batching.
        """
        self._recommender = recommender
        self._max_batch = max_batch
        # One thread is enough: torch itself runs the batch on the configured number of cores.
        self._executor = ThreadPoolExecutor(1)
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()
        self._ids = [len(text.encode()).to_bytes(4, "little") + text.encode() for text in recommender.item_id]

    async def run(self) -> None:
        """Answers the waiting requests in batches, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            waiting = [await self._queue.get()]
            while len(waiting) < self._max_batch and not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            try:
                answers = await loop.run_in_executor(self._executor, self._answer, [request for request, _ in waiting])
            except ValueError as error:
                for _, future in waiting:
                    future.set_exception(error)
                continue
            for (_, future), answer in zip(waiting, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: ANN401, N802 - gRPC's names, without types
        """Answers one request for recommendations."""
        arrays = {
            tensor.name: torch.from_numpy(np.frombuffer(raw, _DTYPES[tensor.datatype]).copy())
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        item, time_ms, current, now = (arrays[tensor.name] for tensor in INPUTS)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(((item, time_ms, current, int(now[0])), future))
        try:
            response = await future
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        # Callers with several requests in flight match answers by their id.
        response.id = request.id
        return response

    def _answer(self, requests: list[Any]) -> list[Any]:
        answers = self._recommender.answer_ragged(requests)
        return [self._response(answers, row) for row in range(len(requests))]

    def _response(self, answers: Answers, row: int) -> Any:  # noqa: ANN401 - no types
        outputs = (
            (contract.ITEM_ID, answers.index.shape[1], b"".join([self._ids[index] for index in answers.index[row]])),
            (contract.SCORE, answers.score.shape[1], answers.score[row].tobytes()),
            (contract.ALPHA_USED, 1, answers.alpha_used[row].tobytes()),
            (contract.EVENT_COUNTS, answers.event_counts.shape[1], answers.event_counts[row].tobytes()),
        )
        response = service_pb2.ModelInferResponse(model_name=served_models.RECOMMEND.name, model_version="1")
        for tensor, size, raw in outputs:
            response.outputs.add(name=tensor.name, datatype=tensor.dtype.value, shape=[1, size])
            response.raw_output_contents.append(raw)
        return response

    async def ServerLive(self, _request: Any, _context: Any) -> Any:  # noqa: ANN401, N802
        """Answers that the server is live."""
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, _request: Any, _context: Any) -> Any:  # noqa: ANN401, N802
        """Answers that the server is ready."""
        return service_pb2.ServerReadyResponse(ready=True)

    async def ModelReady(self, _request: Any, _context: Any) -> Any:  # noqa: ANN401, N802
        """Answers that the model is ready."""
        return service_pb2.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, _request: Any, _context: Any) -> Any:  # noqa: ANN401, N802
        """Answers without Triton's extensions, so that callers do not request statistics."""
        return service_pb2.ServerMetadataResponse(name="grpc.aio", version="1")

    async def ModelMetadata(self, _request: Any, _context: Any) -> Any:  # noqa: ANN401, N802
        """Answers with the tensors of `recommend`."""
        response = service_pb2.ModelMetadataResponse(
            name=served_models.RECOMMEND.name, versions=["1"], platform="pytorch"
        )
        for tensors, field in ((INPUTS, response.inputs), (OUTPUTS, response.outputs)):
            for tensor in tensors:
                field.add(name=tensor.name, datatype=tensor.dtype.value, shape=[-1, -1])
        return response

    async def ModelConfig(self, _request: Any, _context: Any) -> Any:  # noqa: ANN401, N802
        """Answers with the tensors of `recommend` as Triton's config message."""
        config = model_config_pb2.ModelConfig(name=served_models.RECOMMEND.name, max_batch_size=self._max_batch)
        for tensors, field in ((INPUTS, config.input), (OUTPUTS, config.output)):
            for tensor in tensors:
                field.add(name=tensor.name, data_type=data_type(tensor), dims=[-1])
        return service_pb2.ModelConfigResponse(config=config)

    async def ModelStatistics(self, _request: Any, _context: Any) -> Any:  # noqa: ANN401, N802
        """Answers with empty statistics: the service keeps none."""
        response = service_pb2.ModelStatisticsResponse()
        response.model_stats.add(name=served_models.RECOMMEND.name, version="1")
        return response


async def serve(bundle: Path, port: int, max_batch: int) -> None:
    """Serves on 127.0.0.1 until the process is stopped."""
    service = RecommendService(TorchRecommender(bundle), max_batch)
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await service.run()


def main() -> None:
    """Parses the command line and serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--torch-threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.torch_threads)
    asyncio.run(serve(arguments.bundle, arguments.port, arguments.max_batch))


if __name__ == "__main__":
    main()
