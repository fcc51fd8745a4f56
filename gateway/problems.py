"""Errors become HTTP here and nowhere else: one table, one middleware, problem details (RFC 9457) as the body."""

from __future__ import annotations

import http
import logging
import math
from collections.abc import Mapping, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

from edgesched import rest
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
from gateway.errors import BodyTooLarge, UploadStalled
from gateway.registry import AgentUnreachable

log = logging.getLogger(__name__)

STATUS: Mapping[type[EdgeSchedError], http.HTTPStatus] = {
    InvalidInput: http.HTTPStatus.BAD_REQUEST,  # never retry
    AgentUnreachable: http.HTTPStatus.UNPROCESSABLE_ENTITY,  # retry when the network was mended
    UploadStalled: http.HTTPStatus.REQUEST_TIMEOUT,
    BodyTooLarge: http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    NotKnown: http.HTTPStatus.NOT_FOUND,
    Conflict: http.HTTPStatus.CONFLICT,
    IllegalTransition: http.HTTPStatus.CONFLICT,
    StaleEpoch: http.HTTPStatus.CONFLICT,
    NoFeasibleDevice: http.HTTPStatus.SERVICE_UNAVAILABLE,  # the caller may retry
    PeerUnavailable: http.HTTPStatus.SERVICE_UNAVAILABLE,
    Overloaded: http.HTTPStatus.TOO_MANY_REQUESTS,
    DeadlineExceeded: http.HTTPStatus.GATEWAY_TIMEOUT,
    TaskEnded: http.HTTPStatus.CONFLICT,
    StorageFailed: http.HTTPStatus.INTERNAL_SERVER_ERROR,
    StartupError: http.HTTPStatus.INTERNAL_SERVER_ERROR,
}

INTERNAL = http.HTTPStatus.INTERNAL_SERVER_ERROR


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Wraps every route: whatever a handler raises leaves as problem JSON with the right status."""
    try:
        return await handler(request)
    except EdgeSchedError as error:
        return _response(describe(error))
    except web.HTTPException as refused:  # aiohttp's own: no such route, wrong method, body too large
        if refused.status < 400:
            raise
        return _of_aiohttp(request, refused)
    except (ConnectionError, web.RequestPayloadError) as error:
        return problem(http.HTTPStatus.BAD_REQUEST, f"the body could not be read to its end: {error}")
    except Exception:  # the one wide except: a bug is logged whole, told to nobody
        log.exception("request.crashed", extra={"method": request.method, "path": request.path})
        return problem(INTERNAL, "internal error; the gateway's log has the details")


def describe(error: EdgeSchedError) -> rest.Problem:
    """An expected error as the body of an answer."""
    status = row_for(STATUS, type(error))
    retry_after_ms = error.retry_after_ms if isinstance(error, Overloaded) else None
    return rest.Problem(title=status.phrase, status=status, detail=str(error), retry_after_ms=retry_after_ms)


def problem(
    status: http.HTTPStatus,
    detail: str,
    *,
    retry_after_ms: int | None = None,
    results: Sequence[rest.SubmittedFile] | None = None,
) -> web.Response:
    """results: of a form of which no file was accepted."""
    return _response(
        rest.Problem(
            title=status.phrase,
            status=status,
            detail=detail,
            retry_after_ms=retry_after_ms,
            results=None if results is None else tuple(results),
        )
    )


def _response(body: rest.Problem) -> web.Response:
    response = web.Response(
        status=body.status, reason=body.title, body=rest.PROBLEM.dump(body), content_type="application/problem+json"
    )
    if body.retry_after_ms is not None:
        response.headers["Retry-After"] = str(math.ceil(body.retry_after_ms / 1000))
    return response


def _of_aiohttp(request: web.Request, refused: web.HTTPException) -> web.Response:
    match refused:
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(refused.allowed_methods))
            response = problem(http.HTTPStatus.METHOD_NOT_ALLOWED, f"{request.path} takes {allowed}")
            response.headers["Allow"] = allowed
            return response
        case web.HTTPNotFound():
            return problem(http.HTTPStatus.NOT_FOUND, f"there is nothing at {request.path}; GET / lists what there is")
        case web.HTTPRequestEntityTooLarge():
            return problem(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is too large: {refused.text}")
        case _:
            return problem(http.HTTPStatus(refused.status), refused.text or refused.reason)
