"""`get` and `list`: resources as they are now."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from stigmer.cli.complete import complete_kind, complete_kind_or_reference
from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, pass_invocation

if TYPE_CHECKING:
    from stigmer.cli.backend import AnyStore
    from stigmer.model import Resource

PAGE_RESOURCES = 100
"""Asked for at a time, so that a long list of large values is never held as a whole."""


@click.command("get", cls=Command)
@click.argument(
    "arguments", nargs=-1, required=True, metavar="KIND [REF...]", shell_complete=complete_kind_or_reference
)
@click.option("--raw", is_flag=True, help="Write the bytes of one resource's value and nothing else.")
@pass_invocation
def get_command(invocation: Invocation, arguments: tuple[str, ...], raw: bool) -> None:
    """Print resources.

    Write KIND REF..., or KIND/REF...; REF is an id or a slug. A KIND alone lists. One resource is
    printed as YAML, unless -o says otherwise.
    """
    from stigmer.cli import backend
    from stigmer.cli.references import parse_references
    from stigmer.cli.shown import find

    kind, references = parse_references(arguments)
    if raw and len(references) != 1:
        raise click.UsageError("--raw writes the value of one resource: name one")
    with backend.reader(invocation) as store:
        if not references:
            _write_list(invocation, store, kind, "", None)
            return
        # All of them before the first is printed: one that is missing must not leave half an answer.
        found = [find(store, reference) for reference in references]
        if raw:
            sys.stdout.flush()
            sys.stdout.buffer.write(found[0].value)
            sys.stdout.buffer.flush()
            return
        output = invocation.output if invocation.output_was_chosen else "yaml"
        _write(invocation, iter(found), output, alone=len(references) == 1)


@click.command("list", cls=Command)
@click.argument("kind", required=False, shell_complete=complete_kind)
@click.option("--prefix", default="", metavar="TEXT", help="Only ids that start with TEXT.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N resources.")
@pass_invocation
def list_command(invocation: Invocation, kind: str | None, prefix: str, limit: int | None) -> None:
    """List the resources of a kind, or count them per kind.

    They are listed in the order of their ids.
    """
    from stigmer import names
    from stigmer.cli import backend
    from stigmer.resources import kinds

    if kind is None and (prefix or limit is not None):
        raise click.UsageError("--prefix and --limit need a KIND")
    stored_kind = None if kind is None else kinds.store_name(kind)
    if stored_kind is not None:
        names.check_kind(stored_kind)
    names.check_prefix(prefix)
    with backend.reader(invocation) as store:
        if stored_kind is None:
            _write_counts(invocation, store.count())
        else:
            _write_list(invocation, store, stored_kind, prefix, limit)


def _write_counts(invocation: Invocation, counts: dict[str, int]) -> None:
    from stigmer.cli.output import table, write_records

    rows = sorted((kind, count) for kind, count in counts.items() if count)
    match invocation.output:
        case "table" | "wide":
            if rows:
                table(("KIND", "COUNT"), rows)
            else:
                invocation.say("there are no resources yet; try: stigmer apply -f examples/")
        case "name":
            for kind, _count in rows:
                print(kind)
        case output:
            write_records(({"kind": kind, "count": count} for kind, count in rows), output)


def _write_list(invocation: Invocation, store: AnyStore, kind: str, prefix: str, limit: int | None) -> None:
    found = _all_of(store, kind, prefix, limit)
    _write(invocation, found, invocation.output, alone=False, none=_none_of(kind, prefix))


def _none_of(kind: str, prefix: str) -> str:
    """Say that a list is empty; the store takes any kind, so a misspelt one is no error."""
    from stigmer.cli.units import visible
    from stigmer.resources import kinds

    near = kinds.near(kind)
    below = f' whose ids start with "{visible(prefix)}"' if prefix else ""
    return f"there are no resources of kind {kind}{below}" + (f"; did you mean {near}?" if near else "")


def _all_of(store: AnyStore, kind: str, prefix: str, limit: int | None) -> Iterator[Resource]:
    token: str | None = None
    left = limit
    while True:
        page = store.list(kind, prefix, limit=min(PAGE_RESOURCES, left or PAGE_RESOURCES), page_token=token)
        yield from page
        token = page.next_page_token
        if left is not None:
            left -= len(page)
        if token is None or left == 0:
            return


def _write(invocation: Invocation, resources: Iterator[Resource], output: str, *, alone: bool, none: str = "") -> None:
    from stigmer.cli.output import table, write_record, write_records
    from stigmer.cli.shown import HEADERS, HEADERS_WIDE, record_of, row_of, yaml_of
    from stigmer.cli.units import visible

    match output:
        case "name":
            for resource in resources:
                print(visible(f"{resource.kind}/{resource.id}"))
        case "table" | "wide":
            wide = output == "wide"
            now = time.time()
            rows = [row_of(resource, now, wide=wide) for resource in resources]
            if rows:
                table(HEADERS_WIDE if wide else HEADERS, rows)
            else:
                invocation.say(none)
        case "yaml":
            for index, resource in enumerate(resources):
                sys.stdout.write("---\n" if index else "")
                sys.stdout.write(yaml_of(resource, invocation.show_secrets))
        case _ if alone:
            write_record(record_of(next(resources), invocation.show_secrets), output)
        case _:
            write_records((record_of(resource, invocation.show_secrets) for resource in resources), output)
