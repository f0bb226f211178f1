"""`backup` and `restore`: a store as a directory of files, and back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, Group, pass_invocation

if TYPE_CHECKING:
    from stigmer.cli.progress import Report
    from stigmer.model import ProgressCallback


class _Backup(Group):
    """`backup DIR` makes one; `backup verify DIR` is a command."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Give the commands but for the one that nobody types."""
        return [name for name in super().list_commands(context) if name != "make"]

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take what is no command for the directory to make a backup in."""
        if arguments and self.get_command(context, arguments[0]) is None:
            return super().resolve_command(context, ["make", *arguments])
        return super().resolve_command(context, arguments)


@click.group("backup", cls=_Backup, subcommand_metavar="DIR | verify DIR")
def backup_command() -> None:
    """Copy the store into a directory, or bring the copy up to date.

    While a daemon runs and writes, too. What the directory has already is not copied again. The master key of the
    secrets is not in a backup: keep a copy of it elsewhere.
    """


@backup_command.command("make", cls=Command)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@pass_invocation
def backup_make(invocation: Invocation, directory: str) -> None:
    """Make a backup in DIR; the same as `stigmer backup DIR`."""
    from stigmer.backup.make import make
    from stigmer.cli import backend
    from stigmer.cli.output import write_record
    from stigmer.cli.progress import progress
    from stigmer.cli.units import counted, home_shortened, size, visible

    with backend.backup_source(invocation) as (point, check_hold), progress(invocation) as report:
        made = make(directory, point, check_hold, _told(report))
    manifest = made.manifest
    for note in made.notes:
        invocation.say(f"note: {visible(note)}")
    if invocation.output in ("yaml", "json", "jsonl"):
        record: dict[str, object] = {
            "directory": os.path.abspath(directory),
            "store_id": manifest.store_id,
            "revision": manifest.revision,
            "segments": len(manifest.segments),
            "artifacts": len(manifest.artifacts),
            "bytes": made.bytes,
            "bytes_copied": made.bytes_copied,
            "master_key": manifest.master_key,
            "notes": made.notes,
        }
        write_record(record, invocation.output)
        return
    parts = f"{counted(len(manifest.segments), 'segment')}, {counted(len(manifest.artifacts), 'artifact')}"
    print(
        f"backed up to revision {manifest.revision}: {parts}, {size(made.bytes)}, of which {size(made.bytes_copied)} "
        f"were copied"
    )
    if manifest.secrets is not None:
        invocation.say(f"note: the master key is not in the backup; it is in {home_shortened(manifest.master_key)}")


@backup_command.command("verify", cls=Command)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@pass_invocation
def backup_verify(invocation: Invocation, directory: str) -> None:
    """Read all of a backup and compare every checksum. Exit code 6: it is damaged."""
    from stigmer.backup.check import check
    from stigmer.cli.exits import ExitCode
    from stigmer.cli.output import write_record
    from stigmer.cli.progress import progress
    from stigmer.cli.units import counted, visible

    with progress(invocation) as report:
        checked = check(os.path.abspath(directory), _told(report))
    manifest = checked.manifest
    problems = [error.message for error in checked.problems]
    if invocation.output in ("yaml", "json", "jsonl"):
        record: dict[str, object] = {
            "store_id": manifest.store_id,
            "revision": manifest.revision,
            "frames": checked.frames,
            "artifacts": len(manifest.artifacts),
            "problems": problems,
        }
        write_record(record, invocation.output)
    else:
        found = counted(len(problems), "damaged file") if problems else "no damage"
        print(
            f"checked up to revision {manifest.revision}: {counted(checked.frames, 'frame')}, "
            f"{counted(len(manifest.artifacts), 'artifact')}, {found}"
        )
        for problem in problems:
            print(f"  {visible(problem)}")
    if problems:
        invocation.say(f"Hint: {checked.problems[0].hint}")
        raise click.exceptions.Exit(ExitCode.DAMAGE)


@click.command("restore", cls=Command)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.option("--to-revision", type=click.IntRange(min=1), metavar="N", help="End with the last whole commit up to N.")
@click.option(
    "--to-time", metavar="TIME", help="End with the last commit made up to then, such as 2026-01-31T12:00:00Z."
)
@pass_invocation
def restore_command(invocation: Invocation, directory: str, to_revision: int | None, to_time: str | None) -> None:
    """Make a new store of a backup, in a data directory that is empty.

    The directory is that of --data-dir. The store is a new one, with an id of its own: who followed the one that was
    backed up begins anew. A TIME without a zone is of this machine's.
    """
    from stigmer.backup.restore import Cut, restore
    from stigmer.cli.exits import ExitCode
    from stigmer.cli.output import write_record
    from stigmer.cli.progress import progress
    from stigmer.cli.units import counted, parse_time, visible

    if to_revision is not None and to_time is not None:
        raise click.UsageError("--to-revision and --to-time exclude each other")
    cut = Cut(to_revision, parse_time(to_time, "--to-time") if to_time is not None else None)
    with progress(invocation) as report:
        restored = restore(directory, invocation.data_dir, cut, _told(report))
    for note in restored.notes:
        invocation.say(f"note: {visible(note)}")
    problems = [error.message for error in restored.problems]
    if invocation.output in ("yaml", "json", "jsonl"):
        record: dict[str, object] = {
            "data_dir": invocation.data_dir,
            "store_id": restored.store_id,
            "revision": restored.revision,
            "backup_revision": restored.manifest.revision,
            "notes": restored.notes,
            "problems": problems,
        }
        write_record(record, invocation.output)
    else:
        print(f"restored to revision {restored.revision} in {invocation.data_dir_shown}, as store {restored.store_id}")
    if restored.manifest.secrets is not None:
        invocation.say(f"note: its secrets need the master key that was in {restored.manifest.master_key}")
    if problems:
        invocation.say(
            f"Error: the log is whole, but {counted(len(problems), 'other file')} of the backup could not be read"
        )
        for problem in problems:
            invocation.say(f"  {visible(problem)}")
        raise click.exceptions.Exit(ExitCode.DAMAGE)


def _told(report: Report) -> ProgressCallback:
    return lambda p: report(p.phase, p.completed, p.total, "bytes")
