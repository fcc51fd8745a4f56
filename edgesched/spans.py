"""The only room that knows OpenTelemetry. Imported when traces are exported, and not before (see `tracing.py`)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_NAMESPACE, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from edgesched import __version__

CLOSE_S = 2.0
"""A collector that does not answer delays the end of a process by no more than this."""

MAX_TEXT = 500
"""Characters of an error message that travel with a span."""

Kind = Literal["internal", "client", "server", "producer", "consumer"]
Attributes = Mapping[str, str | int | float]

_W3C = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of this process, and those of others that only tell how long things took.

    Queue size, sampling, headers and so on are OpenTelemetry's own settings (`OTEL_...`). Exporting happens in a thread
    of the SDK; a full queue drops spans, and never delays whoever made them.
    """

    def __init__(self, processor: SpanProcessor) -> None:
        self._processor = processor
        self._tracers: dict[str, trace.Tracer] = {}

    @classmethod
    def exporting(cls, endpoint: str) -> Tracing:
        return cls(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))

    def close(self) -> None:
        """Export what waits. What no collector has taken within CLOSE_S is lost."""
        closing = threading.Thread(target=self._processor.shutdown, name="tracing.close", daemon=True)
        closing.start()
        closing.join(CLOSE_S)

    def begin(
        self,
        service: str,
        name: str,
        *,
        kind: Kind,
        traceparent: str | None = None,
        started_ns: int | None = None,
        attributes: Attributes | None = None,
    ) -> Span | None:
        """The first span of this process in a trace. None: the trace is not sampled, so nobody needs to follow it.

        traceparent: of whoever caused this; None, or not a usable one: a trace of its own.
        started_ns: wall clock; None: now.
        """
        context = _W3C.extract({"traceparent": traceparent}) if traceparent else Context()
        span = self._start(service, name, context, kind, started_ns, attributes)
        return Span(self, service, span) if span.get_span_context().trace_flags.sampled else None

    def _start(
        self,
        service: str,
        name: str,
        context: Context,
        kind: Kind,
        started_ns: int | None,
        attributes: Attributes | None,
    ) -> trace.Span:
        return self._tracer(service).start_span(
            name, context, trace.SpanKind[kind.upper()], attributes, start_time=started_ns
        )

    def _tracer(self, service: str) -> trace.Tracer:
        """A resource tells which service a span is of, and a provider has one resource."""
        if service not in self._tracers:
            resource = Resource.create({SERVICE_NAME: service, SERVICE_NAMESPACE: "edgesched"})
            provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            provider.add_span_processor(self._processor)
            self._tracers[service] = provider.get_tracer("edgesched", __version__)
        return self._tracers[service]


class Span:
    """One that has begun. Never ended, it is never exported."""

    __slots__ = ("_service", "_span", "_tracing")

    def __init__(self, tracing: Tracing, service: str, span: trace.Span) -> None:
        self._tracing = tracing
        self._service = service
        self._span = span

    @property
    def traceparent(self) -> str:
        """What another process continues the trace by."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, self._context)
        return carrier["traceparent"]

    @property
    def _context(self) -> Context:
        return trace.set_span_in_context(self._span, Context())

    def child(
        self,
        name: str,
        *,
        started_ns: int,
        service: str | None = None,
        kind: Kind = "internal",
        attributes: Attributes | None = None,
    ) -> Span:
        """service: whose span it is; None: the same as this one's."""
        service = service or self._service
        span = self._tracing._start(service, name, self._context, kind, started_ns, attributes)
        return Span(self._tracing, service, span)

    def end(
        self, ended_ns: int | None = None, *, error: str | None = None, attributes: Attributes | None = None
    ) -> None:
        """ended_ns: None: now. error: what went wrong, if something did."""
        if attributes:
            self._span.set_attributes(attributes)
        if error is not None:
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, error[:MAX_TEXT]))
        self._span.end(ended_ns)
