"""POST /tasks: pictures as the files of a form. One picture per upload is in memory at a time.

A picture is submitted when the next one begins, or the form ends: what follows it shows whether a field came too late.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, Field, ValidationError

from edgesched import rest
from edgesched.domain.task import Priority, Submission
from edgesched.errors import EdgeSchedError, InvalidInput, Overloaded, plain
from edgesched.ports import TaskDesk
from gateway.errors import BodyTooLarge, UploadStalled
from gateway.problems import describe, problem
from gateway.routes import LARGEST_NUMBER, asked_of, check_names, json_reply

MAX_UPLOADS = 16
MAX_FILES = 256
MAX_PARTS = MAX_FILES + 16
MAX_PICTURE_BYTES = 32 * 1024 * 1024
"""The task manager's own limit is lower and is the one that is told; this one bounds memory."""

MAX_FIELD_BYTES = 4 * 1024
READ_TIMEOUT_S = 15.0
"""For any piece of the body: a sender that stalled is hung up on."""


class UploadQuery(BaseModel):
    """The form's fields may also stand in the query; the form wins."""

    model: Annotated[str | None, Field(max_length=64, description="a model of GET /models")] = None
    receiver_url: Annotated[
        str | None, Field(max_length=2_000, description="POST the labels there; absent: read them here")
    ] = None
    client_id: Annotated[str, Field(min_length=1, max_length=128)] = "http"
    submission_key: Annotated[
        str | None,
        Field(min_length=1, max_length=100, description="the same key again is the same submission; absent: a new one"),
    ] = None
    remaining_ms: Annotated[
        int | None, Field(ge=1, le=LARGEST_NUMBER, description="without labels by then it expires; absent: never")
    ] = None
    priority: Annotated[
        Priority, Field(description="whose turn comes sooner while tasks wait; no priority starves another")
    ] = Priority.NORMAL


class UploadForm(UploadQuery):
    """Fields come before the files that they are about. Every part with a file name is a picture."""

    file: Annotated[list[bytes], Field(json_schema_extra={"items": {"type": "string", "format": "binary"}})] = []


@dataclass(slots=True)
class _Held:
    """A file that was read and is not submitted yet, with the fields that came before it."""

    file_name: str
    fields: dict[str, Any]
    key: str
    image: bytes = b""
    problem: EdgeSchedError | None = None


