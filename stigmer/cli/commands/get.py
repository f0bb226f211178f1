"""`get` and `list`: resources as they are now."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec

from stigmer.cli.complete import complete_kind, complete_kind_or_reference
from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, org_option, pass_invocation

if TYPE_CHECKING:
    from stigmer.cli.sources import Source
    from stigmer.model import Resource

PAGE_RESOURCES = 100
"""Asked for at a time, so that a long list of large values is never held as a whole."""


@click.command("get", cls=Command)
@click.argument(
    "arguments", nargs=-1, required=True, metavar="KIND [REF...]", shell_complete=complete_kind_or_reference
)
@org_option
@click.option("--raw", is_flag=True, help="Write the bytes of one resource's value and nothing else.")
@click.option("--version", "version", metavar="VERSION", help="Of a skill: this version, by its hash or its tag.")
@pass_invocation
def get_command(invocation: Invocation, arguments: tuple[str, ...], org: str, raw: bool, version: str | None) -> None:
    """Print resources.

    Write KIND REF..., or KIND/REF...; REF is an id or a slug. A KIND alone lists. One resource is
    printed as YAML, unless -o says otherwise.
    """
    from stigmer.cli import sources
    from stigmer.cli.references import parse_references
    from stigmer.cli.shown import find

    kind, references = parse_references(arguments, org)
    if raw and len(references) != 1:
        raise click.UsageError("--raw writes the value of one resource: name one")
    if version is not None and not references:
        raise click.UsageError("--version is of a skill: name one")
    with sources.reader(invocation) as source:
        if not references:
            _write_list(invocation, source, kind, Filter())
            return
        # All of them before the first is printed: one that is missing must not leave half an answer.
        found = [find(source, reference) for reference in references]
        if version is not None:
            found = [version_of(source, resource, version) for resource in found]
        if raw:
            value = found[0].value if source.show_secrets else _stored(source, found[0])
            sys.stdout.flush()
            sys.stdout.buffer.write(value)
            sys.stdout.buffer.flush()
            return
        output = invocation.output if invocation.output_was_chosen else "yaml"
        _write(invocation, iter(found), output, source.show_secrets, alone=len(references) == 1)


def version_of(source: Source, resource: Resource, version: str) -> Resource:
    """Give a version of a versioned resource, by its hash or its tag. Raises `NotFound`."""
    from stigmer.errors import InvalidArgument, NotFound
    from stigmer.resources import kinds, special
    from stigmer.resources.present import summary

    where = special.of(resource.kind).version_of
    if where is None:
        raise InvalidArgument("--version", f"resources of kind {resource.kind} have no versions; skills have")
    if (place := where(resource.id, version)) is None:
        return resource
    try:
        found = source.store.get(*place)
    except NotFound as error:
        message = kinds.decode(resource.kind, resource.value)
        name = (summary(message).slug if message is not None else "") or resource.id
        raise NotFound(
            resource.kind, f"{name} {version}", hint=f"see what there is: stigmer skill versions {name}"
        ) from error
    return msgspec.structs.replace(found, kind=resource.kind, id=resource.id)


def _stored(source: Source, resource: Resource) -> bytes:
    """Give a value as it is stored: its secrets sealed."""
    from stigmer.resources import sealing

    if not sealing.may_hold_secrets(resource.kind):
        return resource.value
    return source.store.get(resource.kind, resource.id).value


class Filter(NamedTuple):
    """Which resources of a kind are listed."""

    prefix: str = ""
    labels: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    phase: str = ""
    limit: int | None = None


@click.command("list", cls=Command)
@click.argument("kind", required=False, shell_complete=complete_kind)
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only with this label. Repeatable.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only with this tag. Repeatable.")
@click.option("--phase", default="", metavar="PHASE", help="Only executions in this phase, such as in-progress.")
@click.option("--prefix", default="", metavar="TEXT", help="Only ids that start with TEXT, in the order of the ids.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N resources.")
@pass_invocation
def list_command(
    invocation: Invocation,
    kind: str | None,
    labels: tuple[str, ...],
    tags: tuple[str, ...],
    phase: str,
    prefix: str,
    limit: int | None,
) -> None:
    """List the resources of a kind, or count them per kind.

    Those of the platform's kinds are listed newest first, those of others in the order of their ids.
    """
    from stigmer import names
    from stigmer.cli import sources
    from stigmer.resources import kinds

    wanted = Filter(prefix, labels, tags, phase, limit)
    if kind is None and wanted != Filter():
        raise click.UsageError("the options that choose among resources need a KIND")
    if prefix and (labels or tags or phase):
        raise click.UsageError("--prefix lists by ids: it goes with no label, tag or phase")
    stored_kind = None if kind is None else kinds.store_name(kind)
    if stored_kind is not None:
        names.check_kind(stored_kind)
        if (labels or tags or phase) and kinds.find(stored_kind) is None:
            raise click.UsageError(f"{stored_kind} is no kind of the platform: it is listed by ids alone")
    names.check_prefix(prefix)
    with sources.reader(invocation) as source:
        if stored_kind is None:
            _write_counts(invocation, source.store.count())
        else:
            _write_list(invocation, source, stored_kind, wanted)


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


def _write_list(invocation: Invocation, source: Source, kind: str, wanted: Filter) -> None:
    from stigmer.resources import kinds

    if kinds.find(kind) is not None and not wanted.prefix:
        found = _newest(source, kind, wanted)
    else:
        found = _by_ids(source, kind, wanted.prefix, wanted.limit)
    _write(invocation, found, invocation.output, source.show_secrets, alone=False, none=_none_of(kind, wanted))


def _none_of(kind: str, wanted: Filter) -> str:
    """Say that a list is empty; the store takes any kind, so a misspelt one is no error."""
    from stigmer.cli.units import visible
    from stigmer.resources import kinds

    near = kinds.near(kind)
    which = f' whose ids start with "{visible(wanted.prefix)}"' if wanted.prefix else ""
    if wanted.labels or wanted.tags or wanted.phase:
        which = f" with {visible(', '.join((*wanted.labels, *wanted.tags, *([wanted.phase] if wanted.phase else []))))}"
    return f"there are no resources of kind {kind}{which}" + (f"; did you mean {near}?" if near else "")


def _newest(source: Source, kind: str, wanted: Filter) -> Iterator[Resource]:
    """Give what is wanted of one of the platform's kinds, newest first."""
    from stigmer.cli.phases import phase_number
    from stigmer.errors import InvalidArgument

    for label in wanted.labels:
        name, equals, _ = label.partition("=")
        if not (name and equals):
            raise InvalidArgument("--label", f'"{label}" is not KEY=VALUE')
    phase = phase_number(kind, wanted.phase, "--phase") if wanted.phase else 0
    token = ""
    left = wanted.limit
    while True:
        limit = min(PAGE_RESOURCES, left or PAGE_RESOURCES)
        listed = source.resources.list(
            kind, labels=wanted.labels, tags=wanted.tags, phase=phase, limit=limit, page_token=token
        )
        yield from listed.resources
        token = listed.next_page_token
        if left is not None:
            left -= len(listed.resources)
        if not token or left == 0:
            return


def _by_ids(source: Source, kind: str, prefix: str, limit: int | None) -> Iterator[Resource]:
    """Give resources of any kind in the order of their ids."""
    token: str | None = None
    left = limit
    while True:
        page = source.store.list(kind, prefix, limit=min(PAGE_RESOURCES, left or PAGE_RESOURCES), page_token=token)
        for resource in page:
            value = source.stored_or_revealed(kind, resource.id, resource.value)
            yield msgspec.structs.replace(resource, value=value)
        token = page.next_page_token
        if left is not None:
            left -= len(page)
        if token is None or left == 0:
            return


def _write(
    invocation: Invocation,
    resources: Iterator[Resource],
    output: str,
    show_secrets: bool,
    *,
    alone: bool,
    none: str = "",
) -> None:
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
                sys.stdout.write(yaml_of(resource, show_secrets))
        case _ if alone:
            write_record(record_of(next(resources), show_secrets), output)
        case _:
            write_records((record_of(resource, show_secrets) for resource in resources), output)
