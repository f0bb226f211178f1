"""`import traffic`: recordings played into the store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, Group, pass_invocation

if TYPE_CHECKING:
    from stigmer.client.sync import Client

KIND = "agent_execution"


@click.group("import", cls=Group)
def import_command() -> None:
    """Bring data in from elsewhere."""


@import_command.command("traffic", cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@click.option("--as", "execution_id", metavar="ID", help="Save under this id instead of the one in the recording.")
@pass_invocation
def import_traffic(invocation: Invocation, files: tuple[str, ...], execution_id: str | None) -> None:
    """Play recordings of what an agent runner sent, one save for each update.

    A recording is zstd-compressed: messages AgentExecutionUpdateStatusInput, each behind its length. Each save waits
    for the one before, as the runner does.
    """
    from stigmer import names
    from stigmer.cli import backend, recordings

    if execution_id is not None:
        names.check_id(execution_id, "--as")
    # All of it is read once before anything is written: for the bar, and so that a broken file changes nothing.
    totals = [recordings.check(file, named=execution_id is not None) for file in files]
    with backend.daemon(invocation) as store:
        for file, total in zip(files, totals, strict=True):
            _play(invocation, store, file, total, execution_id)


def _play(invocation: Invocation, store: Client, file: str, total: int, execution_id: str | None) -> None:
    from stigmer.cli import recordings
    from stigmer.cli.output import write_record
    from stigmer.cli.progress import progress
    from stigmer.cli.units import counted, size, visible

    started = time.monotonic()
    sent_bytes = revision = 0
    id = execution_id or ""
    execution = None
    with progress(invocation) as report:
        for number, message in enumerate(recordings.frames(file), 1):
            update = recordings.update_of(message, file, number)
            if execution is None or (execution_id is None and update.execution_id != id):
                id = execution_id or update.execution_id
                execution = recordings.new_execution(id, file)
            recordings.merge(execution, update)
            value = execution.SerializeToString(deterministic=True)
            revision = store.save(KIND, id, value)
            sent_bytes += len(value)
            report(f"import {id}", number, total, "updates")
    seconds = time.monotonic() - started
    if invocation.output in ("yaml", "json", "jsonl"):
        record: dict[str, object] = {"kind": KIND, "id": id, "updates": total, "bytes": sent_bytes}
        write_record(record | {"revision": revision, "seconds": round(seconds, 3)}, invocation.output)
    elif invocation.output == "name":
        print(f"{KIND}/{visible(id)}")
    elif not invocation.quiet:
        rate = f"{total / seconds:,.0f} updates/s, {size(int(sent_bytes / seconds))}/s"
        print(
            f"{KIND}/{visible(id)} {counted(total, 'update')}, {size(sent_bytes)}, "
            f"in {seconds:.1f} s ({rate}; revision {revision})"
        )
