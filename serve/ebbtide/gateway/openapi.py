"""The OpenAPI document of the HTTP side: types from the schema's descriptors, words from its comments."""

from __future__ import annotations

from typing import Any

import msgspec
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from ebbtide.gateway.http import HTTP_STATUS, SERVICE, TIMEOUT_HEADER, path_of
from ebbtide.gateway.json_messages import json_message

_MESSAGES, _SERVICES, _FIELDS, _METHODS = 4, 6, 2, 2
"""Field numbers by which `SourceCodeInfo` names what a comment is about (descriptor.proto)."""
_REFERENCE = "#/components/schemas/{name}"


def openapi(source: FileDescriptorProto, version: str) -> dict[str, Any]:
    """The document as JSON values.

    Args:
        source: The schema's file with its source info, which has the comments.
        version: Of the API.
    """
    words = _comments(source)
    methods = [method for method in SERVICE.methods if not method.client_streaming]
    types = [json_message(each).type for method in methods for each in (method.input_type, method.output_type)]
    _, schemas = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    for message in source.message_type:
        if message.name in schemas:
            schemas[message.name]["description"] = words.get(message.name, "")
            for name, shape in schemas[message.name].get("properties", {}).items():
                shape["description"] = words.get(f"{message.name}.{name}", "")
    schemas["Problem"] = _problem()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ebbtide",
            "version": version,
            "summary": words[SERVICE.name],
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {path_of(method.name): {"post": _operation(method, words)} for method in methods} | _others(),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(method: MethodDescriptor, words: dict[str, str]) -> dict[str, Any]:
    def content(kind: str, name: str) -> dict[str, Any]:
        return {"content": {kind: {"schema": {"$ref": _REFERENCE.format(name=name)}}}}

    failures = {
        str(status): {"description": "A problem.", **content("application/problem+json", "Problem")}
        for status in sorted({*HTTP_STATUS.values(), 413, 415, 500} - {404, 409, 499})
    }
    return {
        "operationId": method.name[0].lower() + method.name[1:],
        "summary": words[f"{SERVICE.name}.{method.name}"],
        "parameters": [
            {
                "name": TIMEOUT_HEADER,
                "in": "header",
                "description": "Deadline of the call in milliseconds. Absent: the gateway's.",
                "schema": {"type": "number", "exclusiveMinimum": 0},
            }
        ],
        "requestBody": {"required": True, **content("application/json", method.input_type.name)},
        "responses": {
            "200": {"description": "The answer.", **content("application/json", method.output_type.name)},
            **failures,
        },
    }


def _others() -> dict[str, Any]:
    def get(summary: str, kind: str, *statuses: str) -> dict[str, Any]:
        shape = {"type": "string"} if kind == "text/plain" else {"type": "object"}
        answers = {status: {"description": summary, "content": {kind: {"schema": shape}}} for status in statuses}
        return {"get": {"summary": summary, "security": [{}], "responses": answers}}

    return {
        "/health/ready": get("Whether Triton is ready: 200 or 503.", "application/json", "200", "503"),
        "/health/live": get("Whether the gateway runs.", "application/json", "200"),
        "/metrics": get("Prometheus metrics of the gateway.", "text/plain", "200"),
        "/openapi.json": get("This document.", "application/json", "200"),
    }


def _problem() -> dict[str, Any]:
    text = {"type": "string"}
    nullable = {"type": ["string", "null"]}
    return {
        "description": "A failed call, as RFC 9457 has it.",
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {**text, "description": "A URI that names the kind of problem."},
            "title": text,
            "status": {"type": "integer"},
            "detail": {**text, "description": "What happened and what to do about it."},
            "reason": {**text, "description": "Name of the error for programs, such as MODEL_NOT_READY."},
            "field": {**text, "description": "Path of the wrong field, such as history[3].item_id."},
            "value": {**nullable, "description": "Value of that field."},
            "expected": {**nullable, "description": "Which values are valid there."},
        },
    }


def _comments(source: FileDescriptorProto) -> dict[str, str]:
    """Comments by message, ``Message.field``, service and ``Service.method``, each on one line."""
    found = {}
    for location in source.source_code_info.location:
        match list(location.path):
            case [kind, index] if kind == _MESSAGES:
                name = source.message_type[index].name
            case [kind, index, part, member] if (kind, part) == (_MESSAGES, _FIELDS):
                message = source.message_type[index]
                name = f"{message.name}.{message.field[member].name}"
            case [kind, index] if kind == _SERVICES:
                name = source.service[index].name
            case [kind, index, part, member] if (kind, part) == (_SERVICES, _METHODS):
                service = source.service[index]
                name = f"{service.name}.{service.method[member].name}"
            case _:
                continue
        found[name] = " ".join(location.leading_comments.split())
    return found
