"""OpenAPI 3.1, made from the table of operations and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import cleandoc
from typing import Any

import msgspec

from doorstep.core.operation import Operation

_REF = "#/components/schemas/{name}"


def openapi(operations: Iterable[Operation], version: str) -> dict[str, Any]:
    """The document for `GET /api/v1/openapi.json`."""
    table = list(operations)
    types = [kind for one in table for kind in (one.input, one.output)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    for schema in components.values():
        if "description" in schema:  # msgspec before 0.23 leaves the indentation in
            schema["description"] = cleandoc(schema["description"])
    paths: dict[str, Any] = {}
    for index, one in enumerate(table):
        asked, answered = schemas[2 * index], schemas[2 * index + 1]
        paths[f"/api/v1{path_of(one)}"] = {"post": _entry(one, asked, answered)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Doorstep control plane", "version": version},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())) | {"Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def path_of(one: Operation) -> str:
    """`release.start` -> `/release/start`."""
    return "/" + one.name.replace(".", "/")


def _entry(one: Operation, asked: Any, answered: Any) -> dict[str, Any]:
    return {
        "operationId": one.name,
        "summary": one.summary,
        "tags": [one.name.partition(".")[0]],
        "x-permission": one.permission,
        "x-effect": one.effect,
        "x-stability": one.stability,
        "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
        "responses": {
            "200": {
                "description": "The answer.",
                "content": {"application/json": {"schema": answered}},
            },
            "default": {
                "description": "A refusal: the fact, and the next command.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["kind", "code", "message", "hint"],
            "properties": {
                name: {"type": "string"} for name in ("kind", "code", "message", "hint")
            },
        }
    },
}
