from edgesched.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InventoryRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InventoryPage(_message.Message):
    __slots__ = ("device_id", "entries")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    entries: _containers.RepeatedCompositeFieldContainer[OutboxEntry]
    def __init__(self, device_id: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[OutboxEntry, _Mapping]]] = ...) -> None: ...

class OutboxEntry(_message.Message):
    __slots__ = ("ledger_id", "task_id", "attempt_id", "labels_digest", "is_winner", "is_delivered")
    LEDGER_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    LABELS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    IS_WINNER_FIELD_NUMBER: _ClassVar[int]
    IS_DELIVERED_FIELD_NUMBER: _ClassVar[int]
    ledger_id: str
    task_id: str
    attempt_id: str
    labels_digest: str
    is_winner: bool
    is_delivered: bool
    def __init__(self, ledger_id: _Optional[str] = ..., task_id: _Optional[str] = ..., attempt_id: _Optional[str] = ..., labels_digest: _Optional[str] = ..., is_winner: bool = ..., is_delivered: bool = ...) -> None: ...

class TaskManagerItems(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[FromTaskManager]
    def __init__(self, items: _Optional[_Iterable[_Union[FromTaskManager, _Mapping]]] = ...) -> None: ...

class AgentItems(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[FromAgent]
    def __init__(self, items: _Optional[_Iterable[_Union[FromAgent, _Mapping]]] = ...) -> None: ...

class FromTaskManager(_message.Message):
    __slots__ = ("open", "dispatch", "chunk", "outcome_ack", "delivery_ack", "cancel", "probe")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    DISPATCH_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_ACK_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_ACK_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    open: Open
    dispatch: Dispatch
    chunk: Chunk
    outcome_ack: OutcomeAck
    delivery_ack: DeliveryAck
    cancel: Cancel
    probe: Probe
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., dispatch: _Optional[_Union[Dispatch, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., outcome_ack: _Optional[_Union[OutcomeAck, _Mapping]] = ..., delivery_ack: _Optional[_Union[DeliveryAck, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ...) -> None: ...

class FromAgent(_message.Message):
    __slots__ = ("hello", "accepted", "outcome", "delivery_report", "probe_reply")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_REPORT_FIELD_NUMBER: _ClassVar[int]
    PROBE_REPLY_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    accepted: Accepted
    outcome: Outcome
    delivery_report: DeliveryReport
    probe_reply: ProbeReply
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., delivery_report: _Optional[_Union[DeliveryReport, _Mapping]] = ..., probe_reply: _Optional[_Union[ProbeReply, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("ledger_id", "owner_id", "epoch", "stream_number", "device_id")
    LEDGER_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STREAM_NUMBER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    ledger_id: str
    owner_id: str
    epoch: int
    stream_number: int
    device_id: str
    def __init__(self, ledger_id: _Optional[str] = ..., owner_id: _Optional[str] = ..., epoch: _Optional[int] = ..., stream_number: _Optional[int] = ..., device_id: _Optional[str] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("device_id", "boot_id", "held", "outbox", "foreign_outbox_count", "highest_epoch")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    OUTBOX_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_OUTBOX_COUNT_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    boot_id: str
    held: _containers.RepeatedCompositeFieldContainer[HeldAttempt]
    outbox: _containers.RepeatedCompositeFieldContainer[HeldAttempt]
    foreign_outbox_count: int
    highest_epoch: int
    def __init__(self, device_id: _Optional[str] = ..., boot_id: _Optional[str] = ..., held: _Optional[_Iterable[_Union[HeldAttempt, _Mapping]]] = ..., outbox: _Optional[_Iterable[_Union[HeldAttempt, _Mapping]]] = ..., foreign_outbox_count: _Optional[int] = ..., highest_epoch: _Optional[int] = ...) -> None: ...

class HeldAttempt(_message.Message):
    __slots__ = ("attempt_id", "task_id")
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    attempt_id: str
    task_id: str
    def __init__(self, attempt_id: _Optional[str] = ..., task_id: _Optional[str] = ...) -> None: ...

class Dispatch(_message.Message):
    __slots__ = ("attempt_id", "task_id", "model", "file_name", "size_bytes", "receiver_url", "remaining_ms")
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_URL_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    attempt_id: str
    task_id: str
    model: str
    file_name: str
    size_bytes: int
    receiver_url: str
    remaining_ms: int
    def __init__(self, attempt_id: _Optional[str] = ..., task_id: _Optional[str] = ..., model: _Optional[str] = ..., file_name: _Optional[str] = ..., size_bytes: _Optional[int] = ..., receiver_url: _Optional[str] = ..., remaining_ms: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("attempt_id", "data")
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    attempt_id: str
    data: bytes
    def __init__(self, attempt_id: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("attempt_id",)
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    attempt_id: str
    def __init__(self, attempt_id: _Optional[str] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("attempt_id", "task_id", "result", "failure")
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    attempt_id: str
    task_id: str
    result: _types_pb2.Result
    failure: _types_pb2.Failure
    def __init__(self, attempt_id: _Optional[str] = ..., task_id: _Optional[str] = ..., result: _Optional[_Union[_types_pb2.Result, _Mapping]] = ..., failure: _Optional[_Union[_types_pb2.Failure, _Mapping]] = ...) -> None: ...

class OutcomeAck(_message.Message):
    __slots__ = ("attempt_id", "verdict")
    class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        VERDICT_UNSPECIFIED: _ClassVar[OutcomeAck.Verdict]
        VERDICT_DELIVER: _ClassVar[OutcomeAck.Verdict]
        VERDICT_DISCARD: _ClassVar[OutcomeAck.Verdict]
    VERDICT_UNSPECIFIED: OutcomeAck.Verdict
    VERDICT_DELIVER: OutcomeAck.Verdict
    VERDICT_DISCARD: OutcomeAck.Verdict
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    attempt_id: str
    verdict: OutcomeAck.Verdict
    def __init__(self, attempt_id: _Optional[str] = ..., verdict: _Optional[_Union[OutcomeAck.Verdict, str]] = ...) -> None: ...

class DeliveryReport(_message.Message):
    __slots__ = ("attempt_id", "task_id", "delivered", "error")
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    attempt_id: str
    task_id: str
    delivered: bool
    error: str
    def __init__(self, attempt_id: _Optional[str] = ..., task_id: _Optional[str] = ..., delivered: bool = ..., error: _Optional[str] = ...) -> None: ...

class DeliveryAck(_message.Message):
    __slots__ = ("attempt_id",)
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    attempt_id: str
    def __init__(self, attempt_id: _Optional[str] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("attempt_id",)
    ATTEMPT_ID_FIELD_NUMBER: _ClassVar[int]
    attempt_id: str
    def __init__(self, attempt_id: _Optional[str] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("number", "padding")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    number: int
    padding: bytes
    def __init__(self, number: _Optional[int] = ..., padding: _Optional[bytes] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...
