"""Recordings of what an agent runner sent, and the resource that they add up to.

Owns their format: zstd (window up to 128 MiB), then messages `AgentExecutionUpdateStatusInput`, each behind its length
as a varint. Reads one message at a time; does not write anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from stigmer import config, names
from stigmer.errors import InvalidArgument

if TYPE_CHECKING:
    from stigmer.pb.agentic.agentexecution_pb2 import AgentExecution, AgentExecutionUpdateStatusInput

WINDOW_LOG_MAX = 27
UPDATE_BYTES_MAX = config.COMMIT_BYTES_MAX


def frames(path: str) -> Iterator[bytes]:
    """Give the serialized messages of a recording. Raises `InvalidArgument` where the file is not one."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    options = {int(zstd.DecompressionParameter.window_log_max): WINDOW_LOG_MAX}
    try:
        with zstd.open(os.path.expanduser(path), "rb", options=options) as stream:
            number = 1
            while (length := _length(stream, path, number)) is not None:
                if length > UPDATE_BYTES_MAX:
                    raise InvalidArgument(
                        path, f"update {number} has {length} bytes; at most {UPDATE_BYTES_MAX} are allowed"
                    )
                message = stream.read(length)
                if len(message) < length:
                    raise InvalidArgument(path, f"ends in the middle of update {number}")
                yield message
                number += 1
    except zstd.ZstdError as error:
        raise InvalidArgument(path, f"is not a recording: {error}") from error
    except EOFError as error:
        raise InvalidArgument(path, "ends in the middle of its compressed data") from error


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _length(stream: _Reader, path: str, number: int) -> int | None:
    """Read a varint; None at the end of the file."""
    length = 0
    for shift in range(0, 35, 7):
        byte = stream.read(1)
        if not byte:
            if shift == 0:
                return None
            raise InvalidArgument(path, f"ends in the middle of the length of update {number}")
        length |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return length
    raise InvalidArgument(path, f"is not a recording: the length of update {number} is no number")


def update_of(message: bytes, path: str, number: int) -> AgentExecutionUpdateStatusInput:
    """Parse one message of a recording. Raises `InvalidArgument` where it is none."""
    from google.protobuf.message import DecodeError

    from stigmer.pb.agentic.agentexecution_pb2 import AgentExecutionUpdateStatusInput

    try:
        update = AgentExecutionUpdateStatusInput.FromString(message)
    except DecodeError as error:
        raise InvalidArgument(path, f"update {number} is no AgentExecutionUpdateStatusInput ({error})") from error
    return update


def check(path: str, *, named: bool) -> int:
    """Read a recording to its end and give the number of its updates.

    Raises `InvalidArgument` where it cannot be played; an id that its updates lack is no fault where one is `named`.
    """
    number = 0
    for number, message in enumerate(frames(path), 1):
        update = update_of(message, path, number)
        if not named:
            try:
                names.check_id(update.execution_id)
            except InvalidArgument as error:
                problem = f"update {number}: execution_id: {error.problem}"
                raise InvalidArgument(path, problem, hint="give an id: stigmer import traffic FILE --as ID") from error
    if not number:
        raise InvalidArgument(path, "has no update in it")
    return number


def new_execution(id: str, path: str) -> AgentExecution:
    """Make the execution that the updates of a recording are merged into."""
    from stigmer.pb.agentic.agentexecution_pb2 import AgentExecution
    from stigmer.resources import kinds

    kind = kinds.find("agent_execution")
    assert kind is not None
    execution = AgentExecution(api_version=kind.api_version, kind=kind.message_name)
    execution.metadata.id = id
    execution.metadata.name = id
    execution.metadata.slug = id
    execution.spec.message = f"Played from {os.path.basename(path)}"
    return execution


def merge(execution: AgentExecution, update: AgentExecutionUpdateStatusInput) -> None:
    """Let every field that the update's status has take the place of the one in the execution."""
    for field, _value in update.status.ListFields():
        execution.status.ClearField(field.name)
    execution.status.MergeFrom(update.status)
