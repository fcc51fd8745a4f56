"""The OpenAPI 3.1 document, made from the route table and the types of bodies and parameters alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from edgesched import __version__, rest
from gateway.routes import JSON, Route

PROBLEM = "application/problem+json"
REFERENCES = "#/components/schemas/{model}"

Json = dict[str, Any]
Wanted = tuple[str, JsonSchemaMode, TypeAdapter[Any]]

ALWAYS = {
    500: "a bug; the gateway's log has it",
    503: "the task manager does not answer, or no device can do it now",
}


def document(routes: Sequence[Route]) -> Json:
    wanted = [item for route in routes for item in _types(route)]
    wanted.append(("problem", "serialization", rest.PROBLEM.adapter))
    references, definitions = TypeAdapter.json_schemas(
        wanted, ref_template=REFERENCES, schema_generator=GenerateJsonSchema
    )
    schemas = {(key, mode): schema for (key, mode), schema in references.items()}
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(rest.API_PREFIX + route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgesched gateway",
            "version": __version__,
            "description": "Every path is also below /api and without a prefix. Errors are problem details (RFC 9457).",
        },
        "paths": paths,
        "components": {"schemas": definitions.get("$defs", {})},
    }


def _types(route: Route) -> Iterator[Wanted]:
    if route.body is not None:
        yield _key(route, "body"), "validation", route.body
    if route.form is not None:
        yield _key(route, "form"), "validation", TypeAdapter(route.form)
    if route.query is not None:
        yield _key(route, "query"), "validation", TypeAdapter(route.query)
    if route.reply is not None:
        yield _key(route, "reply"), "serialization", route.reply


def _operation(route: Route, schemas: Mapping[tuple[str, JsonSchemaMode], Any]) -> Json:
    operation: Json = {
        "operationId": _key(route, ""),
        "summary": route.summary,
        "tags": [route.path.split("/")[1]],
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": _responses(route, schemas),
    }
    if route.body is not None:
        schema = schemas[_key(route, "body"), "validation"]
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    if route.form is not None:
        schema = schemas[_key(route, "form"), "validation"]
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return operation


def _path_parameters(route: Route) -> Iterator[Json]:
    for name in re.findall(r"\{(\w+)\}", route.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameters(route: Route) -> Iterator[Json]:
    if route.query is None:
        return
    schema = TypeAdapter(route.query).json_schema(ref_template=REFERENCES)
    inline = schema.get("$defs", {})
    for name, described in schema.get("properties", {}).items():
        described = dict(_inlined(described, inline))
        text = described.pop("description", None)
        parameter: Json = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        yield parameter | ({"description": text} if text else {}) | {"schema": described}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Small enumerations are shown where they are used."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name in definitions:
        return definitions[name]
    return {key: _inlined(value, definitions) for key, value in schema.items() if key != "title"}


def _responses(route: Route, schemas: Mapping[tuple[str, JsonSchemaMode], Any]) -> Json:
    good: Json = {"description": route.summary}
    if route.status != 204:
        content: Json = {}
        for media in route.media:
            is_described = route.reply is not None and media == JSON
            schema = schemas[_key(route, "reply"), "serialization"] if is_described else {"type": "string"}
            content[media] = {"schema": schema}
        good["content"] = content
    responses: Json = {str(route.status): good}
    responses |= {str(status): good | {"description": when} for status, when in route.also.items()}
    refusals = {400: "the request is not usable; the detail names what is wrong", **route.problems, **ALWAYS}
    problem = {"content": {PROBLEM: {"schema": schemas["problem", "serialization"]}}}
    responses |= {str(status): {"description": when} | problem for status, when in sorted(refusals.items())}
    return responses


def _key(route: Route, part: str) -> str:
    """`get_tasks_task_id_labels`, and what of it."""
    name = re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_")
    return f"{name}_{part}" if part else name
