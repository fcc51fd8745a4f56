from edgesched.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_LOW: _ClassVar[Priority]
    PRIORITY_NORMAL: _ClassVar[Priority]
    PRIORITY_HIGH: _ClassVar[Priority]

class TaskState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_STATE_UNSPECIFIED: _ClassVar[TaskState]
    TASK_STATE_QUEUED: _ClassVar[TaskState]
    TASK_STATE_DISPATCHED: _ClassVar[TaskState]
    TASK_STATE_RUNNING: _ClassVar[TaskState]
    TASK_STATE_DONE: _ClassVar[TaskState]
    TASK_STATE_DELIVERED: _ClassVar[TaskState]
    TASK_STATE_FAILED: _ClassVar[TaskState]
    TASK_STATE_EXPIRED: _ClassVar[TaskState]
    TASK_STATE_CANCELLED: _ClassVar[TaskState]
PRIORITY_UNSPECIFIED: Priority
PRIORITY_LOW: Priority
PRIORITY_NORMAL: Priority
PRIORITY_HIGH: Priority
TASK_STATE_UNSPECIFIED: TaskState
TASK_STATE_QUEUED: TaskState
TASK_STATE_DISPATCHED: TaskState
TASK_STATE_RUNNING: TaskState
TASK_STATE_DONE: TaskState
TASK_STATE_DELIVERED: TaskState
TASK_STATE_FAILED: TaskState
TASK_STATE_EXPIRED: TaskState
TASK_STATE_CANCELLED: TaskState

class SubmitRequest(_message.Message):
    __slots__ = ("model", "file_name", "image", "client_id", "submission_key", "receiver_url", "remaining_ms", "tag", "traceparent", "priority")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBMISSION_KEY_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_URL_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model: str
    file_name: str
    image: bytes
    client_id: str
    submission_key: str
    receiver_url: str
    remaining_ms: int
    tag: int
    traceparent: str
    priority: Priority
    def __init__(self, model: _Optional[str] = ..., file_name: _Optional[str] = ..., image: _Optional[bytes] = ..., client_id: _Optional[str] = ..., submission_key: _Optional[str] = ..., receiver_url: _Optional[str] = ..., remaining_ms: _Optional[int] = ..., tag: _Optional[int] = ..., traceparent: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class SubmitRequests(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[SubmitRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[SubmitRequest, _Mapping]]] = ...) -> None: ...

