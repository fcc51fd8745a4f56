"""What every resource of the API needs: the shape of a route, JSON answers, parameters from a query."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError

from edgesched.errors import InvalidInput, nearest, plain

LARGEST_NUMBER = 2**53
"""JSON numbers are exact up to here."""

LONGEST_SHOWN, MOST_SHOWN = 40, 8
"""Of parameters that nobody knows."""

JSON = "application/json"

Query = TypeVar("Query", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One row of the API. It is served under the versioned prefix and, as an alias, without.

    What follows `summary` is what the OpenAPI document says; it is made from nothing else.
    """

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    summary: str
    query: type[BaseModel] | None = None  # parameters; the handler reads them with `query_of`
    body: TypeAdapter[Any] | None = None  # JSON
    form: type[BaseModel] | None = None  # multipart/form-data
    reply: TypeAdapter[Any] | None = None  # JSON
    media: tuple[str, ...] = (JSON,)  # of the reply; without `reply` its content is described no further
    status: int = 200
    also: Mapping[int, str] = field(default_factory=dict)  # other statuses with the same reply -> when
    problems: Mapping[int, str] = field(default_factory=dict)  # status -> when


def json_reply(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type=JSON, charset="utf-8")


def query_of(request: web.Request, kind: type[Query]) -> Query:
    """The request's parameters; unknown ones are ignored. Raises: InvalidInput naming each one that is wrong."""
    try:
        query = kind.model_validate(dict(request.query))
        query.model_dump_json()  # text that no wire can carry: lone surrogates
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc']))}: {plain(item['msg'])}" for item in error.errors(include_url=False)
        ]
        raise InvalidInput("; ".join(problems)) from error
    except ValueError as error:
        raise InvalidInput(f"a parameter is not text: {error}") from error
    return query


def asked_of(request: web.Request, kind: type[Query]) -> Query:
    """The same for what people ask: an unknown parameter is refused as well. Raises: InvalidInput."""
    check_names(request.query, kind)
    return query_of(request, kind)


def check_names(query: Mapping[str, str], kind: type[BaseModel]) -> None:
    """A misspelt parameter would give the answer to another question. Raises: InvalidInput."""
    known = kind.model_fields
    unknown = [f"{name[:LONGEST_SHOWN]!r}{nearest(name, known)}" for name in query if name not in known]
    if unknown:
        raise InvalidInput(f"unknown parameters: {', '.join(unknown[:MOST_SHOWN])}; there are: {', '.join(known)}")


def whole_number(query: Mapping[str, str], name: str, *, lowest: int = 0, highest: int = LARGEST_NUMBER) -> int | None:
    """The parameter `name`, or None if it is not there.

    Raises: InvalidInput.
    """
    text = query.get(name)
    if text is None:
        return None
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST_NUMBER))
    if not is_number or not lowest <= int(text) <= highest:
        raise InvalidInput(f"{name} must be a whole number from {lowest} to {highest}, got {text[:40]!r}")
    return int(text)
