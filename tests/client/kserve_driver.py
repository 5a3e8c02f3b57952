"""Asks KServe's own client: ``python kserve_driver.py URL REQUESTS ANSWERS``, two JSON files.

It runs in an environment of its own, since kserve and this project pin other versions of the same packages.

Each request is ``{"model", "inputs": [{"name", "datatype", "shape", "data"}]}``; each answer ``{"outputs": [...]}`` of
the same form, or ``{"code": "INVALID_ARGUMENT"}``.
"""

import asyncio
import json
import logging
import sys
from pathlib import Path

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

NUMPY = {"BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32}


def tensor_of(told):
    tensor = InferInput(told["name"], told["shape"], told["datatype"])
    if told["datatype"] == "BYTES":
        array = np.array([text.encode() for text in told["data"]], dtype=np.object_)
    else:
        array = np.array(told["data"], dtype=NUMPY[told["datatype"]])
    tensor.set_data_from_numpy(array.reshape(told["shape"]), binary_data=True)
    return tensor


def told_of(output):
    array = output.as_numpy()
    data = [text.decode() for text in array.flat] if output.datatype == "BYTES" else array.reshape(-1).tolist()
    return {"name": output.name, "datatype": output.datatype, "shape": list(array.shape), "data": data}


async def answers(url, requests):
    async with InferenceGRPCClient(url, timeout=60) as client:
        for request in requests:
            inputs = [tensor_of(told) for told in request["inputs"]]
            try:
                reply = await client.infer(InferRequest(model_name=request["model"], infer_inputs=inputs))
            except grpc.RpcError as error:
                yield {"code": error.code().name}
            else:
                yield {"outputs": [told_of(output) for output in reply.outputs]}


async def main(url, requests, written):
    logging.disable()
    asked = json.loads(Path(requests).read_text())
    Path(written).write_text(json.dumps([answer async for answer in answers(url, asked)]))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
