"""Tensors in memory that a Triton on this machine shares with the client: one region for each call in flight."""

from __future__ import annotations

import math
import mmap
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ebbtide.client._retry import Deadline
from ebbtide.client._steps import Caller, Question, Steps, Wait
from ebbtide.client._triton import (
    REGISTER_REGION,
    UNREGISTER_REGION,
    Untyped,
    infer_request,
    raw_content,
    read_content,
)
from ebbtide.client.errors import EbbtideError, Status
from ebbtide.client.hooks import Call
from ebbtide.interest import triton_texts

REGION_BYTES = 1 << 20
"""Size of a region. Pages that were never written use no memory. A request that does not fit is sent as a message."""
MOST_REGIONS = 64
"""Largest number of regions of one client; further calls are sent as messages."""

_FOLDER = Path("/dev/shm")  # noqa: S108
_ALIGNMENT = 64
_REGION, _SIZE, _OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
_CLOSE_TIMEOUT_S, _CLOSE_ROUNDS, _CLOSE_PAUSE_S = 1.0, 10, 0.005
_NOT_SHARED = (Status.INVALID_ARGUMENT, Status.NOT_FOUND, Status.INTERNAL, Status.UNKNOWN, Status.UNIMPLEMENTED)
"""Status codes of a server that cannot open a region."""

Shapes = Mapping[str, Sequence[int]]
"""Shapes of those outputs of one call that are known before it."""


class Region:
    """Memory that this process and the server share; others cannot open it, and it is gone with the two of them."""

    def __init__(self) -> None:
        """Makes a region that is not registered with the server yet.

        Raises:
            EbbtideError: This machine has no shared memory to give.
        """
        self.is_done = True
        """Whether the server has certainly finished with the region; if not, it may still write to it."""
        self._indices: dict[str, int] = {}
        self.name = f"ebbtide-{os.getpid()}-{secrets.token_hex(8)}"
        self._path = _FOLDER / self.name
        try:
            file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            try:
                os.ftruncate(file, REGION_BYTES)
                self._memory = mmap.mmap(file, REGION_BYTES)
            finally:
                os.close(file)
        except OSError as error:
            raise EbbtideError(
                f"shared_memory: got {error.strerror} for {self._path}; expected POSIX shared memory, as Linux has it. "
                "Leave shared_memory off.",
                status=Status.FAILED_PRECONDITION,
            ) from error

    def hide(self) -> None:
        """Removes the name after the server opened the region: a crash of this process then leaves no file."""
        self._path.unlink(missing_ok=True)

    def request(
        self, model_name: str, tensors: Mapping[str, npt.NDArray[Any]], datatypes: Mapping[str, str], outputs: Shapes
    ) -> Untyped | None:
        """A ``ModelInferRequest`` whose inputs, and outputs of known size, lie here; None where they do not fit.

        Args:
            model_name: The model.
            tensors: Its inputs by name.
            datatypes: KServe v2's names of their types.
            outputs: Shape of every output that has 4 bytes an element and a known shape; an empty one for any other.
        """
        contents = {name: raw_content(array) for name, array in tensors.items()}
        sizes = {name: 4 * math.prod(shape) if shape else 0 for name, shape in outputs.items()}
        if sum(_aligned(len(content)) for content in contents.values()) + sum(map(_aligned, sizes.values())) > len(
            self._memory
        ):
            return None
        self.is_done = False
        self._indices.clear()
        request = infer_request(model_name, {}, datatypes)
        index = 0
        for name, content in contents.items():
            tensor = request.inputs.add(name=name, datatype=datatypes[name], shape=tensors[name].shape)
            if not content:
                # Triton takes no empty piece of a region.
                request.raw_input_contents.append(content)
                continue
            self._memory[index : index + len(content)] = content
            index = self._point(tensor, index, len(content))
        for name, size in sizes.items():
            tensor = request.outputs.add(name=name)
            if size:
                self._indices[name] = index
                index = self._point(tensor, index, size)
        return request

    def read_outputs(self, reply: Untyped, call: Call) -> tuple[dict[str, npt.NDArray[Any]], str]:
        """As `_triton.read_outputs`; what lies here is copied, so that the next call may write over it.

        Raises:
            InternalError: An output is cut short.
        """
        outputs: dict[str, npt.NDArray[Any]] = {}
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=False):
            content, index = raw, self._indices.get(output.name)
            if index is not None and not raw:
                content = self._memory[index : index + 4 * math.prod(output.shape)]
            outputs[output.name] = read_content(output.name, output.datatype, output.shape, content)
        # A server may still be at an attempt whose connection broke.
        self.is_done = call.attempts == 1
        return outputs, reply.model_version

    def _point(self, tensor: Untyped, index: int, size: int) -> int:
        """Refers a tensor to an offset in this region; returns the next free offset."""
        tensor.parameters[_REGION].string_param = self.name
        tensor.parameters[_SIZE].int64_param = size
        tensor.parameters[_OFFSET].int64_param = index
        return index + _aligned(size)


