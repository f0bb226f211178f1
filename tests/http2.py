"""Bare HTTP/2 (RFC 9113), for what no gRPC client does: floods, resets, connections that break off.

Without gRPC, so that a process that makes calls with it can be forked.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from types import TracebackType

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
MAX_CONCURRENT_STREAMS = 3
"""A setting."""
CANCEL = 8
"""A reason for a reset."""
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4


def frame(kind: int, payload: bytes = b"", stream: int = 0, flags: int = 0) -> bytes:
    """Give a frame (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def connected(address: str, timeout: float = 20) -> socket.socket:
    """Open a connection to HOST:PORT or unix:PATH and say nothing."""
    if address.startswith("unix:"):
        opened = socket.socket(socket.AF_UNIX)
        opened.settimeout(timeout)
        opened.connect(address.removeprefix("unix:"))
        return opened
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout)


def frames_until_end(opened: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Give type and payload of what comes, until the other end closes."""
    return ((kind, payload) for kind, _flags, _stream, payload in _frames(opened))


def _frames(opened: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    received = b""
    while True:
        try:
            part = opened.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            return
        if not part:
            return
        received += part
        while len(received) >= 9 and len(received) >= 9 + (size := int.from_bytes(received[:3])):
            stream = int.from_bytes(received[5:9]) & 0x7FFFFFFF
            yield received[3], received[4], stream, received[9 : 9 + size]
            received = received[9 + size :]


def request_headers(path: str, *more: tuple[str, str]) -> bytes:
    """Give the headers of a call, each as a literal that enters no table (RFC 7541, 6.2.2)."""
    headers = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    )
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def _text(text: str) -> bytes:
    size = len(text)
    if size < 127:
        return bytes([size]) + text.encode()
    rest = size - 127
    encoded = bytearray([127])
    while rest >= 128:
        encoded.append(rest % 128 + 128)
        rest //= 128
    return bytes([*encoded, rest]) + text.encode()


def message(body: bytes) -> bytes:
    """Give a message as gRPC frames it."""
    return b"\0" + struct.pack(">I", len(body)) + body


class Connection:
    """One connection, on which calls are begun and left as it suits."""

    def __init__(self, address: str, timeout: float = 20) -> None:
        self.socket = connected(address, timeout)
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Each call may send no more than what is read of it; together they may, so that none waits for another.
        self.socket.sendall(PREFACE + frame(SETTINGS) + frame(WINDOW_UPDATE, struct.pack(">I", 2**30)))
        self._frames = _frames(self.socket)
        self._next_stream = 1

    def begin(
        self,
        path: str,
        *bodies: bytes,
        ends: bool = True,
        cut: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> int:
        """Begin a call with these messages, of which only the first `cut` bytes are sent; give its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        data = b"".join(map(message, bodies))
        is_whole = cut is None or cut >= len(data)
        data = data if cut is None else data[:cut]
        sent = frame(HEADERS, request_headers(path, *headers), stream, _END_HEADERS)
        sent += frame(DATA, data, stream, _END_STREAM if ends and is_whole else 0)
        self.socket.sendall(sent)
        return stream

    def reset(self, stream: int) -> None:
        """Cancel a call."""
        self.socket.sendall(frame(RST_STREAM, struct.pack(">I", CANCEL), stream))

    def next_data(self, stream: int) -> bytes | None:
        """Wait for a frame of a call's answer and give it; None where the call ended. Those of other calls are lost."""
        for kind, flags, of, payload in self._frames:
            if kind == SETTINGS and not flags & _ACK:
                self.socket.sendall(frame(SETTINGS, flags=_ACK))
            elif kind == PING and not flags & _ACK:
                self.socket.sendall(frame(PING, payload, flags=_ACK))
            elif of != stream:
                continue
            elif kind == DATA and payload:
                return payload
            elif kind == RST_STREAM or flags & _END_STREAM:
                return None
        return None

    def break_off(self) -> None:
        """Close as the kernel closes for a process that was killed with answers unread."""
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()


def call(address: str, path: str, body: bytes, timeout: float = 20) -> bytes | None:
    """Make a call with one short answer on a connection of its own; None where it was refused."""
    with Connection(address, timeout) as connection:
        answer = connection.next_data(connection.begin(path, body))
        return None if answer is None else answer[5:]
