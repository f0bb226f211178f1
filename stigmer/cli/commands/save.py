"""`save`: any bytes under a kind and an id, without rules."""

from __future__ import annotations

import os
import sys

import click

from stigmer.cli.complete import complete_kind
from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, pass_invocation


@click.command("save", cls=Command)
@click.argument("kind", shell_complete=complete_kind)
@click.argument("id")
@click.option(
    "-f", "--file", "file", required=True, metavar="FILE", type=click.Path(), help="The value: a file, or - for stdin."
)
@click.option(
    "--expected-revision",
    type=click.IntRange(min=0),
    metavar="N",
    help="Only if the resource's revision is N; 0: only if it does not exist.",
)
@pass_invocation
def save_command(invocation: Invocation, kind: str, id: str, file: str, expected_revision: int | None) -> None:
    """Save the bytes of a file as KIND/ID.

    The kind may be any name; the bytes are kept as they are and no rule is checked. For manifests, use
    `stigmer apply`.
    """
    from stigmer import config, names
    from stigmer.cli.backend import daemon
    from stigmer.cli.output import write_record
    from stigmer.resources import kinds

    stored_kind = kinds.store_name(kind)
    names.check_kind(stored_kind)
    names.check_id(id)
    value = read_bytes(file, config.COMMIT_BYTES_MAX)
    with daemon(invocation) as store:
        revision = store.save(stored_kind, id, value, expected_revision=expected_revision)
    if invocation.output in ("yaml", "json", "jsonl"):
        write_record({"kind": stored_kind, "id": id, "revision": revision}, invocation.output)
    elif invocation.output == "name":
        print(f"{stored_kind}/{id}")
    elif not invocation.quiet:
        print(f"{stored_kind}/{id} saved (revision {revision})")


def read_bytes(file: str, bytes_max: int) -> bytes:
    """Read a file, or stdin for "-". Raises `InvalidArgument` where there is more, which may have no end."""
    from stigmer.cli.units import size
    from stigmer.errors import InvalidArgument

    if file == "-":
        content = sys.stdin.buffer.read(bytes_max + 1)
    else:
        with open(os.path.expanduser(file), "rb") as opened:
            content = opened.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise InvalidArgument(file, f"is larger than {size(bytes_max)}, the most that is taken")
    return content
