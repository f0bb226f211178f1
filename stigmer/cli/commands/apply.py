"""`apply`: resources from manifests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, pass_invocation
from stigmer.errors import InvalidArgument

if TYPE_CHECKING:
    from stigmer.client.resources import Applied, Wanted
    from stigmer.resources.manifests import Manifest


files_option = click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    type=click.Path(),
    help="A file, a folder of files, or - for stdin. Repeatable.",
)
"""The manifests of a command, which `read_manifests` reads."""


@click.command("apply", cls=Command)
@files_option
@click.option("--dry-run", is_flag=True, help="Say what would happen; write nothing.")
@pass_invocation
def apply_command(invocation: Invocation, files: tuple[str, ...], dry_run: bool) -> None:
    """Create or update resources from manifests.

    All manifests of one call are one commit: nothing is half applied. A manifest that changes nothing makes no event.
    """
    from stigmer.cli import backend

    wanted = [wanted_of(manifest) for manifest in read_manifests(files, "applied")]
    with backend.daemon(invocation) as client:
        done = client.resources.apply(wanted, dry_run=dry_run)
    _write(invocation, done, dry_run)


def read_manifests(files: tuple[str, ...], done: str) -> list[Manifest]:
    """Read the manifests of some files; raises `InvalidArgument` where there is none, and so nothing was `done`."""
    from stigmer.resources import manifests

    found = manifests.load(files, sys.stdin.buffer.read)
    if not found:
        # Often a generator that failed in front of the pipe: success would hide it.
        raise InvalidArgument("--file", f"there is no manifest in what was given; nothing was {done}")
    return found


def wanted_of(manifest: Manifest) -> Wanted:
    """Give a manifest as the client sends it."""
    from stigmer.client.resources import Wanted
    from stigmer.codec import value_bytes

    return Wanted(manifest.kind.name, value_bytes(manifest.message))


def _write(invocation: Invocation, done: list[Applied], dry_run: bool) -> None:
    from stigmer.cli.output import write_records
    from stigmer.cli.units import visible

    match invocation.output:
        case "yaml" | "json" | "jsonl" as output:
            records: list[dict[str, object]] = []
            for one in done:
                record: dict[str, object] = {"kind": one.kind, "id": one.id, "slug": one.slug, "outcome": one.outcome}
                # A plan has no revision: its events are not written.
                records.append(record | ({"dry_run": True} if dry_run else {"revision": one.revision}))
            write_records(iter(records), output)
        case "name":
            for one in done:
                print(visible(f"{one.kind}/{one.id}"))
        case _ if invocation.quiet:
            pass
        case _:
            for one in done:
                print(outcome_line(one, dry_run=dry_run))


def outcome_line(one: Applied, *, dry_run: bool = False) -> str:
    """Write what became of a resource on one line."""
    from stigmer.cli.units import visible

    changed = one.outcome != "unchanged"
    note = " (dry run)" if dry_run else f" (revision {one.revision})" if changed else ""
    return visible(f"{one.kind}/{one.slug} {one.outcome}{note}")
