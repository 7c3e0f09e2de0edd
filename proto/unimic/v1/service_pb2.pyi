from unimic.v1 import packet_pb2 as _packet_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_KIND_UNSPECIFIED: _ClassVar[TaskKind]
    TASK_KIND_GENERATE: _ClassVar[TaskKind]
    TASK_KIND_INPAINT: _ClassVar[TaskKind]
    TASK_KIND_OUTPAINT: _ClassVar[TaskKind]
    TASK_KIND_ANSWER: _ClassVar[TaskKind]
    TASK_KIND_CAPTION: _ClassVar[TaskKind]
TASK_KIND_UNSPECIFIED: TaskKind
TASK_KIND_GENERATE: TaskKind
TASK_KIND_INPAINT: TaskKind
TASK_KIND_OUTPAINT: TaskKind
TASK_KIND_ANSWER: TaskKind
TASK_KIND_CAPTION: TaskKind

class GetCapabilitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCapabilitiesResponse(_message.Message):
    __slots__ = ("version", "backend", "tasks", "space", "models", "limits")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    version: str
    backend: str
    tasks: _containers.RepeatedScalarFieldContainer[TaskKind]
    space: bytes
    models: _containers.RepeatedScalarFieldContainer[bytes]
    limits: Limits
    def __init__(self, version: _Optional[str] = ..., backend: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[TaskKind, str]]] = ..., space: _Optional[bytes] = ..., models: _Optional[_Iterable[bytes]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_tokens", "max_text_tokens", "max_objects", "max_pending_tasks", "max_task_tokens")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    MAX_PENDING_TASKS_FIELD_NUMBER: _ClassVar[int]
    MAX_TASK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_tokens: int
    max_text_tokens: int
    max_objects: int
    max_pending_tasks: int
    max_task_tokens: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_tokens: _Optional[int] = ..., max_text_tokens: _Optional[int] = ..., max_objects: _Optional[int] = ..., max_pending_tasks: _Optional[int] = ..., max_task_tokens: _Optional[int] = ...) -> None: ...

class ClientMessage(_message.Message):
    __slots__ = ("open", "share", "task", "cancel", "release")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    open: Open
    share: Share
    task: Task
    cancel: Cancel
    release: Release
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., share: _Optional[_Union[Share, _Mapping]] = ..., task: _Optional[_Union[Task, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("version", "space", "models")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    version: str
    space: bytes
    models: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, version: _Optional[str] = ..., space: _Optional[bytes] = ..., models: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("id", "packet", "hole")
    ID_FIELD_NUMBER: _ClassVar[int]
    PACKET_FIELD_NUMBER: _ClassVar[int]
    HOLE_FIELD_NUMBER: _ClassVar[int]
    id: int
    packet: _packet_pb2.Packet
    hole: _packet_pb2.Packet
    def __init__(self, id: _Optional[int] = ..., packet: _Optional[_Union[_packet_pb2.Packet, _Mapping]] = ..., hole: _Optional[_Union[_packet_pb2.Packet, _Mapping]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("id", "kind", "object", "text", "mask", "margins", "width", "height", "sampling", "progress")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    MARGINS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    id: int
    kind: TaskKind
    object: int
    text: _packet_pb2.Packet
    mask: _packet_pb2.Packet
    margins: Margins
    width: int
    height: int
    sampling: Sampling
    progress: bool
    def __init__(self, id: _Optional[int] = ..., kind: _Optional[_Union[TaskKind, str]] = ..., object: _Optional[int] = ..., text: _Optional[_Union[_packet_pb2.Packet, _Mapping]] = ..., mask: _Optional[_Union[_packet_pb2.Packet, _Mapping]] = ..., margins: _Optional[_Union[Margins, _Mapping]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., progress: bool = ...) -> None: ...

class Margins(_message.Message):
    __slots__ = ("left", "top", "right", "bottom")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_FIELD_NUMBER: _ClassVar[int]
    left: int
    top: int
    right: int
    bottom: int
    def __init__(self, left: _Optional[int] = ..., top: _Optional[int] = ..., right: _Optional[int] = ..., bottom: _Optional[int] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("seed", "steps", "temperature", "guidance")
    SEED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    seed: int
    steps: int
    temperature: float
    guidance: float
    def __init__(self, seed: _Optional[int] = ..., steps: _Optional[int] = ..., temperature: _Optional[float] = ..., guidance: _Optional[float] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class ServerMessage(_message.Message):
    __slots__ = ("opened", "progress", "result", "failure")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    progress: Progress
    result: Result
    failure: Failure
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("version", "space", "models", "limits")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    version: str
    space: bytes
    models: _containers.RepeatedScalarFieldContainer[bytes]
    limits: Limits
    def __init__(self, version: _Optional[str] = ..., space: _Optional[bytes] = ..., models: _Optional[_Iterable[bytes]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("id", "step", "steps")
    ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    id: int
    step: int
    steps: int
    def __init__(self, id: _Optional[int] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("id", "packet", "confidence", "milliseconds")
    ID_FIELD_NUMBER: _ClassVar[int]
    PACKET_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    id: int
    packet: _packet_pb2.Packet
    confidence: float
    milliseconds: int
    def __init__(self, id: _Optional[int] = ..., packet: _Optional[_Union[_packet_pb2.Packet, _Mapping]] = ..., confidence: _Optional[float] = ..., milliseconds: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("id", "code", "field", "message")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CODE_UNSPECIFIED: _ClassVar[Failure.Code]
        CODE_INVALID_ARGUMENT: _ClassVar[Failure.Code]
        CODE_NOT_FOUND: _ClassVar[Failure.Code]
        CODE_CORRUPT_DATA: _ClassVar[Failure.Code]
        CODE_RESOURCE_EXHAUSTED: _ClassVar[Failure.Code]
        CODE_CANCELLED: _ClassVar[Failure.Code]
        CODE_UNSUPPORTED: _ClassVar[Failure.Code]
        CODE_INTERNAL: _ClassVar[Failure.Code]
        CODE_UNAVAILABLE: _ClassVar[Failure.Code]
    CODE_UNSPECIFIED: Failure.Code
    CODE_INVALID_ARGUMENT: Failure.Code
    CODE_NOT_FOUND: Failure.Code
    CODE_CORRUPT_DATA: Failure.Code
    CODE_RESOURCE_EXHAUSTED: Failure.Code
    CODE_CANCELLED: Failure.Code
    CODE_UNSUPPORTED: Failure.Code
    CODE_INTERNAL: Failure.Code
    CODE_UNAVAILABLE: Failure.Code
    ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    id: int
    code: Failure.Code
    field: str
    message: str
    def __init__(self, id: _Optional[int] = ..., code: _Optional[_Union[Failure.Code, str]] = ..., field: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
