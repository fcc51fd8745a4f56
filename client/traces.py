"""The client's part of a picture's trace: from when its turn came until the task manager had it, or refused it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.pictures import Picture
    from client.submitter import Acknowledged
    from edgesched.spans import Span, Tracing

SERVICE = "edgesched-client"


def begin(tracing: Tracing, model: str, picture: Picture) -> Span | None:
    """None: it is not sampled."""
    name = picture.file_name.encode(errors="replace").decode()  # it may be no UTF-8, which no exporter could write
    attributes = {"edgesched.model": model, "edgesched.picture.name": name}
    return tracing.begin(SERVICE, "submit", kind="producer", attributes=attributes)


def acknowledged(span: Span, answer: Acknowledged) -> None:
    span.end(attributes={"edgesched.task.id": answer.task_id, "edgesched.picture.bytes": answer.size_bytes})
