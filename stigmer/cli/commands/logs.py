"""`logs`: what happened in an execution."""

from __future__ import annotations

import click

from stigmer.cli.complete import complete_execution
from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, pass_invocation


@click.command("logs", cls=Command)
@click.argument("arguments", nargs=-1, required=True, metavar="EXECUTION", shell_complete=complete_execution)
@click.option("-f", "--follow", is_flag=True, help="Print what comes too, until the execution has ended.")
@click.option("--full", is_flag=True, help="Print all of long results.")
@pass_invocation
def logs_command(invocation: Invocation, arguments: tuple[str, ...], follow: bool, full: bool) -> None:
    """Print what happened in an execution.

    Messages, tool calls, sub-agents and todos of an agent; tasks of a workflow. EXECUTION is an id, or KIND/REF.
    Following goes on by itself when the daemon is restarted, and prints nothing twice.
    """
    from stigmer.cli import backend, following, sources

    connect = backend.daemon if follow else backend.reader
    with connect(invocation) as store, sources.of_store(invocation, store) as source:
        found = following.find_execution(source, arguments)
        shown = following.Shown(invocation, found.kind, found.id, full=full)
        if follow:
            from stigmer.client.sync import Client

            assert isinstance(store, Client)
            following.follow(invocation, store, found.kind, found.id, shown)
            return
        shown.print(found.value)
        shown.end()
        if not shown.transcript.has_ended:
            invocation.say(f"it goes on: {invocation.command('logs', '-f', found.id)}")
