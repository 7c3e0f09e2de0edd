from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_IMAGE: _ClassVar[Kind]
    KIND_TEXT: _ClassVar[Kind]
    KIND_MASK: _ClassVar[Kind]

class Scenario(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCENARIO_GENERIC: _ClassVar[Scenario]
    SCENARIO_MASKED: _ClassVar[Scenario]
    SCENARIO_TEXT_CONDITIONED: _ClassVar[Scenario]
    SCENARIO_PARTIAL: _ClassVar[Scenario]

class Coding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODING_ENTROPY: _ClassVar[Coding]
    CODING_RAW: _ClassVar[Coding]
KIND_UNSPECIFIED: Kind
KIND_IMAGE: Kind
KIND_TEXT: Kind
KIND_MASK: Kind
SCENARIO_GENERIC: Scenario
SCENARIO_MASKED: Scenario
SCENARIO_TEXT_CONDITIONED: Scenario
SCENARIO_PARTIAL: Scenario
CODING_ENTROPY: Coding
CODING_RAW: Coding

class Packet(_message.Message):
    __slots__ = ("kind", "scenario", "coding", "width", "height", "count", "references", "pitch", "crc", "skip", "space", "model", "payload")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SCENARIO_FIELD_NUMBER: _ClassVar[int]
    CODING_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    PITCH_FIELD_NUMBER: _ClassVar[int]
    CRC_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    scenario: Scenario
    coding: Coding
    width: int
    height: int
    count: int
    references: _containers.RepeatedScalarFieldContainer[int]
    pitch: int
    crc: int
    skip: int
    space: bytes
    model: bytes
    payload: bytes
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., scenario: _Optional[_Union[Scenario, str]] = ..., coding: _Optional[_Union[Coding, str]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., count: _Optional[int] = ..., references: _Optional[_Iterable[int]] = ..., pitch: _Optional[int] = ..., crc: _Optional[int] = ..., skip: _Optional[int] = ..., space: _Optional[bytes] = ..., model: _Optional[bytes] = ..., payload: _Optional[bytes] = ...) -> None: ...
