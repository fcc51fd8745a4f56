"""Whether this process exports traces (OpenTelemetry). Off, none of it is imported, nor needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgesched.spans import Tracing

log = logging.getLogger(__name__)


@asynccontextmanager
async def opened(endpoint: str | None) -> AsyncIterator[Tracing | None]:
    """At the end, export what waits, within a bound.

    endpoint: where a collector takes OTLP over gRPC; None: tracing is off.
    Yields: None if it is off, or if the packages are not there: a warning then, for work comes before traces.
    """
    if endpoint is None:
        yield None
        return
    try:
        from edgesched.spans import Tracing
    except ImportError as error:
        advice = "pip install 'edgesched[otel]', or unset otlp_endpoint and OTEL_EXPORTER_OTLP_ENDPOINT"
        log.warning("tracing.unavailable", extra={"endpoint": endpoint, "cause": str(error), "advice": advice})
        yield None
        return
    tracing = Tracing.exporting(endpoint)
    log.info("tracing.on", extra={"endpoint": endpoint})
    try:
        yield tracing
    finally:
        await asyncio.to_thread(tracing.close)