class Regions:
    """The regions of one client. A call has one to itself, and gives it back once the server is done with it."""

    def __init__(self, caller: Caller, target: str) -> None:
        """Starts with none; they are made as calls need them.

        Args:
            caller: Registers them with the server.
            target: Where the server is, for errors.
        """
        self._caller = caller
        self._target = target
        self._registered: dict[str, Region] = {}
        self._free: list[Region] = []
        self._left: list[Region] = []

    def take(self, deadline: Deadline, metadata: Mapping[str, str] | None) -> Steps[Region | None]:
        """A region that no call uses; None where as many as there may be are in use.

        Raises:
            EbbtideError: The server cannot open it, so it does not share this machine's memory.
        """
        try:
            # Threads may run this at the same time: each gets another region, or none.
            return self._free.pop()
        except IndexError:
            pass
        if self._left:
            yield from self._unregister(self._left.pop(0), deadline, metadata)
        if len(self._registered) >= MOST_REGIONS:
            return None
        region = Region()
        message = REGISTER_REGION(name=region.name, key=f"/{region.name}", byte_size=REGION_BYTES)
        question = Question("register_shared_memory", "SystemSharedMemoryRegister", message, _nothing)
        # Counted before the server is asked, since other calls may run this meanwhile.
        self._registered[region.name] = region
        is_known = False
        try:
            yield from self._caller.ask(question, deadline, metadata)
            is_known = True
        except EbbtideError as error:
            if error.status not in _NOT_SHARED:
                raise
            raise EbbtideError(
                f"shared_memory: got {error} from {self._target}; expected a server that shares this machine's memory, "
                "not one in a container of its own or behind a tunnel. Leave shared_memory off.",
                status=Status.FAILED_PRECONDITION,
            ) from error
        finally:
            region.hide()
            if not is_known:
                self._registered.pop(region.name, None)
        return region

    def give_back(self, region: Region | None) -> None:
        """Ends the use of a region; one that the server may still write to is not used again."""
        if region is not None and region.name in self._registered:
            (self._free if region.is_done else self._left).append(region)

    def forget(self) -> None:
        """Drops all regions: the server that knew them has restarted."""
        self._registered.clear()
        self._free.clear()
        self._left.clear()

    def close(self, metadata: Mapping[str, str] | None = None) -> Steps[None]:
        """Has the server let go of all regions, except those of calls that it still works on."""
        deadline = Deadline.after(_CLOSE_TIMEOUT_S)
        # Right after an answer, the server may still count its region as in use.
        for _ in range(_CLOSE_ROUNDS):
            for region in list(self._registered.values()):
                if not (yield from self._unregister(region, deadline, metadata)):
                    return self.forget()
            if not self._registered:
                break
            yield Wait(_CLOSE_PAUSE_S)
        return self.forget()

    def _unregister(self, region: Region, deadline: Deadline, metadata: Mapping[str, str] | None) -> Steps[bool]:
        """Whether the server answered; one that still works on the region keeps it."""
        question = Question(
            "unregister_shared_memory",
            "SystemSharedMemoryUnregister",
            UNREGISTER_REGION(name=region.name),
            _nothing,
            retries=False,
        )
        try:
            yield from self._caller.ask(question, deadline, metadata)
        except EbbtideError as error:
            if error.status in (Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED):
                return False
            if region.name in self._registered:
                self._left.append(region)
        else:
            self._registered.pop(region.name, None)
        return True


def is_lost(error: EbbtideError) -> bool:
    """Whether the server does not know the region, because it restarted after the region was registered."""
    return triton_texts.REGION_UNKNOWN in error.message


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _nothing(_: Untyped, __: Any) -> None:  # noqa: ANN401
    return None
