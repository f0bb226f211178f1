"""The options of `stigmer daemon` that say how much it takes of its callers: each sets one field of `config.Limits`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from stigmer.config import Limits

F = TypeVar("F", bound=Callable[..., Any])


class _Row(NamedTuple):
    option: str
    field: str
    takes: str
    """SIZE, TIME or COUNT."""
    help: str


_ROWS = (
    _Row("--request-max", "request_bytes_max", "SIZE", "The largest message of a request; 101MiB."),
    _Row("--metadata-max", "metadata_bytes_max", "SIZE", "The metadata of a call; 16KiB."),
    _Row("--calls-max", "calls_max", "COUNT", "Calls at a time, over TCP, and as many over sockets; 4000."),
    _Row("--tails-max", "tails_max", "COUNT", "Tails at a time; 1000."),
    _Row("--subscribers-max", "subscribers_max", "COUNT", "Subscribers at a time; 2000."),
    _Row("--connections-max", "connections_max", "COUNT", "Connections to one address; 10000, if files allow."),
    _Row("--connection-calls-max", "connection_calls_max", "COUNT", "Calls at a time on one connection; 2000."),
    _Row("--idle-timeout", "idle_seconds", "TIME", "Close a connection without calls after this time; 10m."),
    _Row("--handshake-timeout", "handshake_seconds", "TIME", "How long a connection may take to begin; 10s."),
    _Row("--ping-interval-min", "ping_interval_seconds", "TIME", "Send away who pings more often; 10s."),
)


def limit_options(command: F) -> F:
    """Add the options to a command; it gets them by their names, as they were typed."""
    for row in reversed(_ROWS):
        kind = int if row.takes == "COUNT" else str
        command = click.option(row.option, type=kind, metavar=row.takes, help=row.help)(command)
    return command


def limits_of(given: Mapping[str, str | int | None]) -> Limits:
    """Make the limits of what was typed. Raises `InvalidArgument` naming an option."""
    from stigmer.cli.units import parse_duration, parse_size
    from stigmer.config import Limits
    from stigmer.errors import InvalidArgument

    fields: dict[str, Any] = {}
    for row in _ROWS:
        value = given[row.option.removeprefix("--").replace("-", "_")]
        if value is None:
            continue
        if isinstance(value, str):
            fields[row.field] = (parse_duration if row.takes == "TIME" else parse_size)(value, row.option)
        else:
            fields[row.field] = value
    try:
        return Limits(**fields).checked()
    except InvalidArgument as error:
        option = next(row.option for row in _ROWS if row.field == error.field)
        raise InvalidArgument(option, error.problem, hint=error.hint) from error


def arguments_of(limits: Limits) -> list[str]:
    """Write limits as they would be typed."""
    arguments = []
    for row in _ROWS:
        value = getattr(limits, row.field)
        arguments += [row.option, f"{round(value * 1000)}ms" if row.takes == "TIME" else str(value)]
    return arguments
