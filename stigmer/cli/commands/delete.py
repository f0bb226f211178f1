"""`delete`: resources that are no more wanted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from stigmer.cli.complete import complete_kind_or_reference
from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, org_option, pass_invocation
from stigmer.errors import InvalidArgument

if TYPE_CHECKING:
    from stigmer.cli.sources import Source
    from stigmer.client.resources import Deleted
    from stigmer.client.sync import Client
    from stigmer.model import Resource

NAMED_MAX = 10
"""So many are named when it is asked whether to delete them."""


@click.command("delete", cls=Command)
@click.argument("arguments", nargs=-1, metavar="[KIND REF...]", shell_complete=complete_kind_or_reference)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE|DIR|-",
    type=click.Path(),
    help="Delete what these manifests name. Repeatable.",
)
@org_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_invocation
def delete_command(
    invocation: Invocation, arguments: tuple[str, ...], files: tuple[str, ...], org: str, yes: bool
) -> None:
    """Delete resources.

    Write KIND REF..., or KIND/REF..., or name manifests with -f. What hangs on a resource goes with it: the instances
    of an agent, their sessions, the executions of these. All of one call is one commit. Asks first on a terminal, and
    only there.
    """
    from stigmer.cli import backend, sources
    from stigmer.resources import kinds

    if bool(arguments) == bool(files):
        raise click.UsageError("name resources (KIND REF...), or manifests with -f")
    if org and files:
        raise click.UsageError("--org goes with KIND REF...: a manifest says its own organization")
    with backend.daemon(invocation) as client, sources.of_store(invocation, client) as source:
        found = _by_manifest(source, files) if files else _by_reference(source, arguments, org)
        if not found:
            invocation.say("there is no manifest in what was given; nothing to do")
            return
        targets = [(resource.kind, resource.id) for resource in found]
        known = [kinds.find(kind) is not None for kind, _ in targets]
        if any(known) and not all(known):
            raise InvalidArgument(
                "KIND",
                "resources of the platform's kinds and of others cannot be deleted in one commit",
                hint="delete them in two calls",
            )
        if not yes and sys.stdin.isatty() and sys.stderr.isatty() and not _is_wanted(client, targets, all(known)):
            invocation.say("nothing was deleted")
            raise click.exceptions.Exit(1)
        deleted = client.resources.delete(targets) if all(known) else _delete_plainly(client, targets)
    _write(invocation, deleted)


def _by_reference(source: Source, arguments: tuple[str, ...], org: str) -> list[Resource]:
    from stigmer.cli.references import parse_references
    from stigmer.cli.shown import find

    _kind, references = parse_references(arguments, org)
    if not references:
        raise click.UsageError("name the resources to delete: KIND REF...")
    return _each_once([find(source, reference) for reference in references])


def _by_manifest(source: Source, files: tuple[str, ...]) -> list[Resource]:
    from stigmer.resources import manifests

    return _each_once(
        [
            # An id says all; the organization beside it may be one that is to be.
            source.resources.find(
                one.kind.name, one.metadata.id or one.slug, "" if one.metadata.id else one.metadata.org
            )
            for one in manifests.load(files, sys.stdin.buffer.read)
        ]
    )


def _each_once(resources: list[Resource]) -> list[Resource]:
    return list({(resource.kind, resource.id): resource for resource in resources}.values())


def _delete_plainly(client: Client, targets: Sequence[tuple[str, str]]) -> list[Deleted]:
    """Delete resources of kinds that only the store knows: nothing hangs on these."""
    from stigmer.client.resources import Deleted
    from stigmer.model import Delete

    committed = client.commit([Delete(kind, id) for kind, id in targets])
    revisions = range(committed.first_revision, committed.last_revision + 1)
    return [Deleted(kind, id, "", revision, True) for (kind, id), revision in zip(targets, revisions, strict=True)]


def _is_wanted(client: Client, targets: Sequence[tuple[str, str]], known: bool) -> bool:
    """Ask whether resources are to be deleted, with what would go along."""
    planned = client.resources.delete(targets, dry_run=True) if known else []
    along = [(one.kind, one.id) for one in planned if not one.is_target]
    with_them = f", and with {'it' if len(targets) == 1 else 'them'} {_named(along)}" if along else ""
    return click.confirm(f"Delete {_named(targets)}{with_them}?", err=True)


def _named(resources: Sequence[tuple[str, str]]) -> str:
    from stigmer.cli.units import visible

    named = ", ".join(visible(f"{kind}/{id}") for kind, id in resources[:NAMED_MAX])
    return named + (f" and {len(resources) - NAMED_MAX} more" if len(resources) > NAMED_MAX else "")


def _write(invocation: Invocation, deleted: list[Deleted]) -> None:
    from stigmer.cli.output import write_records
    from stigmer.cli.units import visible

    match invocation.output:
        case "yaml" | "json" | "jsonl" as output:
            records: list[dict[str, object]] = [
                {"kind": one.kind, "id": one.id, "revision": one.revision, "named": one.is_target} for one in deleted
            ]
            write_records(iter(records), output)
        case "name":
            for one in deleted:
                print(visible(f"{one.kind}/{one.id}"))
        case _ if invocation.quiet:
            pass
        case _:
            for one in deleted:
                print(visible(f"{one.kind}/{one.id} deleted (revision {one.revision})"))
