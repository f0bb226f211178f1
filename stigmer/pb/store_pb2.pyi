from stigmer.pb import log_pb2 as _log_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Resource(_message.Message):
    __slots__ = ("revision", "created_revision", "created_at_ns", "updated_at_ns", "kind", "id", "value")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATED_REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    revision: int
    created_revision: int
    created_at_ns: int
    updated_at_ns: int
    kind: str
    id: str
    value: bytes
    def __init__(self, revision: _Optional[int] = ..., created_revision: _Optional[int] = ..., created_at_ns: _Optional[int] = ..., updated_at_ns: _Optional[int] = ..., kind: _Optional[str] = ..., id: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class SaveRequest(_message.Message):
    __slots__ = ("kind", "id", "value", "expected_revision", "request_id")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    value: bytes
    expected_revision: int
    request_id: str
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ..., value: _Optional[bytes] = ..., expected_revision: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("kind", "id", "expected_revision", "request_id")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    expected_revision: int
    request_id: str
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ..., expected_revision: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class CommitResponse(_message.Message):
    __slots__ = ("first_revision", "last_revision")
    FIRST_REVISION_FIELD_NUMBER: _ClassVar[int]
    LAST_REVISION_FIELD_NUMBER: _ClassVar[int]
    first_revision: int
    last_revision: int
    def __init__(self, first_revision: _Optional[int] = ..., last_revision: _Optional[int] = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("commits",)
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    commits: _containers.RepeatedCompositeFieldContainer[_log_pb2.Commit]
    def __init__(self, commits: _Optional[_Iterable[_Union[_log_pb2.Commit, _Mapping]]] = ...) -> None: ...

class WriteResponse(_message.Message):
    __slots__ = ("answered", "last_revisions", "refusals", "first_revisions")
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    LAST_REVISIONS_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    FIRST_REVISIONS_FIELD_NUMBER: _ClassVar[int]
    answered: int
    last_revisions: _containers.RepeatedScalarFieldContainer[int]
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    first_revisions: _containers.RepeatedCompositeFieldContainer[FirstRevision]
    def __init__(self, answered: _Optional[int] = ..., last_revisions: _Optional[_Iterable[int]] = ..., refusals: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ..., first_revisions: _Optional[_Iterable[_Union[FirstRevision, _Mapping]]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("number", "error")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    number: int
    error: ErrorDetail
    def __init__(self, number: _Optional[int] = ..., error: _Optional[_Union[ErrorDetail, _Mapping]] = ...) -> None: ...

class FirstRevision(_message.Message):
    __slots__ = ("number", "first_revision")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FIRST_REVISION_FIELD_NUMBER: _ClassVar[int]
    number: int
    first_revision: int
    def __init__(self, number: _Optional[int] = ..., first_revision: _Optional[int] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("kind", "id")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    kind: str
    id: str
    def __init__(self, kind: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class GetManyRequest(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[GetRequest]
    def __init__(self, keys: _Optional[_Iterable[_Union[GetRequest, _Mapping]]] = ...) -> None: ...

class GetManyResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[GetResult]
    def __init__(self, results: _Optional[_Iterable[_Union[GetResult, _Mapping]]] = ...) -> None: ...

class GetResult(_message.Message):
    __slots__ = ("resource", "error")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    resource: Resource
    error: ErrorDetail
    def __init__(self, resource: _Optional[_Union[Resource, _Mapping]] = ..., error: _Optional[_Union[ErrorDetail, _Mapping]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("kind", "prefix", "limit", "page_token")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    kind: str
    prefix: str
    limit: int
    page_token: str
    def __init__(self, kind: _Optional[str] = ..., prefix: _Optional[str] = ..., limit: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("resources", "next_page_token")
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    resources: _containers.RepeatedCompositeFieldContainer[Resource]
    next_page_token: str
    def __init__(self, resources: _Optional[_Iterable[_Union[Resource, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CountRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CountResponse(_message.Message):
    __slots__ = ("counts",)
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.ScalarMap[str, int]
    def __init__(self, counts: _Optional[_Mapping[str, int]] = ...) -> None: ...

class TailRequest(_message.Message):
    __slots__ = ("after", "kinds", "prefix", "follow")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    after: int
    kinds: _containers.RepeatedScalarFieldContainer[str]
    prefix: str
    follow: bool
    def __init__(self, after: _Optional[int] = ..., kinds: _Optional[_Iterable[str]] = ..., prefix: _Optional[str] = ..., follow: _Optional[bool] = ...) -> None: ...

class TailResponse(_message.Message):
    __slots__ = ("commits", "through_revision")
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    THROUGH_REVISION_FIELD_NUMBER: _ClassVar[int]
    commits: _containers.RepeatedCompositeFieldContainer[CommittedEvents]
    through_revision: int
    def __init__(self, commits: _Optional[_Iterable[_Union[CommittedEvents, _Mapping]]] = ..., through_revision: _Optional[int] = ...) -> None: ...

class CommittedEvents(_message.Message):
    __slots__ = ("first_revision", "time_ns", "commit", "revisions")
    FIRST_REVISION_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    first_revision: int
    time_ns: int
    commit: _log_pb2.Commit
    revisions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, first_revision: _Optional[int] = ..., time_ns: _Optional[int] = ..., commit: _Optional[_Union[_log_pb2.Commit, _Mapping]] = ..., revisions: _Optional[_Iterable[int]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("version", "store_id", "data_dir", "pid", "started_at_ns", "durability", "listen", "revision", "segments", "log_bytes", "views_bytes", "generation", "checkpoints", "resources", "tails", "recovery", "log_saved_bytes", "views_map_bytes", "views_readers", "access", "refused")
    class CheckpointsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_DIR_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    LISTEN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    LOG_BYTES_FIELD_NUMBER: _ClassVar[int]
    VIEWS_BYTES_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    TAILS_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_FIELD_NUMBER: _ClassVar[int]
    LOG_SAVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    VIEWS_MAP_BYTES_FIELD_NUMBER: _ClassVar[int]
    VIEWS_READERS_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    version: str
    store_id: str
    data_dir: str
    pid: int
    started_at_ns: int
    durability: str
    listen: _containers.RepeatedScalarFieldContainer[str]
    revision: int
    segments: int
    log_bytes: int
    views_bytes: int
    generation: int
    checkpoints: _containers.ScalarMap[str, int]
    resources: int
    tails: int
    recovery: _containers.RepeatedScalarFieldContainer[str]
    log_saved_bytes: int
    views_map_bytes: int
    views_readers: int
    access: Access
    refused: _containers.ScalarMap[str, int]
    def __init__(self, version: _Optional[str] = ..., store_id: _Optional[str] = ..., data_dir: _Optional[str] = ..., pid: _Optional[int] = ..., started_at_ns: _Optional[int] = ..., durability: _Optional[str] = ..., listen: _Optional[_Iterable[str]] = ..., revision: _Optional[int] = ..., segments: _Optional[int] = ..., log_bytes: _Optional[int] = ..., views_bytes: _Optional[int] = ..., generation: _Optional[int] = ..., checkpoints: _Optional[_Mapping[str, int]] = ..., resources: _Optional[int] = ..., tails: _Optional[int] = ..., recovery: _Optional[_Iterable[str]] = ..., log_saved_bytes: _Optional[int] = ..., views_map_bytes: _Optional[int] = ..., views_readers: _Optional[int] = ..., access: _Optional[_Union[Access, _Mapping]] = ..., refused: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Access(_message.Message):
    __slots__ = ("auth", "token_file", "tls", "client_certificates", "certificate_valid_until_ns")
    AUTH_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FILE_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_VALID_UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    auth: str
    token_file: str
    tls: bool
    client_certificates: bool
    certificate_valid_until_ns: int
    def __init__(self, auth: _Optional[str] = ..., token_file: _Optional[str] = ..., tls: _Optional[bool] = ..., client_certificates: _Optional[bool] = ..., certificate_valid_until_ns: _Optional[int] = ...) -> None: ...

class SegmentsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SegmentsResponse(_message.Message):
    __slots__ = ("segments",)
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    def __init__(self, segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("name", "first_revision", "last_revision", "bytes", "sealed", "created_at_ns", "saved_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FIRST_REVISION_FIELD_NUMBER: _ClassVar[int]
    LAST_REVISION_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    SAVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    first_revision: int
    last_revision: int
    bytes: int
    sealed: bool
    created_at_ns: int
    saved_bytes: int
    def __init__(self, name: _Optional[str] = ..., first_revision: _Optional[int] = ..., last_revision: _Optional[int] = ..., bytes: _Optional[int] = ..., sealed: _Optional[bool] = ..., created_at_ns: _Optional[int] = ..., saved_bytes: _Optional[int] = ...) -> None: ...

class FrameRequest(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class FrameResponse(_message.Message):
    __slots__ = ("segment", "offset", "bytes", "first_revision", "event_count", "group_first_revision", "time_ns", "flags", "payload_crc32c", "commit", "codec", "payload_bytes", "base_revision", "depth")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    FIRST_REVISION_FIELD_NUMBER: _ClassVar[int]
    EVENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIRST_REVISION_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_CRC32C_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    segment: str
    offset: int
    bytes: int
    first_revision: int
    event_count: int
    group_first_revision: int
    time_ns: int
    flags: int
    payload_crc32c: int
    commit: _log_pb2.Commit
    codec: str
    payload_bytes: int
    base_revision: int
    depth: int
    def __init__(self, segment: _Optional[str] = ..., offset: _Optional[int] = ..., bytes: _Optional[int] = ..., first_revision: _Optional[int] = ..., event_count: _Optional[int] = ..., group_first_revision: _Optional[int] = ..., time_ns: _Optional[int] = ..., flags: _Optional[int] = ..., payload_crc32c: _Optional[int] = ..., commit: _Optional[_Union[_log_pb2.Commit, _Mapping]] = ..., codec: _Optional[str] = ..., payload_bytes: _Optional[int] = ..., base_revision: _Optional[int] = ..., depth: _Optional[int] = ...) -> None: ...

class ReplayRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("quick",)
    QUICK_FIELD_NUMBER: _ClassVar[int]
    quick: bool
    def __init__(self, quick: _Optional[bool] = ...) -> None: ...

class FoldProgress(_message.Message):
    __slots__ = ("phase", "completed", "total", "report")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    phase: str
    completed: int
    total: int
    report: FoldReport
    def __init__(self, phase: _Optional[str] = ..., completed: _Optional[int] = ..., total: _Optional[int] = ..., report: _Optional[_Union[FoldReport, _Mapping]] = ...) -> None: ...

class FoldReport(_message.Message):
    __slots__ = ("revision", "rows", "differences", "examples", "generation", "seconds", "frames", "resumed_revision")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    RESUMED_REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    rows: int
    differences: int
    examples: _containers.RepeatedScalarFieldContainer[str]
    generation: int
    seconds: float
    frames: int
    resumed_revision: int
    def __init__(self, revision: _Optional[int] = ..., rows: _Optional[int] = ..., differences: _Optional[int] = ..., examples: _Optional[_Iterable[str]] = ..., generation: _Optional[int] = ..., seconds: _Optional[float] = ..., frames: _Optional[int] = ..., resumed_revision: _Optional[int] = ...) -> None: ...

class BackupRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BackupPoint(_message.Message):
    __slots__ = ("store_id", "data_dir", "segments", "master_key")
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_DIR_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    MASTER_KEY_FIELD_NUMBER: _ClassVar[int]
    store_id: str
    data_dir: str
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    master_key: str
    def __init__(self, store_id: _Optional[str] = ..., data_dir: _Optional[str] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., master_key: _Optional[str] = ...) -> None: ...

class ErrorDetail(_message.Message):
    __slots__ = ("name", "message", "hint", "field", "problem", "kind", "id", "expected_revision", "actual_revision", "limit", "limit_value", "path", "offset", "revision", "view")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_REVISION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_VALUE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    name: str
    message: str
    hint: str
    field: str
    problem: str
    kind: str
    id: str
    expected_revision: int
    actual_revision: int
    limit: str
    limit_value: int
    path: str
    offset: int
    revision: int
    view: str
    def __init__(self, name: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ..., field: _Optional[str] = ..., problem: _Optional[str] = ..., kind: _Optional[str] = ..., id: _Optional[str] = ..., expected_revision: _Optional[int] = ..., actual_revision: _Optional[int] = ..., limit: _Optional[str] = ..., limit_value: _Optional[int] = ..., path: _Optional[str] = ..., offset: _Optional[int] = ..., revision: _Optional[int] = ..., view: _Optional[str] = ...) -> None: ...
