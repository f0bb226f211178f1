"""`log info`, `log segments`, `log cat`: what is on disk; `log repair`, where that is damaged."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import click

from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, Group, pass_invocation

if TYPE_CHECKING:
    from stigmer.log.repair import Lost


@click.group("log", cls=Group)
def log_command() -> None:
    """Look inside the log."""


@log_command.command("info", cls=Command)
@pass_invocation
def log_info(invocation: Invocation) -> None:
    """Print how large the log is, where it ends and how far the views are.

    "saved" says how many more bytes it would have if large values were not stored as what is new in them.
    """
    from stigmer.cli import backend
    from stigmer.cli.output import write_record
    from stigmer.cli.units import counted, home_shortened, size

    with backend.reader(invocation) as store:
        status = store.status()
    if invocation.output in ("yaml", "json", "jsonl"):
        record: dict[str, object] = {
            "store_id": status.store_id,
            "data_dir": status.data_dir,
            "revision": status.revision,
            "segments": status.segments,
            "log_bytes": status.log_bytes,
            "log_saved_bytes": status.log_saved_bytes,
            "views_bytes": status.views_bytes,
            "generation": status.generation,
            "checkpoints": dict(sorted(status.checkpoints.items())),
            "resources": status.resources,
            "durability": str(status.durability),
            "recovery": list(status.recovery),
        }
        write_record(record, invocation.output)
        return
    behind = {name: at for name, at in sorted(status.checkpoints.items()) if at != status.revision}
    views = ", ".join(f"{name} at {at}" for name, at in behind.items()) or "up to date"
    print(f"store     {status.store_id}")
    print(f"data      {home_shortened(status.data_dir)}")
    print(f"log       {counted(status.segments, 'segment')}, {size(status.log_bytes)}, revision {status.revision}")
    if status.log_saved_bytes:
        whole = status.log_bytes + status.log_saved_bytes
        print(f"saved     {size(status.log_saved_bytes)} by deltas: {size(status.log_bytes)} for {size(whole)}")
    print(f"views     generation {status.generation}, {size(status.views_bytes)}, {views}")
    print(f"holds     {counted(status.resources, 'resource')}")
    for sentence in status.recovery:
        print(f"recovery  {sentence}")


@log_command.command("segments", cls=Command)
@pass_invocation
def log_segments(invocation: Invocation) -> None:
    """List the files of the log."""
    from stigmer.cli import backend
    from stigmer.cli.output import rfc3339, table, write_records
    from stigmer.cli.units import age, size

    with backend.reader(invocation) as store:
        segments = store.segments()
    match invocation.output:
        case "name":
            for segment in segments:
                print(segment.name)
        case "table" | "wide":
            table(
                ("NAME", "FIRST", "LAST", "SIZE", "SAVED", "STATE", "AGE"),
                [
                    (
                        segment.name,
                        segment.first_revision,
                        segment.last_revision or "-",
                        size(segment.bytes),
                        size(segment.saved_bytes) if segment.saved_bytes else "-",
                        "sealed" if segment.sealed else "active",
                        age(time.time() - segment.created_at_ns / 1e9),
                    )
                    for segment in segments
                ],
            )
        case output:
            records: list[dict[str, object]] = [
                {
                    "name": segment.name,
                    "first_revision": segment.first_revision,
                    "last_revision": segment.last_revision,
                    "bytes": segment.bytes,
                    "saved_bytes": segment.saved_bytes,
                    "sealed": segment.sealed,
                    "created_at": rfc3339(segment.created_at_ns),
                }
                for segment in segments
            ]
            write_records(iter(records), output)


@log_command.command("cat", cls=Command)
@click.argument("revision", type=click.IntRange(min=1))
@pass_invocation
def log_cat(invocation: Invocation, revision: int) -> None:
    """Print the frame that holds REVISION: its place on disk, its header, and its events."""
    from stigmer.cli import sources
    from stigmer.cli.output import rfc3339, write_record
    from stigmer.cli.shown import event_value_shown
    from stigmer.codec import decode_commit, event_of

    with sources.reader(invocation) as source:
        frame = source.store.frame(revision)
        commit = decode_commit(frame.payload)
        events: list[dict[str, object]] = []
        for index, stored in enumerate(commit.events):
            event = event_of(stored, frame.first_revision + index, frame.time_ns)
            shown: dict[str, object] = {
                "revision": event.revision,
                "change": str(event.op),
                "kind": event.kind,
                "id": event.id,
            }
            if stored.HasField("expected_revision"):
                shown["expected_revision"] = stored.expected_revision
            if event.op == "save":
                shown["size"] = len(event.value)
                shown |= event_value_shown(source, event)
            events.append(shown)
    record: dict[str, object] = {
        "segment": frame.segment,
        "offset": frame.offset,
        "bytes": frame.bytes,
        "first_revision": frame.first_revision,
        "event_count": frame.event_count,
        "group_first_revision": frame.group_first_revision,
        "time": rfc3339(frame.time_ns),
        "flags": f"{frame.flags:#010x}",
        "payload_crc32c": f"{frame.payload_crc32c:08x}",
        "codec": frame.codec,
        "payload_bytes": frame.payload_bytes,
    }
    if frame.base_revision:
        record |= {"base_revision": frame.base_revision, "depth": frame.depth}
    if commit.request_id:
        record["request_id"] = commit.request_id
    record["events"] = events
    write_record(record, invocation.output if invocation.output in ("json", "jsonl") else "yaml")


@log_command.command("repair", cls=Command)
@click.option(
    "--accept-loss",
    "accepted",
    multiple=True,
    metavar="FROM..TO",
    help="Give these revisions up: exactly those that it says are lost. Repeatable.",
)
@pass_invocation
def log_repair(invocation: Invocation, accepted: tuple[str, ...]) -> None:
    """Say what is damaged in a log that does not open, and repair it on request.

    Without options nothing is changed but an unfinished write at the end, which is cut off and kept, as at any open.
    A segment from a backup is better than any repair. Exit code 6: it is damaged still.
    """
    from stigmer.cli.exits import ExitCode
    from stigmer.cli.output import write_record
    from stigmer.cli.progress import progress
    from stigmer.cli.units import counted, home_shortened, visible
    from stigmer.repair import repair

    with progress(invocation) as report:
        found = repair(
            invocation.data_dir,
            [_range_of(text) for text in accepted],
            lambda p: report(p.phase, p.completed, p.total, "segments"),
        )
    if invocation.output in ("yaml", "json", "jsonl"):
        record: dict[str, object] = {
            "damages": [
                {
                    "path": damage.error.path,
                    "offset": damage.error.offset,
                    "revision": damage.error.revision,
                    "problem": damage.error.problem,
                    "lost": str(damage.lost) if damage.lost is not None else None,
                }
                for damage in found.damages
            ],
            "lost": [str(lost) for lost in found.lost],
            "whole": found.is_whole,
            "revision": found.revision,
            "kept": found.kept,
            "notes": found.notes,
        }
        write_record(record, invocation.output)
    else:
        for damage in found.damages:
            lost = f"lost: {damage.lost}" if damage.lost is not None else "no commit is lost"
            print(f"{visible(damage.error.message)}; {lost}")
        for note in found.notes:
            print(visible(note))
        if found.kept is not None:
            print(f"the originals are in {home_shortened(found.kept)}")
        if found.is_whole:
            print(f"the log is whole, up to revision {found.revision}")
        else:
            count = sum(lost.last - lost.first + 1 for lost in found.lost)
            print(f"{counted(count, 'revision')} lost, nothing was changed")
    if not found.is_whole:
        options = " ".join(f"--accept-loss {lost}" for lost in found.lost)
        invocation.say(
            f"Hint: put the damaged segments back from a backup; or, to go on without what is lost: "
            f"stigmer log repair {options}"
        )
        raise click.exceptions.Exit(ExitCode.DAMAGE)


def _range_of(text: str) -> Lost:
    from stigmer.errors import InvalidArgument
    from stigmer.log.repair import Lost

    found = re.fullmatch(r"([1-9][0-9]{0,18})\.\.([1-9][0-9]{0,18})", text, re.ASCII)
    if found is None or int(found[1]) > int(found[2]):
        raise InvalidArgument("--accept-loss", f'"{text}" is not a range of revisions, such as 17..21')
    return Lost(int(found[1]), int(found[2]))
