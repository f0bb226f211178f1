"""What both ends of the wire must agree on: how errors travel, addresses, method names, message sizes.

Owns the one table from errors to status codes. An error travels as a status code with its message, and beside it,
in the trailing metadata, as an `ErrorDetail` with its facts; the client makes the same exception of it again.

Does not import gRPC: status codes are known here by their names, so that a program which only looks at addresses or
errors starts quickly.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from google.protobuf import descriptor, message_factory
from google.protobuf.message import Message

from stigmer import config, errors, names
from stigmer.errors import InvalidArgument, StigmerError
from stigmer.pb import resources_pb2, store_pb2

ERROR_DETAIL_KEY = "stigmer-error-bin"
"""The trailing metadata that holds a serialized `ErrorDetail`."""

ERROR_TEXT_BYTES_MAX = 1_000
"""The rest of an error's message is cut off, and of each fact. They travel as headers, of which clients take 8 KiB."""

STORE_ID_KEY = "stigmer-store-id"
"""The initial metadata of a tail: which store answers. Revisions of another one mean nothing to the follower."""

REQUEST_BYTES_MAX = config.COMMIT_BYTES_MAX + 64 * config.KIB
"""The largest message the daemon receives: the largest commit, in its envelope."""

ANSWER_BYTES_MAX = config.COMMIT_BYTES_MAX + 4 * config.MIB
"""The largest message a client of the store's own services receives: the largest commit, in its envelope."""

LARGEST_MESSAGE_BYTES = config.ARTIFACT_BYTES_MAX + config.MIB
"""The largest message in either direction: an artifact of a skill, in its envelope."""

# --- errors ----------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    status: str
    attributes: tuple[str, ...] = ()
    """What to carry besides message and hint: the same names in `ErrorDetail`, or `attribute:field`."""


_RESOURCE = ("kind", "id")
_REVISIONS = ("expected_revision", "actual_revision")

# An error's row is that of the nearest class of its own line that has one.
_TABLE: dict[type[StigmerError], _Row] = {
    errors.InvalidArgument: _Row("INVALID_ARGUMENT", ("field", "problem")),
    errors.Unauthenticated: _Row("UNAUTHENTICATED"),
    errors.NotFound: _Row("NOT_FOUND", _RESOURCE),
    errors.AlreadyExists: _Row("ALREADY_EXISTS", _RESOURCE + _REVISIONS),
    errors.Conflict: _Row("FAILED_PRECONDITION", _RESOURCE + _REVISIONS),
    errors.ResourceExhausted: _Row("RESOURCE_EXHAUSTED", ("limit", "limit_value")),
    errors.DiskFull: _Row("RESOURCE_EXHAUSTED", ("limit", "limit_value", "path")),
    errors.Unavailable: _Row("UNAVAILABLE"),
    errors.DeadlineExceeded: _Row("DEADLINE_EXCEEDED"),
    errors.DataDirectoryError: _Row("FAILED_PRECONDITION", ("path",)),
    errors.CorruptLog: _Row("DATA_LOSS", ("path", "offset", "revision", "problem")),
    errors.CorruptView: _Row("DATA_LOSS", ("view", "problem")),
    errors.CorruptArtifact: _Row("DATA_LOSS", ("path", "problem")),
    errors.BackupDirectoryError: _Row("FAILED_PRECONDITION", ("path",)),
    errors.CorruptBackup: _Row("DATA_LOSS", ("path", "problem")),
    errors.SecretUnreadable: _Row("DATA_LOSS", (*_RESOURCE, "problem")),
    errors.KeyRetired: _Row("ABORTED", _RESOURCE),
    errors.StorageFailed: _Row("UNAVAILABLE", ("path", "operation:problem")),
    errors.Closed: _Row("UNAVAILABLE"),
    errors.AddressInUse: _Row("FAILED_PRECONDITION", ("address:path",)),
    errors.OutcomeUnknown: _Row("UNAVAILABLE"),
    # Raised on purpose, and about how things stand: try again when they stand otherwise.
    errors.StigmerError: _Row("FAILED_PRECONDITION"),
}
_CLASSES = {cls.__name__: cls for cls in _TABLE}


def _class_of(error: StigmerError) -> type[StigmerError]:
    return next(cls for cls in type(error).__mro__ if cls in _TABLE)


def status_of(error: StigmerError) -> str:
    """Give the name of the status code that an error travels under."""
    return _TABLE[_class_of(error)].status


def _text(value: str) -> str:
    """Give text that protobuf takes and that is short: a path may hold bytes that are no UTF-8, as lone surrogates."""
    told = value.encode("utf-8", "backslashreplace")
    if len(told) <= ERROR_TEXT_BYTES_MAX:
        return told.decode("utf-8")
    return told[: ERROR_TEXT_BYTES_MAX - 3].decode("utf-8", "ignore") + "..."


