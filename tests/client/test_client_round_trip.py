"""Every message of the schema and every tensor of the contract comes back as it went, whatever is in it."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import InferInput, InferResult, service_pb2

from ebbtide.client._shared_memory import Region
from ebbtide.client._triton import infer_request, raw_content, read_content, read_outputs
from ebbtide.client.hooks import Call
from ebbtide.interest.contract import Axis, Dtype
from ebbtide.interest.served_models import MODELS
from ebbtide.v1 import interest_pb2

MESSAGES = sorted(interest_pb2.DESCRIPTOR.message_types_by_name)
TENSORS = {tensor.name: tensor for model in MODELS.values() for tensor in (*model.inputs, *model.outputs)}
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = {
    FieldDescriptor.TYPE_STRING: words,
    FieldDescriptor.TYPE_FLOAT: st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([math.inf, -math.inf]),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
}


def values(field):
    if field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp":
        stamp = message_factory.GetMessageClass(field.message_type)
        return st.builds(
            stamp, seconds=st.integers(-62_135_596_800, 253_402_300_799), nanos=st.integers(0, 999_999_999)
        )
    if field.message_type is not None:
        return messages(field.message_type)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return SCALARS[field.type]


def messages(descriptor):
    """Messages of a type with any of their fields, of each oneof at most one."""
    kind = message_factory.GetMessageClass(descriptor)

    @st.composite
    def build(draw):
        given_fields = {}
        for field in descriptor.fields:
            if draw(st.booleans()):
                of_field = st.lists(values(field), max_size=3) if field.is_repeated else values(field)
                given_fields[field.name] = draw(of_field)
        for oneof in descriptor.oneofs:
            for name in [field.name for field in oneof.fields if field.name in given_fields][1:]:
                del given_fields[name]
        return kind(**given_fields)

    return build()


@pytest.mark.parametrize("name", MESSAGES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_message_comes_back_when_it_travels_as_bytes_or_json(name, data):
    message = data.draw(messages(interest_pb2.DESCRIPTOR.message_types_by_name[name]))
    assert type(message).FromString(message.SerializeToString()) == message
    assert json_format.Parse(json_format.MessageToJson(message), type(message)()) == message


ELEMENTS = {
    Dtype.BOOL: (np.bool_, st.booleans()),
    Dtype.INT32: (np.int32, st.integers(-(2**31), 2**31 - 1)),
    Dtype.INT64: (np.int64, st.integers(-(2**63), 2**63 - 1)),
    Dtype.FP32: (np.float32, st.floats(width=32)),
    Dtype.BYTES: (np.object_, st.binary(max_size=20)),
}


def arrays(tensor):
    """Arrays of a tensor's type, of any shape with as many dimensions as it has in a batch."""
    dtype, elements = ELEMENTS[tensor.dtype]

    @st.composite
    def build(draw):
        shape = [draw(st.integers(0 if isinstance(dim, Axis) else 1, 4)) for dim in (1, *tensor.dims)]
        many = draw(st.lists(elements, min_size=math.prod(shape), max_size=math.prod(shape)))
        array = np.empty(len(many), dtype)
        array[:] = many
        return array.reshape(shape)

    return build()


def same(one, other):
    return one.shape == other.shape and one.dtype == other.dtype and raw_content(one) == raw_content(other)


@pytest.mark.parametrize("name", TENSORS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_tensor_comes_back_and_is_tritonclients_when_it_travels(name, data):
    tensor = TENSORS[name]
    array = data.draw(arrays(tensor))
    datatype = tensor.dtype.value
    request = infer_request("any", {name: array}, {name: datatype})
    theirs = InferInput(name, list(array.shape), datatype)
    theirs.set_data_from_numpy(array)
    assert request.inputs[0] == theirs._get_tensor()
    assert list(request.raw_input_contents) == [theirs._get_content()]

    reply = service_pb2.ModelInferResponse(model_version="1")
    reply.outputs.add(name=name, datatype=datatype, shape=array.shape)
    reply.raw_output_contents.append(raw_content(array))
    outputs, version = read_outputs(reply)
    assert version == "1"
    assert same(outputs[name], array)
    if array.size:
        assert same(InferResult(reply).as_numpy(name), array)


@dataclass
class Server:
    """What Triton does with a region: it reads inputs from where they are said to lie, and writes outputs there."""

    memory: memoryview

    def piece(self, tensor):
        index, size = (tensor.parameters[f"shared_memory_{name}"].int64_param for name in ("offset", "byte_size"))
        return self.memory[index : index + size]


@pytest.mark.parametrize("name", TENSORS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_tensor_comes_back_when_it_lies_in_shared_memory(name, data):
    tensor = TENSORS[name]
    array = data.draw(arrays(tensor))
    datatype = tensor.dtype.value
    region = Region()
    region.hide()
    is_written = tensor.dtype in (Dtype.FP32, Dtype.INT32) and array.size > 0
    request = region.request("any", {name: array}, {name: datatype}, {name: array.shape if is_written else ()})
    server = Server(memoryview(region._memory))
    (sent,) = request.inputs
    content = bytes(server.piece(sent)) if array.size else request.raw_input_contents[0]
    assert same(read_content(name, datatype, sent.shape, content), array)

    reply = service_pb2.ModelInferResponse(model_version="1")
    reply.outputs.add(name=name, datatype=datatype, shape=array.shape)
    if is_written:
        server.piece(request.outputs[0])[:] = raw_content(array)
    reply.raw_output_contents.append(b"" if is_written else raw_content(array))
    call = Call("recommend", "recommend", "here", 1.0, attempts=1)
    outputs, _ = region.read_outputs(reply, call)
    assert same(outputs[name], array)
    server.memory.release()
