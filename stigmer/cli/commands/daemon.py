"""`daemon`: run one, look at one, stop one, read what it wrote."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from stigmer.cli.invocation import Invocation
from stigmer.cli.limits import arguments_of, limit_options, limits_of
from stigmer.cli.options import Command, Group, pass_invocation

if TYPE_CHECKING:
    from stigmer.config import AccessOptions, Limits, StoreOptions
    from stigmer.daemon.lifecycle import Started
    from stigmer.model import AccessStatus, Status

DETACH_SECONDS = 60.0
STOP_SECONDS = 30.0
"""Opening a store and finishing calls take longer than answering one: where nobody said --timeout, these hold."""


@click.group("daemon", cls=Group, invoke_without_command=True)
@click.option("--detach", is_flag=True, help="Run in the background; returns when it is ready.")
@click.option(
    "--listen",
    "listen",
    multiple=True,
    metavar="ADDRESS",
    help="HOST:PORT or unix:PATH; if not given, --addr and the data directory's own socket. Repeatable.",
)
@click.option(
    "--auth",
    type=click.Choice(("none", "token")),
    default="none",
    help="What callers over TCP have to show: nothing (the default), or the token.",
)
@click.option("--tls-client-ca", metavar="FILE", help="Let in only clients whose certificates these authorities sign.")
@click.option(
    "--durability",
    type=click.Choice(("fsync", "interval", "os")),
    default="fsync",
    help="When a save is acknowledged: on disk (fsync, the default), or sooner.",
)
@click.option("--sync-interval", default="100ms", metavar="TIME", help="With interval: sync this often; 100ms.")
@click.option("--segment-bytes", metavar="SIZE", help="Start a new file of the log at this size; 64MiB.")
@click.option("--value-max", metavar="SIZE", help="The largest value of one resource; 16MiB.")
@click.option("--queue-max", metavar="SIZE", help="Commits that wait for the disk, together; 128MiB.")
@limit_options
@click.pass_context
def daemon_command(
    context: click.Context,
    /,
    detach: bool,
    listen: tuple[str, ...],
    durability: str,
    sync_interval: str,
    segment_bytes: str | None,
    value_max: str | None,
    queue_max: str | None,
    auth: str,
    tls_client_ca: str | None,
    **limits: str | int | None,
) -> None:
    """Run the daemon; look at it, stop it, read what it wrote.

    Without a command, runs the daemon on the data directory, in the foreground until Ctrl-C.
    """
    if context.invoked_subcommand is not None:
        return
    invocation = context.ensure_object(Invocation)
    invocation.check_printing()
    options = DaemonArguments(
        listen=listen,
        store=_store_options(durability, sync_interval, segment_bytes, value_max, queue_max),
        access=_access_options(invocation, auth, tls_client_ca),
        limits=limits_of(limits),
    )
    (_detach if detach else _run)(invocation, options)


class DaemonArguments(NamedTuple):
    """What was said to `stigmer daemon`, checked."""

    listen: tuple[str, ...]
    store: StoreOptions
    access: AccessOptions
    limits: Limits


def _access_options(invocation: Invocation, auth: str, tls_client_ca: str | None) -> AccessOptions:
    from stigmer.config import AccessOptions, Auth

    cert, key = invocation.tls_pair
    ca = os.path.abspath(os.path.expanduser(tls_client_ca)) if tls_client_ca else None
    return AccessOptions(Auth(auth), invocation.token_file, cert, key, ca)


def _store_options(
    durability: str, sync_interval: str, segment_bytes: str | None, value_max: str | None, queue_max: str | None
) -> StoreOptions:
    from stigmer import config
    from stigmer.cli.units import parse_duration, parse_size
    from stigmer.errors import InvalidArgument

    flags = {
        "sync_interval_ms": "--sync-interval",
        "segment_bytes": "--segment-bytes",
        "value_bytes_max": "--value-max",
        "queue_bytes_max": "--queue-max",
    }
    options = config.StoreOptions(
        durability=config.Durability(durability),
        sync_interval_ms=round(parse_duration(sync_interval, "--sync-interval") * 1000),
        segment_bytes=parse_size(segment_bytes, "--segment-bytes") if segment_bytes else config.SEGMENT_BYTES_DEFAULT,
        value_bytes_max=parse_size(value_max, "--value-max") if value_max else config.VALUE_BYTES_DEFAULT,
        queue_bytes_max=parse_size(queue_max, "--queue-max") if queue_max else config.QUEUE_BYTES_DEFAULT,
    )
    try:
        return options.checked()
    except InvalidArgument as error:
        raise InvalidArgument(flags.get(error.field, error.field), error.problem) from error


def _run(invocation: Invocation, options: DaemonArguments) -> None:
    from stigmer.daemon.lifecycle import DaemonOptions, run_daemon

    if invocation.verbose:
        import logging

        logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    command = "stigmer daemon --detach" if "STIGMER_READY_FD" in os.environ else "stigmer daemon"
    run_daemon(
        DaemonOptions(
            data_dir=invocation.data_dir,
            listen=options.listen or (invocation.addr,),
            store=options.store,
            key_file=invocation.key_file,
            access=options.access,
            limits=options.limits,
            own_socket=not options.listen,
            command=command,
        ),
        lambda started: _print_banner(invocation, started),
    )
    invocation.say("stopped; the log is sealed")


def _print_banner(invocation: Invocation, started: Started) -> None:
    status = started.status
    access = f"access  {started.access}\n" if started.access else ""
    invocation.say(
        f"stigmer {status.version}  data {invocation.data_dir_shown}  durability {status.durability}\n"
        f"{_facts(status, started.info.listen)}\n{access}"
        f"ready in {started.seconds:.2f} s; try: stigmer apply -f examples/"
    )


def _facts(status: Status, listen: list[str]) -> str:
    """Write what the banner and `daemon status` both tell."""
    from stigmer.cli.units import counted, size, visible

    segments = counted(status.segments, "segment")
    behind = [f"{name} at {at}" for name, at in sorted(status.checkpoints.items()) if at != status.revision]
    lines = [
        f"log     {segments}, {size(status.log_bytes)}, revision {status.revision}",
        f"views   {', '.join(behind) or 'up to date'}",
        f"grpc    {', '.join(listen)}",
    ]
    lines += [f"found   {visible(sentence)}" for sentence in status.recovery]
    return "\n".join(lines)


def _detach(invocation: Invocation, options: DaemonArguments) -> None:
    from stigmer.daemon.lifecycle import start_detached

    store, access = options.store, options.access
    arguments = ["--data-dir", invocation.data_dir, "--durability", str(store.durability)]
    arguments += ["--addr", invocation.addr]
    for address in options.listen:
        arguments += ["--listen", address]
    arguments += ["--sync-interval", f"{store.sync_interval_ms}ms"]
    arguments += ["--segment-bytes", str(store.segment_bytes), "--value-max", str(store.value_bytes_max)]
    arguments += ["--queue-max", str(store.queue_bytes_max), "--auth", str(access.auth)]
    for name, path in (
        ("--key-file", invocation.key_file),
        ("--token-file", access.token_file),
        ("--tls-cert", access.tls_cert),
        ("--tls-key", access.tls_key),
        ("--tls-client-ca", access.tls_client_ca),
    ):
        if path is not None:
            arguments += [name, path]
    arguments += arguments_of(options.limits)
    info = start_detached(arguments, invocation.data_dir, _timeout(invocation, DETACH_SECONDS))
    invocation.say(f"daemon started: pid {info.pid}, {', '.join(info.listen)}")


def _timeout(invocation: Invocation, otherwise_seconds: float) -> float:
    chosen = invocation.setting("timeout").origin != "default"
    return invocation.timeout_seconds if chosen else otherwise_seconds


@daemon_command.command("status", cls=Command)
@pass_invocation
def daemon_status(invocation: Invocation) -> None:
    """Say whether the daemon runs, and how it is. Exit code 3: it does not run."""
    from stigmer.cli.output import rfc3339, write_record
    from stigmer.cli.units import age, counted, home_shortened, visible

    status = _status(invocation)
    if status is None:
        from stigmer.cli.exits import ExitCode, print_error

        where = (
            f"at {invocation.addr}" if _only_address(invocation) else f"on data directory {invocation.data_dir_shown}"
        )
        print_error(f"no daemon runs {where}", "stigmer daemon --detach", invocation.color)
        raise click.exceptions.Exit(ExitCode.NOT_FOUND)
    if invocation.output in ("yaml", "json", "jsonl"):
        record: dict[str, object] = {
            "version": status.version,
            "pid": status.pid,
            "started_at": rfc3339(status.started_at_ns),
            "data_dir": status.data_dir,
            "store_id": status.store_id,
            "durability": str(status.durability),
            "listen": list(status.listen),
            "revision": status.revision,
            "segments": status.segments,
            "log_bytes": status.log_bytes,
            "views_bytes": status.views_bytes,
            "generation": status.generation,
            "checkpoints": dict(sorted(status.checkpoints.items())),
            "resources": status.resources,
            "tails": status.tails,
            "recovery": list(status.recovery),
            "access": _access_record(status.access),
            "refused": dict(sorted(status.refused.items())),
        }
        write_record(record, invocation.output)
        return
    up = age(time.time() - status.started_at_ns / 1e9)
    print(f"stigmer {status.version}  pid {status.pid}  up {up}")
    holds = counted(status.resources, "resource")
    print(f"data    {home_shortened(status.data_dir)}, durability {status.durability}, {holds}")
    print(_facts(status, list(status.listen)))
    if status.access is not None:
        print(f"access  {_access_line(status.access, status.listen)}")
    print(f"tails   {status.tails}")
    if status.refused:
        refused = (
            f"{count} {visible(code).lower().replace('_', ' ')}" for code, count in sorted(status.refused.items())
        )
        print(f"refused {', '.join(refused)}; see: stigmer daemon logs")


def _access_record(access: AccessStatus | None) -> dict[str, object] | None:
    from stigmer.cli.output import rfc3339

    if access is None:
        return None
    until = access.certificate_valid_until_ns
    return {
        "auth": access.auth,
        "token_file": access.token_file or None,
        "tls": access.tls,
        "client_certificates": access.client_certificates,
        "certificate_valid_until": rfc3339(until) if until else None,
    }


def _access_line(access: AccessStatus, listen: Sequence[str]) -> str:
    """Write what is asked of callers; also where nothing is, or nobody comes over TCP."""
    from stigmer.cli.units import visible

    if all(address.startswith("unix:") for address in listen):
        return "sockets only"
    return visible(access.summary()) or "no token, no TLS"


def _only_address(invocation: Invocation) -> bool:
    return invocation.addr_was_chosen and not invocation.data_dir_was_chosen


def _status(invocation: Invocation) -> Status | None:
    """Ask the daemon that is meant; None where none runs."""
    from stigmer.cli import backend
    from stigmer.daemon.info import check_access

    address = None
    if not _only_address(invocation):
        check_access(invocation.data_dir)
        address = backend.address_of_owner(invocation.data_dir)
    if address is None and (invocation.addr_was_chosen or not invocation.data_dir_was_chosen):
        address = invocation.addr
    if address is None or not backend.answers(address):
        return None
    with backend.connected(invocation, address) as client:
        return client.status()


@daemon_command.command("stop", cls=Command)
@pass_invocation
def daemon_stop(invocation: Invocation) -> None:
    """Stop the daemon of the data directory.

    It finishes the calls that are under way, and seals the log. Where none runs there is nothing to do.
    """
    from stigmer.cli.units import home_shortened
    from stigmer.daemon.lifecycle import stop_daemon

    data_dir = invocation.data_dir
    if _only_address(invocation):
        status = _status(invocation)
        if status is None:
            invocation.say(f"no daemon runs at {invocation.addr}")
            return
        data_dir = status.data_dir
    pid = stop_daemon(data_dir, _timeout(invocation, STOP_SECONDS))
    if pid is None:
        invocation.say(f"no daemon runs on data directory {home_shortened(data_dir)}")
    else:
        invocation.say(f"daemon stopped: pid {pid}")


@daemon_command.command("logs", cls=Command)
@click.option("-f", "--follow", is_flag=True, help="Wait for more.")
@pass_invocation
def daemon_logs(invocation: Invocation, follow: bool) -> None:
    """Print what the daemon has written to its own log, DATA/daemon.log."""
    from stigmer.cli.process_log import follow_lines, read_lines
    from stigmer.cli.units import visible
    from stigmer.errors import DataDirectoryError

    path = os.path.join(invocation.data_dir, "daemon.log")
    try:
        for line in follow_lines(path) if follow else read_lines(path):
            sys.stdout.write(visible(line) + "\n")
            if follow:
                sys.stdout.flush()
    except FileNotFoundError as error:
        raise DataDirectoryError(
            invocation.data_dir_shown, "has no daemon.log: no daemon has run on it", hint="stigmer daemon --detach"
        ) from error
