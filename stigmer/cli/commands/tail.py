"""`tail`: the log as it grows."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from stigmer import names
from stigmer.cli.complete import complete_kind
from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, pass_invocation

if TYPE_CHECKING:
    from stigmer.cli.sources import Source
    from stigmer.model import Event


_DIGITS = re.compile("[0-9]{1,19}").fullmatch
"""More of them are no revision, and Python reads no number that is much longer."""


class Start(click.ParamType[int | None]):
    """A revision, or "now"."""

    name = "revision"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> int | None:
        """Give the revision; None for "now"."""
        text = str(value)
        if text == "now":
            return None
        if _DIGITS(text) is None or not 1 <= int(text) < 1 << 63:
            self.fail(f'{names.shown(text)} is neither a revision (1, 2, 3, ...) nor "now"', parameter, context)
        return int(text)


@click.command("tail", cls=Command)
@click.option(
    "--from", "start", type=Start(), default="1", metavar="N", help="The first revision to print; now: only what comes."
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="KIND",
    shell_complete=complete_kind,
    help="Only this kind. Can be repeated.",
)
@click.option("--prefix", metavar="TEXT", help="Only ids that start with TEXT.")
@click.option("--no-follow", is_flag=True, help="Stop at the last revision instead of waiting for more.")
@click.option("--values", is_flag=True, help="With -o yaml, json or jsonl: print the values too.")
@pass_invocation
def tail_command(
    invocation: Invocation, start: int | None, kinds: tuple[str, ...], prefix: str | None, no_follow: bool, values: bool
) -> None:
    """Print the log, and follow it.

    One line for each event. Every line has its revision, so any line can be resumed from. Ctrl-C stops, and says how
    to resume.
    """
    from stigmer.cli import backend, sources
    from stigmer.errors import InvalidArgument
    from stigmer.resources import kinds as known_kinds

    # Reading to the end needs no daemon; waiting for more does.
    connect = backend.reader if no_follow else backend.daemon
    stored_kinds = [known_kinds.store_name(kind) for kind in kinds] or None
    for kind in kinds:
        if near := known_kinds.near(kind):
            invocation.say(f"{names.shown(kind)} is no kind of the platform; did you mean {near}?")
    with connect(invocation) as store, sources.of_store(invocation, store) as source:
        last = store.status().revision
        after = last if start is None else start - 1
        if after > last:
            raise InvalidArgument(
                "--from",
                f"{start} is beyond the end of the log, which is at revision {last}",
                hint="for what comes: stigmer tail --from now",
            )
        printer = _Printer(invocation, source, values)
        next_revision = after + 1
        try:
            events: Iterator[Event] = store.tail(after, kinds=stored_kinds, prefix=prefix, follow=not no_follow)
            for event in events:
                printer.print(event)
                next_revision = event.revision + 1
        except KeyboardInterrupt:
            _say_how_to_resume(invocation, next_revision, kinds, prefix)
            raise


def _say_how_to_resume(invocation: Invocation, revision: int, kinds: tuple[str, ...], prefix: str | None) -> None:
    words = ["tail", "--from", str(revision)]
    for kind in kinds:
        words += ["--kind", kind]
    if prefix:
        words += ["--prefix", prefix]
    invocation.say(f"\nresume with: {invocation.command(*words)}")


class _Printer:
    """Prints events as they come: in a table whose columns have a fixed width, or as a stream of objects."""

    def __init__(self, invocation: Invocation, source: Source, values: bool) -> None:
        self._source = source
        # A stream is one object a line: `-o json` can not be a list that never ends.
        self._output = "jsonl" if invocation.output == "json" else invocation.output
        self._values = values
        self._printed = 0

    def print(self, event: Event) -> None:
        match self._output:
            case "name":
                line = f"{event.kind}/{event.id}\n"
            case "table" | "wide":
                line = self._row(event)
            case _:
                line = self._record(event)
        sys.stdout.write(line)
        sys.stdout.flush()  # the next event may be an hour away
        self._printed += 1

    def _row(self, event: Event) -> str:
        from stigmer.cli.output import rfc3339
        from stigmer.cli.units import size, visible

        if self._output == "wide":
            when, width = rfc3339(event.time_ns), 30
        else:
            when, width = event.time.astimezone().strftime("%H:%M:%S.%f")[:-3], 12
        header = ""
        if self._printed == 0:
            header = f"{'REVISION':<10}  {'TIME':<{width}}  {'CHANGE':<6}  {'SIZE':<9}  RESOURCE\n"
        amount = size(len(event.value)) if event.op == "save" else "-"
        resource = visible(f"{event.kind}/{event.id}")
        return f"{header}{event.revision:<10}  {when:<{width}}  {event.op:<6}  {amount:<9}  {resource}\n"

    def _record(self, event: Event) -> str:
        from stigmer.cli.output import json_text, rfc3339, yaml_text

        record: dict[str, object] = {
            "revision": event.revision,
            "time": rfc3339(event.time_ns),
            "change": str(event.op),
            "kind": event.kind,
            "id": event.id,
            "size": len(event.value),
        }
        if self._values and event.op == "save":
            from stigmer.cli.shown import event_value_shown

            record |= event_value_shown(self._source, event)
        if self._output == "yaml":
            return ("---\n" if self._printed else "") + yaml_text(record)
        return json_text(record, indent=None) + "\n"
