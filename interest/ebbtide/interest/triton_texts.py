"""The texts of Triton that Ebbtide reads, and no others: where a status code covers several errors, only they differ.

All were seen with the versions of `SEEN_WITH`. The tests provoke each on the embedded server and read it back, so a
newer Triton that words one differently fails them; change the text here, and only here.
"""

from __future__ import annotations

import re

SEEN_WITH = ("2.51.0",)
"""Versions of Triton whose messages and log these texts were read from."""

UNKNOWN_MODEL = "unknown model"
"""In the message of a call: no such model or version. NOT_FOUND; UNAVAILABLE for a version that loads or unloads."""
QUEUE_FULL = "Exceeds maximum queue size"
"""In the message of an inference, UNAVAILABLE: ``max_queue_size`` requests wait for the model."""
QUEUE_TIMEOUT = "Request timeout expired"
"""In the message of an inference, UNAVAILABLE: it waited for longer than the queue policy of the model allows."""
PROTOCOL_RESTRICTED = "protocol is restricted"
"""In the message of a call, UNAVAILABLE: ``--grpc-restricted-protocol`` asks for a header."""
PROCESS_DEAD = "is not healthy"
"""In the message of an inference, INTERNAL: the process of a Python model has died. Triton starts no new one."""
REGION_UNKNOWN = "Unable to find shared memory region"
"""In the message of an inference, NOT_FOUND: the region was never registered, or the server has restarted since."""
MODEL_CONTROL_OFF = "explicit model load / unload is not allowed"
"""In the message of a load or unload, UNAVAILABLE: the server runs with another ``--model-control-mode``."""
NOT_CONNECTED = "connect"
"""In gRPC's own message, UNAVAILABLE: no server was reached."""

UNLOADED = "unloaded"
"""The reason in the repository index of a model that was unloaded, not refused."""

LOG_LOADED = re.compile(r"successfully loaded '([^']+)'")
"""A line of the log; the group is the model."""
LOG_LOAD_FAILED = re.compile(
    r"failed to load '([^']+)' version|failed to load model '([^']+)'|ensemble '([^']+)' depends on"
)
"""A line of the log; one of the groups is the model."""
LOG_PORT_TAKEN = re.compile(r"(?i)already in use|address in use|failed to start (grpc|http|metrics) service")
"""A line of the log: another process listens at the port."""
LOG_ERROR = re.compile(r'E\d{4} [^"]*\] "(.*)"$')
"""A line of the log of level error; the group is the message, with backslashes before quotes and line ends."""
LOG_CONFIG_NOT_PARSED = re.compile(r"Error parsing text-format inference\.ModelConfig: (.*)$")
"""A line of the log: the parser's message, on the line before the one that has `CONFIG_NOT_READ`."""
CONFIG_NOT_READ = "failed to read text proto"
"""In the message that names the model whose ``config.pbtxt`` could not be parsed."""
LOG_TABLE = re.compile(r"\s*$|[+|]|[IWE]\d{4} [^\"]*\] $")
"""A line of the log that belongs to a table, or is empty."""
LOG_USAGE = "Usage: tritonserver"
"""Begins what the server prints after an unknown option."""

NESTED_REFUSAL = re.compile(r"(which has no loaded version)\. Model '.*", re.DOTALL)
"""In the refusal of an ensemble: after the group, the refusal of the model that it depends on is repeated."""
PYTHON_STACK = re.compile(r"\n+At:\n.*", re.DOTALL)
"""In the refusal of a Python model: the stack, after the message."""
PYTHON_EXCEPTION = "TritonModelException: "
"""In the refusal of a Python model: stands before its own message."""