class SubmitReplies(_message.Message):
    __slots__ = ("replies",)
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[SubmitReply]
    def __init__(self, replies: _Optional[_Iterable[_Union[SubmitReply, _Mapping]]] = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ("tag", "task_id", "refusal")
    TAG_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    tag: int
    task_id: str
    refusal: Refusal
    def __init__(self, tag: _Optional[int] = ..., task_id: _Optional[str] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("status_code", "message", "retry_after_ms")
    STATUS_CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    status_code: int
    message: str
    retry_after_ms: int
    def __init__(self, status_code: _Optional[int] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class InferReply(_message.Message):
    __slots__ = ("task_id", "attempt_id", "device_id", "result")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    attempt_id: str
    device_id: str
    result: _types_pb2.Result
    def __init__(self, task_id: _Optional[str] = ..., attempt_id: _Optional[str] = ..., device_id: _Optional[str] = ..., result: _Optional[_Union[_types_pb2.Result, _Mapping]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("task_id", "seq", "revision", "state", "client_id", "model", "file_name", "size_bytes", "receiver_url", "created_at_ms", "updated_at_ms", "expires_at_ms", "attempt_id", "device_id", "failed_attempts", "last_error", "has_image", "priority")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_URL_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    FAILED_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    HAS_IMAGE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    seq: int
    revision: int
    state: TaskState
    client_id: str
    model: str
    file_name: str
    size_bytes: int
    receiver_url: str
    created_at_ms: int
    updated_at_ms: int
    expires_at_ms: int
    attempt_id: str
    device_id: str
    failed_attempts: int
    last_error: str
    has_image: bool
    priority: Priority
    def __init__(self, task_id: _Optional[str] = ..., seq: _Optional[int] = ..., revision: _Optional[int] = ..., state: _Optional[_Union[TaskState, str]] = ..., client_id: _Optional[str] = ..., model: _Optional[str] = ..., file_name: _Optional[str] = ..., size_bytes: _Optional[int] = ..., receiver_url: _Optional[str] = ..., created_at_ms: _Optional[int] = ..., updated_at_ms: _Optional[int] = ..., expires_at_ms: _Optional[int] = ..., attempt_id: _Optional[str] = ..., device_id: _Optional[str] = ..., failed_attempts: _Optional[int] = ..., last_error: _Optional[str] = ..., has_image: bool = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("attempt_id", "device_id", "reason", "started_at_ms", "ended_at_ms", "failure", "timings")
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    attempt_id: str
    device_id: str
    reason: str
    started_at_ms: int
    ended_at_ms: int
    failure: _types_pb2.Failure
    timings: _types_pb2.Timings
    def __init__(self, attempt_id: _Optional[str] = ..., device_id: _Optional[str] = ..., reason: _Optional[str] = ..., started_at_ms: _Optional[int] = ..., ended_at_ms: _Optional[int] = ..., failure: _Optional[_Union[_types_pb2.Failure, _Mapping]] = ..., timings: _Optional[_Union[_types_pb2.Timings, _Mapping]] = ...) -> None: ...

class GetTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class GetTaskReply(_message.Message):
    __slots__ = ("task", "attempts", "result", "waits_for")
    TASK_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    task: Task
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    result: _types_pb2.Result
    waits_for: str
    def __init__(self, task: _Optional[_Union[Task, _Mapping]] = ..., attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., result: _Optional[_Union[_types_pb2.Result, _Mapping]] = ..., waits_for: _Optional[str] = ...) -> None: ...

class ListTasksRequest(_message.Message):
    __slots__ = ("state", "model", "client_id", "page_size", "cursor", "device_id", "priority")
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    state: TaskState
    model: str
    client_id: str
    page_size: int
    cursor: int
    device_id: str
    priority: Priority
    def __init__(self, state: _Optional[_Union[TaskState, str]] = ..., model: _Optional[str] = ..., client_id: _Optional[str] = ..., page_size: _Optional[int] = ..., cursor: _Optional[int] = ..., device_id: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class ListTasksReply(_message.Message):
    __slots__ = ("tasks", "next_cursor")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_CURSOR_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    next_cursor: int
    def __init__(self, tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., next_cursor: _Optional[int] = ...) -> None: ...

class CountTasksRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CountTasksReply(_message.Message):
    __slots__ = ("counts",)
    class Count(_message.Message):
        __slots__ = ("state", "tasks")
        STATE_FIELD_NUMBER: _ClassVar[int]
        TASKS_FIELD_NUMBER: _ClassVar[int]
        state: TaskState
        tasks: int
        def __init__(self, state: _Optional[_Union[TaskState, str]] = ..., tasks: _Optional[int] = ...) -> None: ...
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedCompositeFieldContainer[CountTasksReply.Count]
    def __init__(self, counts: _Optional[_Iterable[_Union[CountTasksReply.Count, _Mapping]]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("task_ids", "cursor")
    TASK_IDS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    task_ids: _containers.RepeatedScalarFieldContainer[str]
    cursor: int
    def __init__(self, task_ids: _Optional[_Iterable[str]] = ..., cursor: _Optional[int] = ...) -> None: ...

class WatchEvents(_message.Message):
    __slots__ = ("tasks",)
    TASKS_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    def __init__(self, tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ...) -> None: ...

class GetPictureRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class PictureChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class CancelTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatsReply(_message.Message):
    __slots__ = ("counts", "queued", "open_bytes", "undelivered", "oldest_undelivered_ms", "commits", "commit_ms", "ended", "delivery")
    class Line(_message.Message):
        __slots__ = ("model", "tasks", "priority")
        MODEL_FIELD_NUMBER: _ClassVar[int]
        TASKS_FIELD_NUMBER: _ClassVar[int]
        PRIORITY_FIELD_NUMBER: _ClassVar[int]
        model: str
        tasks: int
        priority: Priority
        def __init__(self, model: _Optional[str] = ..., tasks: _Optional[int] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...
    class Ended(_message.Message):
        __slots__ = ("state", "model", "device_id", "tasks")
        STATE_FIELD_NUMBER: _ClassVar[int]
        MODEL_FIELD_NUMBER: _ClassVar[int]
        DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
        TASKS_FIELD_NUMBER: _ClassVar[int]
        state: TaskState
        model: str
        device_id: str
        tasks: int
        def __init__(self, state: _Optional[_Union[TaskState, str]] = ..., model: _Optional[str] = ..., device_id: _Optional[str] = ..., tasks: _Optional[int] = ...) -> None: ...
    class Durations(_message.Message):
        __slots__ = ("model", "counts", "sum_ms")
        MODEL_FIELD_NUMBER: _ClassVar[int]
        COUNTS_FIELD_NUMBER: _ClassVar[int]
        SUM_MS_FIELD_NUMBER: _ClassVar[int]
        model: str
        counts: _containers.RepeatedScalarFieldContainer[int]
        sum_ms: float
        def __init__(self, model: _Optional[str] = ..., counts: _Optional[_Iterable[int]] = ..., sum_ms: _Optional[float] = ...) -> None: ...
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    OPEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNDELIVERED_FIELD_NUMBER: _ClassVar[int]
    OLDEST_UNDELIVERED_MS_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedCompositeFieldContainer[CountTasksReply.Count]
    queued: _containers.RepeatedCompositeFieldContainer[GetStatsReply.Line]
    open_bytes: int
    undelivered: int
    oldest_undelivered_ms: float
    commits: int
    commit_ms: float
    ended: _containers.RepeatedCompositeFieldContainer[GetStatsReply.Ended]
    delivery: _containers.RepeatedCompositeFieldContainer[GetStatsReply.Durations]
    def __init__(self, counts: _Optional[_Iterable[_Union[CountTasksReply.Count, _Mapping]]] = ..., queued: _Optional[_Iterable[_Union[GetStatsReply.Line, _Mapping]]] = ..., open_bytes: _Optional[int] = ..., undelivered: _Optional[int] = ..., oldest_undelivered_ms: _Optional[float] = ..., commits: _Optional[int] = ..., commit_ms: _Optional[float] = ..., ended: _Optional[_Iterable[_Union[GetStatsReply.Ended, _Mapping]]] = ..., delivery: _Optional[_Iterable[_Union[GetStatsReply.Durations, _Mapping]]] = ...) -> None: ...

class RetryTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class AbandonDeliveryRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsReply(_message.Message):
    __slots__ = ("models",)
    class Model(_message.Message):
        __slots__ = ("name", "version", "description", "labels")
        NAME_FIELD_NUMBER: _ClassVar[int]
        VERSION_FIELD_NUMBER: _ClassVar[int]
        DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
        LABELS_FIELD_NUMBER: _ClassVar[int]
        name: str
        version: str
        description: str
        labels: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., description: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ListModelsReply.Model]
    def __init__(self, models: _Optional[_Iterable[_Union[ListModelsReply.Model, _Mapping]]] = ...) -> None: ...
