"""Errors of the domain -> gRPC status codes: one table, applied by one interceptor."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from edgesched.errors import (
    Conflict,
    DeadlineExceeded,
    EdgeSchedError,
    IllegalTransition,
    InvalidInput,
    NoFeasibleDevice,
    NotKnown,
    Overloaded,
    PeerUnavailable,
    StaleEpoch,
    StartupError,
    StorageFailed,
    TaskEnded,
    row_for,
)

log = logging.getLogger(__name__)

STATUS: Mapping[type[EdgeSchedError], grpc.StatusCode] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,  # never retry
    NotKnown: grpc.StatusCode.NOT_FOUND,
    Conflict: grpc.StatusCode.ALREADY_EXISTS,
    IllegalTransition: grpc.StatusCode.FAILED_PRECONDITION,
    StaleEpoch: grpc.StatusCode.FAILED_PRECONDITION,
    NoFeasibleDevice: grpc.StatusCode.UNAVAILABLE,  # the caller may retry
    PeerUnavailable: grpc.StatusCode.UNAVAILABLE,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,  # after retry-after-ms
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    TaskEnded: grpc.StatusCode.FAILED_PRECONDITION,  # sending it again makes a new task
    StorageFailed: grpc.StatusCode.UNAVAILABLE,  # this process ends; another one may take over
    StartupError: grpc.StatusCode.UNAVAILABLE,
}

RETRY_AFTER_METADATA = "retry-after-ms"

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Any  # grpc.RpcMethodHandler; its stubs do not know grpc.aio's four shapes


async def _abort(context: Context, error: EdgeSchedError) -> None:
    trailing: tuple[tuple[str, str], ...] = ()
    if isinstance(error, Overloaded):
        trailing = ((RETRY_AFTER_METADATA, str(error.retry_after_ms)),)
    await context.abort(row_for(STATUS, type(error)), str(error), trailing)


async def _crashed(context: Context, method: str) -> None:
    log.exception("rpc.crashed", extra={"method": method})
    await context.abort(grpc.StatusCode.INTERNAL, "internal error; the server's log has the details")


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler, of all four kinds. The only place that calls `abort`, and the only wide `except`."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or str(method).startswith("/grpc."):  # health and reflection have their own manners
            return handler
        wrap = _stream_out if handler.response_streaming else _unary_out
        slot = {
            (False, False): "unary_unary",
            (False, True): "unary_stream",
            (True, False): "stream_unary",
            (True, True): "stream_stream",
        }[handler.request_streaming, handler.response_streaming]
        make = getattr(grpc, f"{slot}_rpc_method_handler")
        return make(
            wrap(getattr(handler, slot), str(method)),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _unary_out(inner: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
    async def translated(request: Any, context: Context) -> Any:
        try:
            return await inner(request, context)
        except EdgeSchedError as error:
            await _abort(context, error)
        except Exception:  # noqa: BLE001 - the one wide except: a bug is logged whole, told to nobody
            await _crashed(context, method)

    return translated


def _stream_out(inner: Callable[..., AsyncIterator[Any]], method: str) -> Callable[..., AsyncIterator[Any]]:
    async def translated(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for reply in inner(request, context):
                yield reply
        except EdgeSchedError as error:
            await _abort(context, error)
        except Exception:  # noqa: BLE001 - as above
            await _crashed(context, method)

    return translated
