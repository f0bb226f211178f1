"""`delete`: resources that are no more wanted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from stigmer.cli.complete import complete_kind_or_reference
from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, pass_invocation

if TYPE_CHECKING:
    from stigmer.cli.backend import AnyStore
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
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_invocation
def delete_command(invocation: Invocation, arguments: tuple[str, ...], files: tuple[str, ...], yes: bool) -> None:
    """Delete resources.

    Write KIND REF..., or KIND/REF..., or name manifests with -f. All of one call is one commit. Asks first on
    a terminal, and only there.
    """
    from stigmer.cli import backend
    from stigmer.model import Delete

    if bool(arguments) == bool(files):
        raise click.UsageError("name resources (KIND REF...), or manifests with -f")
    with backend.daemon(invocation) as store:
        found = _by_manifest(store, files) if files else _by_reference(store, arguments)
        if not found:
            invocation.say("there is no manifest in what was given; nothing to do")
            return
        if not yes and sys.stdin.isatty() and sys.stderr.isatty() and not _is_wanted(found):
            invocation.say("nothing was deleted")
            raise click.exceptions.Exit(1)
        committed = store.commit([Delete(resource.kind, resource.id) for resource in found])
    _write(invocation, found, committed.first_revision)


def _by_reference(store: AnyStore, arguments: tuple[str, ...]) -> list[Resource]:
    from stigmer.cli.references import parse_references
    from stigmer.cli.shown import find

    _kind, references = parse_references(arguments)
    if not references:
        raise click.UsageError("name the resources to delete: KIND REF...")
    return _each_once([find(store, reference) for reference in references])


def _by_manifest(store: AnyStore, files: tuple[str, ...]) -> list[Resource]:
    from stigmer.resources import manifests, operations

    wanted = manifests.load(files, sys.stdin.buffer.read)
    return _each_once(
        [operations.find(store, one.kind, one.metadata.id or one.slug, one.metadata.org) for one in wanted]
    )


def _each_once(resources: list[Resource]) -> list[Resource]:
    return list({(resource.kind, resource.id): resource for resource in resources}.values())


def _is_wanted(found: list[Resource]) -> bool:
    from stigmer.cli.units import visible

    named = [visible(f"{resource.kind}/{resource.id}") for resource in found[:NAMED_MAX]]
    more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
    return click.confirm(f"Delete {', '.join(named)}{more}?", err=True)


def _write(invocation: Invocation, deleted: list[Resource], first_revision: int) -> None:
    from stigmer.cli.output import write_records
    from stigmer.cli.units import visible

    match invocation.output:
        case "yaml" | "json" | "jsonl" as output:
            records: list[dict[str, object]] = [
                {"kind": resource.kind, "id": resource.id, "revision": first_revision + index}
                for index, resource in enumerate(deleted)
            ]
            write_records(iter(records), output)
        case "name":
            for resource in deleted:
                print(visible(f"{resource.kind}/{resource.id}"))
        case _ if invocation.quiet:
            pass
        case _:
            for index, resource in enumerate(deleted):
                print(visible(f"{resource.kind}/{resource.id} deleted (revision {first_revision + index})"))
