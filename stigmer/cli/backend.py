"""Where a command finds the store: the daemon, or, to read while none runs, the data directory itself.

Owns that decision:

- `--addr` (or STIGMER_ADDR) names a daemon, and nothing else is looked at.
- `--data-dir` (or STIGMER_DATA_DIR) without an address means the daemon that owns this directory, wherever it listens.
- Otherwise it is the daemon at the default or configured address, and the default or configured directory.

Where the daemon of the data directory is the one that is meant, and has a socket that we may use, it is asked there: a
socket takes no token. The token in the data directory is shown to that directory's daemon and to no other.

A connection is tried with a plain socket first: a refusal is known at once, without importing gRPC.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from stigmer.cli.invocation import Invocation
from stigmer.errors import DataDirectoryError, LogLocked, Unavailable

if TYPE_CHECKING:
    from stigmer.client.sync import Client
    from stigmer.model import BackupPoint
    from stigmer.store import Store

    AnyStore: TypeAlias = Store | Client

PROBE_SECONDS = 3.0


def answers(address: str, timeout_seconds: float = PROBE_SECONDS) -> bool:
    """Say whether something accepts connections at an address."""
    from stigmer.wire import parse_address

    where = parse_address(address)
    try:
        if where.is_unix:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(timeout_seconds)
                probe.connect(where.path)
        else:
            with socket.create_connection((where.host, where.port), timeout_seconds):
                pass
    except OSError:
        return False
    return True


def daemon_address(invocation: Invocation) -> str | None:
    """Give the address of the daemon to talk to; None where the chosen data directory has no daemon."""
    from stigmer.daemon.info import check_access

    if invocation.addr_was_chosen:
        return invocation.addr
    if not invocation.data_dir_was_chosen:
        address = invocation.addr
        return address_of_owner(invocation.data_dir) if _is_of_owner(address, invocation.data_dir) else address
    check_access(invocation.data_dir)
    return address_of_owner(invocation.data_dir)


def address_of_owner(data_dir: str) -> str | None:
    """Give an address at which the daemon of a data directory listens, best a socket; None where none runs."""
    listen = _addresses_of_owner(data_dir)
    for address in listen:
        if address.startswith("unix:") and os.access(address.removeprefix("unix:"), os.W_OK):
            return address
    return listen[0] if listen else None


def _addresses_of_owner(data_dir: str) -> list[str]:
    from stigmer.daemon.info import read_daemon_info

    info = read_daemon_info(data_dir)
    return info.listen if info is not None else []


def _is_of_owner(text: str, data_dir: str, *, surely: bool = False) -> bool:
    """Say whether the daemon of a data directory listens at an address.

    `localhost` and 127.0.0.1 with one port are taken for one, unless it has to be sure: another user's program may have
    the port at ::1.
    """
    from stigmer.wire import parse_address

    address = parse_address(text)
    for other in map(parse_address, _addresses_of_owner(data_dir)):
        if other == address:
            return True
        if not address.is_unix and address.is_local and other.port == address.port:
            is_everywhere = other.host == "::" or (other.host == "0.0.0.0" and address.host.startswith("127."))
            if is_everywhere or (other.is_local and not surely):
                return True
    return False


def token_for(invocation: Invocation, address: str) -> str | None:
    """Give the token to show at an address: what was given, or what lies in the data directory of that very daemon."""
    from stigmer import credentials

    if address.startswith("unix:"):
        return None
    if invocation.setting("token-file").origin != "option":
        token = invocation.environ.get(credentials.TOKEN_VARIABLE)
        if token:
            return credentials.check_token(token, credentials.TOKEN_VARIABLE)
    if invocation.token_file is not None:
        return credentials.read_token(invocation.token_file, "token-file")
    path = os.path.join(invocation.data_dir, credentials.TOKEN_FILE)
    if os.access(path, os.R_OK) and _is_of_owner(address, invocation.data_dir, surely=True):
        return credentials.read_token(path, "token-file")
    return None


@contextmanager
def daemon(invocation: Invocation) -> Iterator[Client]:
    """Connect to the daemon. Raises `Unavailable` where there is none."""
    address = daemon_address(invocation)
    if address is None or not answers(address, min(PROBE_SECONDS, invocation.timeout_seconds)):
        raise _no_daemon(invocation, address)
    invocation.say_more(f"daemon at {address}")
    with connected(invocation, address) as client:
        yield client


@contextmanager
def reader(invocation: Invocation) -> Iterator[AnyStore]:
    """Connect to the daemon or, where none runs, open the data directory itself."""
    address = daemon_address(invocation)
    if address is not None and answers(address, min(PROBE_SECONDS, invocation.timeout_seconds)):
        invocation.say_more(f"daemon at {address}")
        with connected(invocation, address) as client:
            yield client
        return
    only_daemon = invocation.addr_was_chosen and not invocation.data_dir_was_chosen
    if only_daemon or (not invocation.data_dir_was_chosen and not os.path.lexists(invocation.data_dir)):
        raise _no_daemon(invocation, address)
    from stigmer.config import StoreOptions
    from stigmer.store import Store

    what = f"no daemon at {address}" if address is not None else "no daemon"
    try:
        store = Store.open(invocation.data_dir, StoreOptions(), command="stigmer (reading)", create=False)
    except LogLocked as error:
        raise _no_daemon(invocation, address, error) from error
    try:
        invocation.say(f"{what}; reading {invocation.data_dir_shown} directly")
        yield store
    finally:
        store.close()


@contextmanager
def backup_source(invocation: Invocation) -> Iterator[tuple[BackupPoint, Callable[[], None]]]:
    """Give what a backup is made of, and a check that no artifact was removed since: by the daemon or the store.

    Raises `DataDirectoryError` where the data directory of the daemon is not to be read here.
    """
    from stigmer.client.sync import Client

    with reader(invocation) as store:
        if isinstance(store, Client):
            with store.hold_for_backup() as (told, check_hold):
                point = _as_typed(told, invocation.data_dir)
                _check_here(point)
                yield point, check_hold
        else:
            import msgspec

            from stigmer.vault import master_key_place
            from stigmer.wire import path_text

            point = store.backup_point()
            place = path_text(master_key_place(point.data_dir, invocation.key_file, invocation.environ))
            yield msgspec.structs.replace(point, master_key=place), lambda: None


def _as_typed(point: BackupPoint, data_dir: str) -> BackupPoint:
    """Give what a daemon has told with the path of our own data directory: what is not UTF-8 in it travels escaped."""
    import msgspec

    from stigmer.wire import path_text

    same = path_text(data_dir) == point.data_dir
    return msgspec.structs.replace(point, data_dir=data_dir) if same else point


def _check_here(point: BackupPoint) -> None:
    if not os.access(os.path.join(point.data_dir, "log", point.segments[0].name), os.R_OK):
        raise DataDirectoryError(
            point.data_dir,
            "is that of the daemon, and cannot be read here",
            hint="make the backup on the daemon's machine, as its user",
        )


@contextmanager
def connected(invocation: Invocation, address: str, timeout_seconds: float | None = None) -> Iterator[Client]:
    """Connect to the daemon at an address that is known to answer."""
    from stigmer.client import connect

    client = connect(
        address,
        timeout=timeout_seconds or invocation.timeout_seconds,
        token=token_for(invocation, address),
        tls=None if address.startswith("unix:") else invocation.tls,
    )
    try:
        yield client
    finally:
        client.close()


def _no_daemon(invocation: Invocation, address: str | None, locked: LogLocked | None = None) -> Unavailable:
    """Say that there is no daemon, and what to do about it."""
    here = f" --data-dir {invocation.data_dir_shown}" if invocation.data_dir_was_chosen else ""
    start = f"start one with `stigmer daemon --detach{here}`"
    if address is None:
        message = f"no daemon for data directory {invocation.data_dir_shown}"
        if locked is not None and locked.pid:
            return Unavailable(
                message, hint=f"pid {locked.pid} is using it ({locked.command or 'embedded'}); try again"
            )
        return Unavailable(message, hint=start)
    message = f"no daemon at {address}"
    elsewhere = address_of_owner(invocation.data_dir)
    if elsewhere is not None and elsewhere != address:
        shown = invocation.data_dir_shown
        return Unavailable(
            message, hint=f"the daemon of {shown} listens on {elsewhere}: use --addr {elsewhere}, or set STIGMER_ADDR"
        )
    if locked is not None and locked.pid:
        return Unavailable(f"{message}, and {locked.message}", hint=locked.hint)
    if invocation.addr_was_chosen:
        return Unavailable(
            message, hint=f"start one with `stigmer daemon --detach --listen {address}`, or change --addr"
        )
    return Unavailable(message, hint=f"{start}, or set STIGMER_ADDR")
