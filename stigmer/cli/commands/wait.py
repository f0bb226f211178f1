"""`wait`: until a resource is as one wants it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import click

from stigmer.cli.complete import complete_kind_or_reference
from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, org_option, pass_invocation
from stigmer.errors import Closed, DeadlineExceeded, InvalidArgument, NotFound, OutcomeUnknown, StigmerError

if TYPE_CHECKING:
    from stigmer.cli.references import Reference
    from stigmer.cli.sources import Source
    from stigmer.client.sync import Client


@click.command("wait", cls=Command)
@click.argument("arguments", nargs=-1, required=True, metavar="KIND REF", shell_complete=complete_kind_or_reference)
@click.option(
    "--for",
    "condition",
    required=True,
    metavar="phase=PHASE|deleted",
    help="What to wait for: a phase of an execution, or that the resource is gone.",
)
@org_option
@pass_invocation
def wait_command(invocation: Invocation, arguments: tuple[str, ...], condition: str, org: str) -> None:
    """Wait until an execution is in a phase, or a resource is deleted.

    For as long as it takes, unless --timeout is given. Exit code 0: it is so; 1: the execution has ended in another
    phase; 5: the time was up.
    """
    from stigmer.cli import backend, sources
    from stigmer.cli.phases import phase_number
    from stigmer.cli.references import parse_references
    from stigmer.cli.units import visible

    _, references = parse_references(arguments, org)
    if len(references) != 1:
        raise click.UsageError("name one resource: KIND REF, or KIND/REF")
    (reference,) = references
    name, _, value = condition.partition("=")
    if condition != "deleted" and (name != "phase" or not value):
        raise InvalidArgument("--for", f'"{condition}" is neither phase=PHASE nor deleted')
    phase = phase_number(reference.kind, value, "--for") if name == "phase" else 0
    chosen = invocation.setting("timeout").origin != "default"
    seconds = invocation.timeout_seconds if chosen else None
    with backend.daemon(invocation) as client, sources.of_store(invocation, client) as source:
        if phase:
            said = _wait_for_phase(client, source, reference, phase, seconds)
        else:
            said = _wait_for_deletion(client, source, reference, seconds)
    if not invocation.quiet:
        print(visible(said))


def _wait_for_phase(client: Client, source: Source, reference: Reference, wanted: int, seconds: float | None) -> str:
    from stigmer.cli.phases import phase_name
    from stigmer.cli.shown import find
    from stigmer.resources import kinds, methods

    found = find(source, reference)
    kind = kinds.find(found.kind)
    assert kind is not None
    what = f"{found.kind}/{found.id}"
    method = methods.method_of(kind, "subscribe")
    request = methods.request_with_id(method, found.id).SerializeToString()
    now = 0
    # The states end with the one in which the execution does.
    try:
        for state in client.subscribe(method.path, request, timeout=seconds):
            message: Any = kinds.parsed(kind, found.id, state)
            now = message.status.phase
            if now == wanted:
                return f"{what} {phase_name(found.kind, now)}"
    except NotFound as error:
        raise NotFound(found.kind, found.id, message=f"{what} was deleted while it was waited for") from error
    except OutcomeUnknown as error:
        if seconds is None:
            raise
        raise DeadlineExceeded(
            f"{what} is {phase_name(found.kind, now)}, not {phase_name(found.kind, wanted)}, after {seconds:g} s"
        ) from error
    reason = f": {message.status.error}" if message.status.error else ""
    raise StigmerError(
        f"{what} has ended {phase_name(found.kind, now)}, not {phase_name(found.kind, wanted)}{reason}",
        hint=f"see what happened: stigmer logs {found.id}",
    )


def _wait_for_deletion(client: Client, source: Source, reference: Reference, seconds: float | None) -> str:
    from stigmer.cli.shown import find
    from stigmer.model import Op

    # Before it is looked at, so that a deletion after the look is in the tail.
    revision = client.status().revision
    try:
        found = find(source, reference)
    except NotFound:
        return f"{reference.kind}/{reference.text} is not there"
    what = f"{found.kind}/{found.id}"
    # A tail has no deadline of its own.
    timer = threading.Timer(seconds, client.close) if seconds is not None else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        for event in client.tail(revision, kinds=[found.kind], prefix=found.id):
            if event.id == found.id and event.op is Op.DELETE:
                break
    except Closed as error:
        raise DeadlineExceeded(f"{what} is still there after {seconds:g} s") from error
    finally:
        if timer is not None:
            timer.cancel()
    return f"{what} deleted"
