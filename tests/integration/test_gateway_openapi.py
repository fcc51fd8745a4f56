"""The API describes itself, and nothing that fits the description, or does not, makes it fail."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from yarl import URL

from edgesched.rest import API_PREFIX
from tests.integration.test_gateway_tasks import DONE, PICTURE, TASK
from tests.support.gateways import GatewayUnderTest, agent_port, gateway_under_test

EXAMPLES = 50
"""Per operation. Enough for every kind of value in every place; the whole test stays under twenty seconds."""

STREAMS = frozenset({f"{API_PREFIX}/events"})
PATIENCE = frozenset({"wait_ms"})
"""How long an answer may take; the fuzz has none."""


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway:
        gateway.tasks.details = {TASK.task_id: DONE}
        gateway.tasks.pictures = {TASK.task_id: PICTURE}
        yield gateway


async def spec(gateway: GatewayUnderTest) -> Mapping[str, Any]:
    answer = await gateway.call("GET", "/openapi.json")
    assert answer.status == 200
    document: Mapping[str, Any] = answer.body
    return document


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


async def test_the_document_names_every_route_and_every_reference_leads_somewhere(gateway: GatewayUnderTest) -> None:
    document = await spec(gateway)
    assert document["openapi"] == "3.1.0"
    listed = (await gateway.call("GET", "/")).body["routes"]
    described = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert described == {(route["method"], route["path"]) for route in listed}
    for reference in references(document):
        name = re.fullmatch(r"#/components/schemas/(.+)", reference)
        assert name is not None
        assert name[1] in document["components"]["schemas"]
    operation_ids = [o["operationId"] for operations in document["paths"].values() for o in operations.values()]
    assert len(operation_ids) == len(set(operation_ids))


async def test_the_document_knows_bodies_parameters_and_refusals(gateway: GatewayUnderTest) -> None:
    paths = (await spec(gateway))["paths"]
    listing = paths[f"{API_PREFIX}/tasks"]["get"]
    limit = next(p for p in listing["parameters"] if p["name"] == "limit")
    assert (limit["schema"]["minimum"], limit["schema"]["maximum"], limit["required"]) == (1, 1000, False)
    submitting = paths[f"{API_PREFIX}/tasks"]["post"]
    assert "multipart/form-data" in submitting["requestBody"]["content"]
    assert {"201", "207", "400", "429"} <= set(submitting["responses"])
    labels = paths[f"{API_PREFIX}/devices/{{device_id}}/labels"]["patch"]
    assert labels["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/LabelChanges")
    assert set(labels["responses"]["404"]["content"]) == {"application/problem+json"}


async def test_the_page_for_people_needs_nothing_from_elsewhere(gateway: GatewayUnderTest) -> None:
    async with gateway.session.get(f"{gateway.url}/docs") as response:
        page = await response.text()
        assert (response.status, response.content_type) == (200, "text/html")
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "/devices/{device_id}/drain" in page
    assert re.findall(r'(?:src|href)="(?!#|/)[^"]*"', page) == []
    assert "<script" not in page


# -- fuzz

SCHEMATHESIS = """
seed = 1
warnings = false

[checks]
enabled = false
not_a_server_error.enabled = true
status_code_conformance.enabled = true
response_schema_conformance.enabled = true

[[operations]]
include-path = "/api/v1/schedule"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", "503"]  # as its document says: no device can take it
"""
CASES = 5
"""Random ones per operation. Schemathesis makes some forty more of its bounds; both together take half a minute."""


@pytest.mark.slow
async def test_schemathesis_finds_no_answer_that_the_document_does_not_have(
    gateway: GatewayUnderTest, tmp_path: Path
) -> None:
    (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS)
    flags = ["--phases", "coverage,fuzzing", "--max-examples", str(CASES), "--no-shrink"]
    async with agent_port() as port:
        await gateway.register("rk-1", port)
        process = await asyncio.create_subprocess_exec(
            *(Path(sys.executable).with_name("schemathesis"), "run", f"{gateway.url}/openapi.json", *flags),
            *("--exclude-path", f"{API_PREFIX}/events", "--continue-on-failure"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            told = (await process.communicate())[0].decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, told
    generated = re.search(r"(\d+) generated", told)
    assert generated is not None, told
    assert int(generated[1]) > 1_000, told


NUMBERS = ["", " ", "0", "-1", "1e9", "9" * 40, "٣", "null", "true"]
WORDS = [".", "..", "x" * 300, "a/b", "%", "\x00", "\n", "' OR 1=1", "<script>", "图", "x"]
NASTY = st.sampled_from([*NUMBERS, *WORDS, TASK.task_id, "rk-1", "shapes"])
TEXT = NASTY | st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON_VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT, v, max_size=4), max_leaves=8
)


def fitting(schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that mostly fit the schema; now and then anything at all in their place."""
    return st.one_of(_fitting(schema, definitions, depth), _fitting(schema, definitions, depth), JSON_VALUES)