class Uploads:
    def __init__(self, tasks: TaskDesk, *, read_timeout_s: float = READ_TIMEOUT_S) -> None:
        self._tasks = tasks
        self._read_timeout_s = read_timeout_s
        self._under_way = 0

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """201 if every file has a task, 207 if some have; else the first problem, with all of them in `results`."""
        if self._under_way >= MAX_UPLOADS:
            raise Overloaded(f"{MAX_UPLOADS} uploads are under way; try again", retry_after_ms=1_000)
        self._under_way += 1
        try:
            return _reply(await self._read(request))
        finally:
            self._under_way -= 1

    async def _read(self, request: web.Request) -> Sequence[rest.SubmittedFile]:
        if request.content_type != "multipart/form-data":
            raise InvalidInput(f"send the pictures as multipart/form-data, got {request.content_type}")
        fields: dict[str, Any] = asked_of(request, UploadQuery).model_dump(exclude_none=True)
        key = uuid.uuid4().hex
        results: list[rest.SubmittedFile] = []
        held: _Held | None = None
        try:
            reader = await request.clone(client_max_size=LARGEST_NUMBER).multipart()
            for _ in range(MAX_PARTS):
                async with asyncio.timeout(self._read_timeout_s):
                    part = await reader.next()
                if part is None:
                    break
                if not isinstance(part, BodyPartReader):
                    raise InvalidInput("a form within a form is not understood")
                if part.filename is None:
                    fields[part.name or ""] = await self._text(part)
                    continue
                if held is not None:
                    results.append(await self._submit(held))
                if len(results) == MAX_FILES:
                    raise InvalidInput(f"at most {MAX_FILES} files in one request")
                held = await self._hold(part, fields, f"{fields.get('submission_key', key)}/{len(results)}")
            else:
                raise InvalidInput(f"at most {MAX_PARTS} parts in one request")
            if held is not None:
                late = sorted(name for name in fields if fields[name] != held.fields.get(name))
                if late:
                    names = ", ".join(f"{_printable(name)[:200]!r}" for name in late)
                    held.problem = InvalidInput(f"{names} came behind the last file: put fields before their files")
                results.append(await self._submit(held))
        except TimeoutError:
            raise UploadStalled(f"nothing came for {self._read_timeout_s:g} s; send it again") from None
        except (
            ValueError,
            AssertionError,
            EOFError,
            HttpProcessingError,
        ) as error:  # whatever aiohttp's reader trips over
            raise InvalidInput(f"the form cannot be read: {error}") from error
        if not results:
            raise InvalidInput("the form has no file; add one part with a file name per picture")
        return results

    async def _hold(self, part: BodyPartReader, fields: dict[str, Any], key: str) -> _Held:
        held = _Held(file_name=part.filename or "", fields=dict(fields), key=key)
        try:
            held.image = await self._bytes(part, MAX_PICTURE_BYTES)
        except UploadStalled:
            raise
        except EdgeSchedError as error:
            held.problem = error
        return held

    async def _submit(self, held: _Held) -> rest.SubmittedFile:
        shown_name = _printable(held.file_name)
        try:
            if held.problem is not None:
                raise held.problem
            known = _checked(held.fields)
            if known.model is None:
                raise InvalidInput("model is missing: put that field before the files, or ?model= into the address")
            task_id = await self._tasks.submit(
                Submission(
                    model=known.model,
                    file_name=_plain(held.file_name),
                    image=held.image,
                    client_id=known.client_id,
                    submission_key=held.key,
                    receiver_url=known.receiver_url or None,
                    remaining_ms=known.remaining_ms,
                    priority=known.priority,
                )
            )
        except EdgeSchedError as error:
            return rest.SubmittedFile(file_name=shown_name, problem=describe(error))
        return rest.SubmittedFile(file_name=shown_name, task_id=task_id)

    async def _text(self, part: BodyPartReader) -> str:
        try:
            return (await self._bytes(part, MAX_FIELD_BYTES)).decode()
        except UnicodeDecodeError:
            raise InvalidInput(f"the field {_printable(part.name or '')!r} is not UTF-8") from None

    async def _bytes(self, part: BodyPartReader, limit: int) -> bytes:
        """Raises: BodyTooLarge once the whole part was read, so that the next one can be."""
        pieces = bytearray()
        is_too_large = False
        while True:
            async with asyncio.timeout(self._read_timeout_s):
                piece = await part.read_chunk(256 * 1024)
            if not piece:
                break
            is_too_large = is_too_large or len(pieces) + len(piece) > limit
            if not is_too_large:
                pieces += piece
        if is_too_large:
            raise BodyTooLarge(f"this part has more than {limit} bytes; make it smaller")
        return bytes(pieces)


def _checked(fields: dict[str, Any]) -> UploadQuery:
    check_names(fields, UploadQuery)
    try:
        return UploadQuery.model_validate({name: value for name, value in fields.items() if value != ""})
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {plain(e['msg'])}" for e in error.errors(include_url=False)]
        raise InvalidInput("; ".join(problems)) from error


def _plain(file_name: str) -> str:
    """Browsers that send a folder name the files with their path; only the last part is the name."""
    with contextlib.suppress(UnicodeEncodeError):
        file_name.encode()
        return file_name.replace("\\", "/").rpartition("/")[2]
    raise InvalidInput("a file name is not UTF-8")


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _reply(results: Sequence[rest.SubmittedFile]) -> web.Response:
    problems = [result.problem for result in results if result.problem is not None]
    submitted = rest.Submitted(results=tuple(results))
    if len(problems) == len(results):
        first = problems[0]
        retries = [p.retry_after_ms for p in problems if p.retry_after_ms is not None]
        return problem(
            http.HTTPStatus(first.status),
            first.detail,
            retry_after_ms=max(retries, default=None),
            results=submitted.results,
        )
    return json_reply(rest.SUBMITTED.dump(submitted), status=207 if problems else 201)
