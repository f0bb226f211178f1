"""Executions as a command prints and follows them.

Owns the way from the daemon's states to stdout, and what is said on stderr when the daemon is lost and found again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from stigmer.cli.invocation import Invocation
from stigmer.cli.references import Reference, parse_references
from stigmer.cli.transcript import Entry, Printer, Transcript
from stigmer.errors import NotFound
from stigmer.resources import kinds, methods

if TYPE_CHECKING:
    from stigmer.cli.sources import Source
    from stigmer.client.sync import Client
    from stigmer.model import Resource

KINDS = ("agent_execution", "workflow_execution")


def find_execution(source: Source, arguments: Sequence[str]) -> Resource:
    """Give the execution that is named by its id or slug alone, as KIND REF, or as KIND/REF. Raises `NotFound`."""
    from stigmer.cli.shown import find

    if len(arguments) == 1 and "/" not in arguments[0]:
        text = arguments[0]
        for kind in KINDS:
            try:
                return source.resources.find(kind, text)
            except NotFound:
                continue
        raise NotFound("execution", text, hint="see what is there: stigmer list agent_executions")
    _, references = parse_references(arguments)
    if len(references) != 1 or references[0].kind not in KINDS:
        raise click.UsageError("name one execution: ID, or KIND/REF")
    return find(source, Reference(*references[0]))


class Shown:
    """Prints the entries of one execution, in the format that is asked for."""

    def __init__(self, invocation: Invocation, kind: str, id: str, *, full: bool) -> None:
        from stigmer.cli.exits import colour_on

        self.transcript = Transcript(kind)
        self._kind = kind
        self._output = invocation.output
        self._printed = 0
        self._printer = Printer(
            sys.stdout.write, full=full or invocation.verbose, colour=colour_on(sys.stdout, invocation.color)
        )
        if self._output == "name":
            from stigmer.cli.units import visible

            print(visible(f"{kind}/{id}"))

    def print(self, value: bytes) -> None:
        """Print what a state has that was not printed yet."""
        message: Any = kinds.decode(self._kind, value)
        if message is None:
            return  # the daemon sends no such thing; what lies in a data directory may be anything
        for entry in self.transcript.entries(message):
            self._print(entry)
        sys.stdout.flush()  # the next state may be an hour away

    def end(self) -> None:
        """End what is printed."""
        self._printer.end()
        sys.stdout.flush()

    def _print(self, entry: Entry) -> None:
        from stigmer.cli.output import json_text, yaml_text

        match self._output:
            case "name":
                return
            case "table" | "wide":
                self._printer.print(entry)
                return
            case "yaml":
                sys.stdout.write(("---\n" if self._printed else "") + yaml_text({"entry": entry.sort} | entry.facts))
            case _:
                sys.stdout.write(json_text({"entry": entry.sort} | entry.facts, indent=None) + "\n")
        self._printed += 1


def follow(invocation: Invocation, client: Client, resource_kind: str, id: str, shown: Shown) -> None:
    """Print an execution's states as they come, until it has ended. Raises `NotFound` where it is deleted."""
    kind = kinds.find(resource_kind)
    assert kind is not None, resource_kind
    method = methods.method_of(kind, "subscribe")
    request = methods.request_with_id(method, id).SerializeToString()

    def told(is_there: bool) -> None:
        shown.end()
        if is_there:
            invocation.say("the daemon is there again; following goes on")
        else:
            invocation.say("lost the daemon; following goes on when it is there again")

    try:
        for state in client.subscribe(method.path, request, told=told):
            shown.print(state)
    except NotFound as error:
        raise NotFound(resource_kind, id, message=f"{resource_kind}/{id} was deleted") from error
    except KeyboardInterrupt:
        shown.end()
        invocation.say(f"\nresume with: {invocation.command('logs', '-f', id)}")
        raise
    finally:
        shown.end()