def path_text(path: str) -> str:
    """Give a path as text that protobuf and JSON take, whatever the locale: what is not UTF-8 in it is escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def message_of(error: StigmerError) -> str:
    """Give an error's message as it travels beside the status code."""
    return _text(error.message)


def detail_message(error: StigmerError) -> store_pb2.ErrorDetail:
    """Give an error's facts as an `ErrorDetail`."""
    cls = _class_of(error)
    detail = store_pb2.ErrorDetail(name=cls.__name__, message=_text(error.message), hint=_text(error.hint or ""))
    for entry in _TABLE[cls].attributes:
        attribute, _, field = entry.partition(":")
        value = getattr(error, attribute)
        setattr(detail, field or attribute, _text(value) if isinstance(value, str) else value)
    return detail


def detail_of(error: StigmerError) -> bytes:
    """Serialize an error's facts as an `ErrorDetail`."""
    return detail_message(error).SerializeToString()


def error_of(detail_bytes: bytes) -> StigmerError:
    """Make the exception again that `detail_of` serialized."""
    return error_from(store_pb2.ErrorDetail.FromString(detail_bytes))


def error_from(detail: store_pb2.ErrorDetail) -> StigmerError:
    """Make the exception again that an `ErrorDetail` tells of; a class that is not known here is a `StigmerError`."""
    cls = _CLASSES.get(detail.name, StigmerError)
    # The message was put together where the error was raised, so the class's own constructor is left out.
    error = cls.__new__(cls)
    StigmerError.__init__(error, detail.message, hint=detail.hint or None)
    for entry in _TABLE[cls].attributes:
        attribute, _, field = entry.partition(":")
        setattr(error, attribute, getattr(detail, field or attribute))
    if isinstance(error, errors.OutcomeUnknown):
        error.request_id = None
    return error


# --- methods ---------------------------------------------------------------------------------------------


class Method(NamedTuple):
    """One method of a service, as its descriptor has it."""

    name: str
    path: str
    request: type[Message]
    response: type[Message]
    streams: bool
    """The answer is a stream."""
    takes_stream: bool
    """The request is a stream."""


_SERVICES: Mapping[str, descriptor.ServiceDescriptor] = {
    service.full_name: service
    for file in (store_pb2.DESCRIPTOR, resources_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
}

STORE_SERVICE = "stigmer.store.v1.Store"
ADMIN_SERVICE = "stigmer.store.v1.Admin"
RESOURCES_SERVICE = "stigmer.resources.v1.Resources"

REQUEST_ID_KEY = "stigmer-request-id"
"""Metadata of a call of the typed services: the same id again is applied at most once."""

AUTHORIZATION_KEY = "authorization"
"""Metadata of a call: `Bearer` and the token, where the daemon wants one."""

NEXT_PAGE_TOKEN_KEY = "stigmer-next-page-token"
"""Trailing metadata of a typed list whose answer has no field for it."""


@functools.cache
def methods(service: str) -> Mapping[str, Method]:
    """Give the methods of a service of ours, named in full, by their lower-case names."""
    found = _SERVICES[service]
    return {
        method.name.lower(): Method(
            method.name,
            f"/{found.full_name}/{method.name}",
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
            method.server_streaming,
            method.client_streaming,
        )
        for method in found.methods
    }


# --- addresses -------------------------------------------------------------------------------------------


class Address(msgspec.Struct, frozen=True):
    """Where a daemon is: `HOST:PORT`, or `unix:PATH` (then `host` is empty)."""

    host: str
    port: int
    path: str

    @property
    def is_unix(self) -> bool:
        """Whether it is a socket in the file system."""
        return not self.host

    @property
    def is_local(self) -> bool:
        """Whether no other machine is at the other end: a socket, or a loopback address."""
        if self.is_unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_TCP = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[A-Za-z0-9_.\-]+)):(?P<port>[0-9]{1,5})", re.ASCII)
SOCKET_PATH_BYTES_MAX = 107  # sun_path, without the NUL


def parse_address(text: str, field: str = "addr") -> Address:
    """Parse `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`. Raises `InvalidArgument` naming `field`."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        # unix:///run/x.sock is how gRPC itself writes an absolute path.
        path = "/" + path.lstrip("/") if path.startswith("///") else path
        if not path or "\0" in path:
            raise InvalidArgument(field, f"{names.shown(text)} names no socket", hint="write unix:PATH")
        if len(path.encode("utf-8", "surrogateescape")) > SOCKET_PATH_BYTES_MAX:
            raise InvalidArgument(
                field, f"{names.shown(text)}: the path of a socket has at most {SOCKET_PATH_BYTES_MAX} bytes"
            )
        return Address("", 0, path)
    match = _TCP.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise InvalidArgument(
            field, f"{names.shown(text)} is not an address", hint="write HOST:PORT, [IPV6]:PORT or unix:PATH"
        )
    return Address(match["v6"] or match["host"], int(match["port"]), "")
