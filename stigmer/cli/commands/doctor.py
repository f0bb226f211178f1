"""`doctor`: what is wrong, and what helps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, pass_invocation

if TYPE_CHECKING:
    from stigmer.doctor import Finding


@click.command("doctor", cls=Command)
@pass_invocation
def doctor_command(invocation: Invocation) -> None:
    """Look whether the installation, the data directory and the daemon are well.

    A line for each thing: ok, warn or fail, with the cure. Changes nothing. Exit code 1: something fails.
    """
    from stigmer.cli import backend
    from stigmer.cli.exits import ExitCode
    from stigmer.cli.output import write_records
    from stigmer.doctor import Level, Subject, examine

    subject = Subject(
        data_dir=invocation.data_dir,
        addr=invocation.addr,
        key_file=invocation.key_file,
        environ=invocation.environ,
        answers=lambda address: backend.answers(address, min(backend.PROBE_SECONDS, invocation.timeout_seconds)),
        connect=lambda address: backend.connected(invocation, address),
    )
    failed = False
    found: list[Finding] = []
    for finding in examine(subject):
        failed = failed or finding.level is Level.FAIL
        if invocation.output in ("yaml", "json", "jsonl"):
            found.append(finding)
        else:
            _print(finding, invocation.quiet)
    if found:
        records: list[dict[str, object]] = [
            {"check": one.check, "level": str(one.level), "found": one.found, "cure": one.cure or None} for one in found
        ]
        write_records(iter(records), invocation.output)
    if failed:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _print(finding: Finding, is_quiet: bool) -> None:
    from stigmer.cli.units import home_shortened, visible

    if is_quiet and finding.level == "ok":
        return
    text = visible(finding.found)
    home = os.path.expanduser("~")
    print(f"{finding.level:<5} {finding.check:<12} {home_shortened(text) if text.startswith(home) else text}")
    if finding.cure:
        print(f"{'':<18} cure: {visible(finding.cure)}")