def _fitting(schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        return _fitting(definitions[schema["$ref"].rpartition("/")[2]], definitions, depth)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return st.one_of(*(_fitting(option, definitions, depth) for option in schema[key]))
    match schema.get("type"):
        case "object":
            known = schema.get("properties", {})
            fields = {name: fitting(inner, definitions, depth + 1) for name, inner in known.items()}
            needed = {name: fields.pop(name) for name in schema.get("required", ()) if name in fields}
            if not known and isinstance(inner := schema.get("additionalProperties"), dict):
                return st.dictionaries(TEXT, fitting(inner, definitions, depth + 1), max_size=3)
            return st.fixed_dictionaries(needed, optional=fields)
        case "array":
            return st.lists(fitting(schema.get("items", {}), definitions, depth + 1), max_size=0 if depth > 4 else 3)
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "number":
            return st.floats(allow_nan=False, allow_infinity=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "string":
            return TEXT
    return JSON_VALUES


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in document["paths"].items():
        if path not in STREAMS:
            for method, operation in methods.items():
                yield method.upper(), path, operation


def requests(path: str, operation: Mapping[str, Any], definitions: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    parameters = operation["parameters"]
    in_path = {p["name"]: TEXT.filter(bool) for p in parameters if p["in"] == "path"}
    queries = [p for p in parameters if p["in"] == "query" and p["name"] not in PATIENCE]
    in_query = {p["name"]: fitting(p["schema"], definitions).map(str) for p in queries}
    content = operation.get("requestBody", {}).get("content", {})
    body: st.SearchStrategy[bytes] = st.just(b"") | st.binary(max_size=50)
    media = next(iter(content), "application/json")
    if media == "application/json" and content:
        fitted = fitting(content[media]["schema"], definitions).map(lambda value: json.dumps(value).encode())
        body = st.one_of(fitted, fitted, fitted, body)
    elif content:
        form = definitions[content[media]["schema"]["$ref"].rpartition("/")[2]]
        media += "; boundary=b"
        part = st.builds(
            lambda name, file, value: (
                b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name.encode(), file, value)
            ),
            st.sampled_from(sorted(form["properties"])) | TEXT,
            st.sampled_from([b"", b'; filename="a.jpg"', b'; filename=""', b"; filename*=utf-8''%FF"]),
            st.just(PICTURE[:50]) | st.binary(max_size=20) | TEXT.map(str.encode),
        )
        body = st.lists(part, max_size=4).map(b"".join).flatmap(lambda b: st.sampled_from([b + b"--b--\r\n", b]))
    return st.tuples(st.fixed_dictionaries(in_path), st.fixed_dictionaries({}, optional=in_query), body, st.just(media))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::aiohttp.BadContentDispositionHeader")  # of nonsense that we send on purpose
@pytest.mark.filterwarnings("ignore::aiohttp.BadContentDispositionParam")
def test_no_request_makes_it_fail() -> None:
    """A schema-driven fuzz: only the answers that the document names come back, and never an internal error."""
    loop = asyncio.new_event_loop()
    running = gateway_under_test()
    board = agent_port()
    try:
        gateway = loop.run_until_complete(running.__aenter__())
        port = loop.run_until_complete(board.__aenter__())
        loop.run_until_complete(gateway.register("rk-1", port))
        gateway.tasks.details = {TASK.task_id: DONE}
        gateway.tasks.pictures = {TASK.task_id: PICTURE}
        document = loop.run_until_complete(spec(gateway))
        for method, path, operation in operations(document):
            _fuzz(loop, gateway, method, path, operation, document["components"]["schemas"])
        assert loop.run_until_complete(gateway.call("GET", "/health/live")).status == 200
    finally:
        loop.run_until_complete(board.__aexit__(None, None, None))
        loop.run_until_complete(running.__aexit__(None, None, None))
        loop.close()


def _fuzz(
    loop: asyncio.AbstractEventLoop,
    gateway: GatewayUnderTest,
    method: str,
    path: str,
    operation: Mapping[str, Any],
    definitions: Mapping[str, Any],
) -> None:
    async def send(in_path: dict[str, str], query: dict[str, str], body: bytes, media: str) -> None:
        address = gateway.url + path.format(**{name: quote(value, safe="") for name, value in in_path.items()})
        async with gateway.session.request(
            method, URL(address, encoded=True), params=query, data=body or None, headers={"Content-Type": media}
        ) as response:
            answer = await response.read()
        told = (method, path, in_path, query, body, response.status, answer[:300])
        assert response.status < 500 or (response.status == 503 and path.endswith("/schedule")), told
        if "." not in in_path.values() and ".." not in in_path.values():  # those are other addresses
            assert str(response.status) in operation["responses"] or response.status in (404, 405), told

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )
    @given(requests(path, operation, definitions))
    def fuzz(request: tuple[dict[str, str], dict[str, str], bytes, str]) -> None:
        loop.run_until_complete(send(*request))

    fuzz()
