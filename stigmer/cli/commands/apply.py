"""`apply`: resources from manifests."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, pass_invocation
from stigmer.errors import InvalidArgument

if TYPE_CHECKING:
    from stigmer.resources.operations import Applied, Planned


@click.command("apply", cls=Command)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    type=click.Path(),
    help="A file, a folder of files, or - for stdin. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Say what would happen; write nothing.")
@pass_invocation
def apply_command(invocation: Invocation, files: tuple[str, ...], dry_run: bool) -> None:
    """Create or update resources from manifests.

    All manifests of one call are one commit: nothing is half applied. A manifest that changes nothing makes no event.
    """
    from stigmer.cli import backend
    from stigmer.resources import manifests, operations

    wanted = manifests.load(files, sys.stdin.buffer.read)
    if not wanted:
        # Often a generator that failed in front of the pipe: success would hide it.
        raise InvalidArgument("--file", "there is no manifest in what was given; nothing was applied")
    done: list[Applied] | list[Planned]
    with backend.daemon(invocation) as store:
        if dry_run:
            done = operations.plan(store, wanted, time.time_ns())
        else:
            done = operations.apply(store, wanted, time.time_ns())
    _write(invocation, done, dry_run)


def _write(invocation: Invocation, done: list[Applied] | list[Planned], dry_run: bool) -> None:
    from stigmer.cli.output import write_records
    from stigmer.cli.units import visible

    rows: list[dict[str, object]] = []
    for one in done:
        kind = one.kind if isinstance(one.kind, str) else one.kind.name
        row: dict[str, object] = {"kind": kind, "id": one.id, "slug": one.slug, "outcome": str(one.outcome)}
        # A plan has no revision: its events are not written.
        rows.append(row | ({"dry_run": True} if dry_run else {"revision": getattr(one, "revision", 0)}))
    match invocation.output:
        case "yaml" | "json" | "jsonl" as output:
            write_records(iter(rows), output)
        case "name":
            for row in rows:
                print(visible(f"{row['kind']}/{row['id']}"))
        case _ if invocation.quiet:
            pass
        case _:
            for row in rows:
                changed = row["outcome"] != "unchanged"
                note = " (dry run)" if dry_run else f" (revision {row['revision']})" if changed else ""
                print(visible(f"{row['kind']}/{row['slug']} {row['outcome']}{note}"))
