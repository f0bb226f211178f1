"""Where the daemon listens: TCP, and sockets in the file system, one of them in the data directory.

Who may come to which address is decided in `access.py`. Owns the checks that gRPC leaves out. It removes a socket that
is there already, even one that another daemon answers on, and makes new ones for everybody; and it says "failed to
bind" without the reason.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stigmer import wire
from stigmer.errors import AddressInUse, InvalidArgument
from stigmer.wire import Address

_PROBE_SECONDS = 1.0
_BINDING_SECONDS_MAX = 2.0
"""A daemon that takes a socket does so in milliseconds, or a probe later."""
_BINDING_RETRY_SECONDS = 0.005

RUN_DIRECTORY = "run"
"""Of the data directory."""
_SOCKET = "stigmer.sock"

_logger = logging.getLogger("stigmer.daemon")


def parse_listen(text: str) -> Address:
    """Parse an address to listen on. Raises `InvalidArgument` where it is none."""
    address = wire.parse_address(text, "listen")
    if address.is_unix:
        return Address("", 0, os.path.abspath(address.path))
    return address


def own_socket(data_dir: str) -> Address | None:
    """Make the directory of the data directory's own socket and give the address; None, with a warning, where it cannot
    be."""
    directory = os.path.join(data_dir, RUN_DIRECTORY)
    path = os.path.join(directory, _SOCKET)
    if len(os.fsencode(path)) > wire.SOCKET_PATH_BYTES_MAX:
        _logger.warning(
            "no socket in the data directory: the path of a socket has at most %d bytes, and this has more: %s",
            wire.SOCKET_PATH_BYTES_MAX,
            path,
        )
        return None
    try:
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(directory).st_mode):
                raise
            os.chmod(directory, 0o700)
    except OSError as error:
        _logger.warning("no socket in the data directory: %s: %s", directory, error.strerror)
        return None
    return Address("", 0, path)


@contextmanager
def room_for_socket(path: str) -> Iterator[None]:
    """Make room for a socket, and keep it until the block, which binds it, is done: a stale one is removed.

    Another daemon that looks in between would find nothing, or a socket on which nobody answers yet, and take
    the place, too. Raises `AddressInUse` where somebody answers, and `InvalidArgument` where something else is there.
    """
    fd = _lock_directory(os.path.dirname(path))
    try:
        _make_room(path)
        yield
    finally:
        if fd is not None:
            os.close(fd)


def _lock_directory(directory: str) -> int | None:
    """Lock a directory and give the descriptor that holds the lock; None where that cannot be.

    Whoever may read the directory may lock it, so we do not wait for ever, and do without.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    deadline = time.monotonic() + _BINDING_SECONDS_MAX
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except OSError as error:
            # Only a lock that is waited for without an end can be waited for without a look now and then.
            if error.errno != errno.EWOULDBLOCK or time.monotonic() > deadline:
                os.close(fd)
                return None
            time.sleep(_BINDING_RETRY_SECONDS)


def _make_room(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        directory = os.path.dirname(path)
        if not os.path.isdir(directory):
            raise InvalidArgument("listen", f"unix:{path}: there is no directory {directory}") from None
        return
    except OSError as error:
        raise InvalidArgument("listen", f"unix:{path}: {error.strerror}") from error
    if not stat.S_ISSOCK(found.st_mode):
        raise InvalidArgument("listen", f"unix:{path}: a file that is no socket is in the way")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError as error:
            # Somebody may be there: a full backlog, or a socket that is not ours to connect to.
            raise AddressInUse(f"unix:{path}") from error
        else:
            raise AddressInUse(f"unix:{path}")


def explain_failure(address: Address) -> AddressInUse | InvalidArgument:
    """Find out why gRPC could not bind an address, by binding it once more."""
    problem = "cannot be bound"
    try:
        for family, kind, _, _, place in _places(address):
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
                probe.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return AddressInUse(str(address))
        problem = error.strerror or str(error)
    return InvalidArgument("listen", f"{address}: {problem}")


def _places(address: Address) -> list[tuple[int, int, int, str, Any]]:
    if address.is_unix:
        return [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", address.path)]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(int(family), int(kind), proto, name, place) for family, kind, proto, name, place in found]
