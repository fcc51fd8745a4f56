"""Traces kept in memory, and a collector of the test's own that takes them over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from edgesched.spans import Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One exported span. `parent_id` is None for the root."""

    name: str
    service: str
    trace_id: int
    span_id: int
    parent_id: int | None
    started_ns: int
    ended_ns: int
    error: str | None
    attributes: dict[str, Any]


class Kept:
    """What was exported in this process."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracing = Tracing(SimpleSpanProcessor(self._exporter))

    def spans(self) -> list[Told]:
        return [_told(span) for span in self._exporter.get_finished_spans()]


def _told(span: ReadableSpan) -> Told:
    assert span.context is not None
    assert span.start_time is not None
    assert span.end_time is not None
    return Told(
        name=span.name,
        service=str(span.resource.attributes["service.name"]),
        trace_id=span.context.trace_id,
        span_id=span.context.span_id,
        parent_id=span.parent.span_id if span.parent else None,
        started_ns=span.start_time,
        ended_ns=span.end_time,
        error=None if span.status.is_ok or span.status.is_unset else span.status.description or "",
        attributes=dict(span.attributes or {}),
    )


def tree(spans: Iterable[Told]) -> dict[str, str | None]:
    """Name -> its parent's name. For spans of one trace in which no name comes twice."""
    spans = list(spans)
    assert len({span.trace_id for span in spans}) == 1
    by_id = {span.span_id: span.name for span in spans}
    parents = {span.name: by_id[span.parent_id] if span.parent_id is not None else None for span in spans}
    assert len(parents) == len(spans), sorted(span.name for span in spans)
    return parents


class Collector(otlp_grpc.TraceServiceServicer):  # type: ignore[misc]  # its base has no types
    """Takes OTLP over gRPC, as Jaeger, Tempo and the OpenTelemetry Collector do."""

    def __init__(self) -> None:
        self.names: dict[bytes, set[tuple[str, str]]] = {}  # trace -> (service, span)
        self.endpoint = ""
        self._changed = asyncio.Event()

    async def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.names.setdefault(span.trace_id, set()).add((service, span.name))
        self._changed.set()
        return otlp.ExportTraceServiceResponse()

    async def until(self, holds: Callable[[], bool], within_s: float = 20.0) -> None:
        async with asyncio.timeout(within_s):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    server = grpc.aio.server()
    collector = Collector()
    otlp_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)
