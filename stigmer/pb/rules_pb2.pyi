from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Secret(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NOT_SECRET: _ClassVar[Secret]
    ALWAYS_SECRET: _ClassVar[Secret]
    SECRET_IF_FLAGGED: _ClassVar[Secret]
NOT_SECRET: Secret
ALWAYS_SECRET: Secret
SECRET_IF_FLAGGED: Secret
RULES_FIELD_NUMBER: _ClassVar[int]
rules: _descriptor.FieldDescriptor
SECRET_FIELD_NUMBER: _ClassVar[int]
secret: _descriptor.FieldDescriptor
RESOURCE_FIELD_NUMBER: _ClassVar[int]
resource: _descriptor.FieldDescriptor
CONFIG_MESSAGE_FIELD_NUMBER: _ClassVar[int]
config_message: _descriptor.FieldDescriptor

class FieldRules(_message.Message):
    __slots__ = ("required", "min_len", "max_len", "pattern", "const", "uri", "gte", "lte", "zero_is_unset", "defined_only", "min_items", "reference_kinds", "owner_scopes", "id", "message", "form_chosen_by")
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    MIN_LEN_FIELD_NUMBER: _ClassVar[int]
    MAX_LEN_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    CONST_FIELD_NUMBER: _ClassVar[int]
    IN_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    GTE_FIELD_NUMBER: _ClassVar[int]
    LTE_FIELD_NUMBER: _ClassVar[int]
    ZERO_IS_UNSET_FIELD_NUMBER: _ClassVar[int]
    DEFINED_ONLY_FIELD_NUMBER: _ClassVar[int]
    MIN_ITEMS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_KINDS_FIELD_NUMBER: _ClassVar[int]
    OWNER_SCOPES_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FORM_CHOSEN_BY_FIELD_NUMBER: _ClassVar[int]
    required: bool
    min_len: int
    max_len: int
    pattern: str
    const: str
    uri: bool
    gte: float
    lte: float
    zero_is_unset: bool
    defined_only: bool
    min_items: int
    reference_kinds: _containers.RepeatedScalarFieldContainer[int]
    owner_scopes: _containers.RepeatedScalarFieldContainer[int]
    id: str
    message: str
    form_chosen_by: str
    def __init__(self, required: _Optional[bool] = ..., min_len: _Optional[int] = ..., max_len: _Optional[int] = ..., pattern: _Optional[str] = ..., const: _Optional[str] = ..., uri: _Optional[bool] = ..., gte: _Optional[float] = ..., lte: _Optional[float] = ..., zero_is_unset: _Optional[bool] = ..., defined_only: _Optional[bool] = ..., min_items: _Optional[int] = ..., reference_kinds: _Optional[_Iterable[int]] = ..., owner_scopes: _Optional[_Iterable[int]] = ..., id: _Optional[str] = ..., message: _Optional[str] = ..., form_chosen_by: _Optional[str] = ..., **kwargs) -> None: ...

class KindFacts(_message.Message):
    __slots__ = ("number", "name", "plural", "id_prefix", "versioned")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PLURAL_FIELD_NUMBER: _ClassVar[int]
    ID_PREFIX_FIELD_NUMBER: _ClassVar[int]
    VERSIONED_FIELD_NUMBER: _ClassVar[int]
    number: int
    name: str
    plural: str
    id_prefix: str
    versioned: bool
    def __init__(self, number: _Optional[int] = ..., name: _Optional[str] = ..., plural: _Optional[str] = ..., id_prefix: _Optional[str] = ..., versioned: _Optional[bool] = ...) -> None: ...
