"""What both ends agree on: errors keep their class and facts, addresses are parsed in one way."""

from __future__ import annotations

import grpc
import pytest

from stigmer import errors, wire
from stigmer.errors import InvalidArgument, StigmerError

ERRORS: list[tuple[StigmerError, str]] = [
    (errors.InvalidArgument("id", "must not be empty", hint="give one"), "INVALID_ARGUMENT"),
    (errors.NotFound("agent", "日本 \U0001f600"), "NOT_FOUND"),
    (errors.Conflict("agent", "a", 3, 0), "FAILED_PRECONDITION"),
    (errors.AlreadyExists("agent", "a", 2**63), "ALREADY_EXISTS"),
    (errors.Unauthenticated("the call has no token"), "UNAUTHENTICATED"),
    (errors.ResourceExhausted("too much", limit="TAILS_MAX", limit_value=1000), "RESOURCE_EXHAUSTED"),
    (errors.DiskFull("/data"), "RESOURCE_EXHAUSTED"),
    (errors.OutcomeUnknown("no answer"), "UNAVAILABLE"),
    (errors.Unavailable("the daemon is stopping"), "UNAVAILABLE"),
    (errors.DeadlineExceeded("too late"), "DEADLINE_EXCEEDED"),
    (errors.DataDirectoryError("/data", "is not a directory", hint="choose another"), "FAILED_PRECONDITION"),
    (errors.CorruptLog("/data/log/1.log", 4096, 17, "checksum mismatch"), "DATA_LOSS"),
    (errors.CorruptView("snapshot", "agent/a: checksum mismatch"), "DATA_LOSS"),
    (errors.CorruptArtifact("/data/artifacts/00/00ff", "its content has another hash"), "DATA_LOSS"),
    (errors.CorruptBackup("/backup/log/1.log", "is missing"), "DATA_LOSS"),
    (errors.BackupDirectoryError("/backup", "is no backup", hint="make one"), "FAILED_PRECONDITION"),
    (errors.SecretUnreadable("environment", "e", "it is damaged"), "DATA_LOSS"),
    (errors.KeyRetired("environment", "e"), "ABORTED"),
    (errors.StorageFailed("/data/log/1.log", "fdatasync", "Input/output error"), "UNAVAILABLE"),
    (errors.Closed("store"), "UNAVAILABLE"),
    (errors.AddressInUse("127.0.0.1:1"), "FAILED_PRECONDITION"),
    (errors.StigmerError("something on purpose"), "FAILED_PRECONDITION"),
]


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=lambda value: type(value).__name__)
def test_an_error_keeps_its_class_and_its_facts(error: StigmerError, status: str) -> None:
    """An error comes out of the wire as it went in, under its status code."""
    assert wire.status_of(error) == status
    assert grpc.StatusCode[status]
    again = wire.error_of(wire.detail_of(error))
    assert type(again) is type(error)
    assert again.message == error.message
    assert again.hint == error.hint
    assert {name: value for name, value in vars(again).items() if name != "hint"} == {
        name: value for name, value in vars(error).items() if name != "hint"
    }


def test_every_error_is_in_the_table_or_below_one_that_is() -> None:
    """A class without a row of its own travels as the nearest one above it, with the same message."""
    tried = {type(error) for error, _ in ERRORS}
    without_row = {
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, StigmerError) and cls not in tried
    }
    # BatchFailed is made by the clients, of errors that have travelled.
    assert without_row == {errors.LogLocked, errors.NewerFormat, errors.BatchFailed}
    locked = errors.LogLocked("/data", 17, "12:00:00", "stigmer daemon")
    again = wire.error_of(wire.detail_of(locked))
    assert type(again) is errors.DataDirectoryError
    assert (again.message, again.hint, again.path) == (locked.message, locked.hint, "/data")


def test_an_error_from_a_newer_daemon() -> None:
    """A class that is not known here is told as a plain error with its message."""
    detail = wire.store_pb2.ErrorDetail(name="LeaseLost", message="the lease is lost", hint="take it again")
    error = wire.error_of(detail.SerializeToString())
    assert type(error) is StigmerError
    assert (error.message, error.hint) == ("the lease is lost", "take it again")


def test_a_path_that_is_no_text() -> None:
    """A path with bytes that are not UTF-8 can be told, escaped."""
    again = wire.error_of(wire.detail_of(errors.DiskFull("/data/\udcff")))
    assert again.message == "disk full: /data/\\udcff"


@pytest.mark.parametrize(
    ("text", "address", "written"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051, ""), "127.0.0.1:50051"),
        ("localhost:0", ("localhost", 0, ""), "localhost:0"),
        ("[::1]:65535", ("::1", 65535, ""), "[::1]:65535"),
        ("unix:/run/s.sock", ("", 0, "/run/s.sock"), "unix:/run/s.sock"),
        ("unix:///run/s.sock", ("", 0, "/run/s.sock"), "unix:/run/s.sock"),
        ("unix://///run/s.sock", ("", 0, "/run/s.sock"), "unix:/run/s.sock"),
        ("unix:s.sock", ("", 0, "s.sock"), "unix:s.sock"),
    ],
)
def test_addresses(text: str, address: tuple[str, int, str], written: str) -> None:
    """An address is parsed, and written in one way."""
    parsed = wire.parse_address(text)
    assert (parsed.host, parsed.port, parsed.path) == address
    assert str(parsed) == written


@pytest.mark.parametrize(
    "text",
    [
        *("", ":1", "host", "host:", "host:x", "host:65536", "host:-1", "host:\u0661", "::1:5", "a b:1", "http://h:1"),
        *("unix:", "unix:\0", "unix:/" + "x" * 107),
    ],
)
def test_what_is_no_address(text: str) -> None:
    """Anything else is refused, naming the option."""
    with pytest.raises(InvalidArgument) as caught:
        wire.parse_address(text, "listen")
    assert caught.value.field == "listen"


def test_methods_are_those_of_the_descriptors() -> None:
    """The methods' paths and kinds come from the proto file."""
    found = wire.methods(wire.STORE_SERVICE)
    assert set(found) == {"save", "delete", "commit", "write", "get", "getmany", "list", "count", "tail"}
    assert found["tail"].path == "/stigmer.store.v1.Store/Tail"
    assert {name for name, method in found.items() if method.streams} == {"list", "tail", "write"}
    assert {name for name, method in found.items() if method.takes_stream} == {"write"}
    assert set(wire.methods(wire.ADMIN_SERVICE)) == {*("status", "segments", "frame", "replay", "verify", "backup")}
