from stigmer.pb import store_pb2 as _store_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ApplyRequest(_message.Message):
    __slots__ = ("wanted", "dry_run", "request_id")
    WANTED_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    wanted: _containers.RepeatedCompositeFieldContainer[Wanted]
    dry_run: bool
    request_id: str
    def __init__(self, wanted: _Optional[_Iterable[_Union[Wanted, _Mapping]]] = ..., dry_run: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class Wanted(_message.Message):
    __slots__ = ("kind", "value", "expected_revision")
    KIND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    kind: str
    value: bytes
    expected_revision: int
    def __init__(self, kind: _Optional[str] = ..., value: _Optional[bytes] = ..., expected_revision: _Optional[int] = ...) -> None: ...

class ApplyResponse(_message.Message):
    __slots__ = ("applied",)
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    applied: _containers.RepeatedCompositeFieldContainer[Applied]
    def __init__(self, applied: _Optional[_Iterable[_Union[Applied, _Mapping]]] = ...) -> None: ...

class Applied(_message.Message):
    __slots__ = ("kind", "id", "slug", "outcome", "revision", "before", "after")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SLUG_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    slug: str
    outcome: str
    revision: int
    before: bytes
    after: bytes
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ..., slug: _Optional[str] = ..., outcome: _Optional[str] = ..., revision: _Optional[int] = ..., before: _Optional[bytes] = ..., after: _Optional[bytes] = ...) -> None: ...

class FindRequest(_message.Message):
    __slots__ = ("kind", "ref", "org")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REF_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    kind: str
    ref: str
    org: str
    def __init__(self, kind: _Optional[str] = ..., ref: _Optional[str] = ..., org: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("kind", "labels", "tags", "phase", "limit", "page_token")
    KIND_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    kind: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    tags: _containers.RepeatedScalarFieldContainer[str]
    phase: int
    limit: int
    page_token: str
    def __init__(self, kind: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., tags: _Optional[_Iterable[str]] = ..., phase: _Optional[int] = ..., limit: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("resources", "next_page_token", "total")
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    resources: _containers.RepeatedCompositeFieldContainer[_store_pb2.Resource]
    next_page_token: str
    total: int
    def __init__(self, resources: _Optional[_Iterable[_Union[_store_pb2.Resource, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total: _Optional[int] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("targets", "request_id", "dry_run")
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedCompositeFieldContainer[FindRequest]
    request_id: str
    dry_run: bool
    def __init__(self, targets: _Optional[_Iterable[_Union[FindRequest, _Mapping]]] = ..., request_id: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("deleted",)
    DELETED_FIELD_NUMBER: _ClassVar[int]
    deleted: _containers.RepeatedCompositeFieldContainer[Deleted]
    def __init__(self, deleted: _Optional[_Iterable[_Union[Deleted, _Mapping]]] = ...) -> None: ...

class Deleted(_message.Message):
    __slots__ = ("kind", "id", "slug", "revision", "is_target")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SLUG_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    IS_TARGET_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    slug: str
    revision: int
    is_target: bool
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ..., slug: _Optional[str] = ..., revision: _Optional[int] = ..., is_target: _Optional[bool] = ...) -> None: ...

class RevealRequest(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[Stored]
    def __init__(self, values: _Optional[_Iterable[_Union[Stored, _Mapping]]] = ...) -> None: ...

class Stored(_message.Message):
    __slots__ = ("kind", "id", "value")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    value: bytes
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class RevealResponse(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, values: _Optional[_Iterable[bytes]] = ...) -> None: ...
