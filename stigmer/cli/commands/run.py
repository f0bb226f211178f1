"""`run`: an execution of an agent or a workflow, from its creation to its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from stigmer.cli.complete import complete_kind_or_reference
from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, org_option, pass_invocation, text_of
from stigmer.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from stigmer.cli.sources import Source
    from stigmer.model import Resource

BEGIN = "Begin."
"""What an agent is told where no message is given: an execution needs one."""


@click.command("run", cls=Command)
@click.argument("arguments", nargs=-1, required=True, metavar="REF", shell_complete=complete_kind_or_reference)
@click.option("-m", "--message", metavar="TEXT", help="What the agent is asked, or what triggers the workflow.")
@click.option("-e", "--env", "variables", multiple=True, metavar="KEY=VALUE", help="A value for this run. Repeatable.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="KEY[=VALUE]",
    help="A secret for this run; without VALUE, that of the environment variable. Repeatable.",
)
@org_option
@click.option("--session", metavar="ID", help="Go on in this session of the agent instead of a new one.")
@click.option("-d", "--detach", is_flag=True, help="Return when the execution is created.")
@click.option("--full", is_flag=True, help="Print all of long results.")
@pass_invocation
def run_command(
    invocation: Invocation,
    arguments: tuple[str, ...],
    message: str | None,
    variables: tuple[str, ...],
    secrets: tuple[str, ...],
    org: str,
    session: str | None,
    detach: bool,
    full: bool,
) -> None:
    """Run an agent or a workflow, and follow the execution.

    REF is an agent; a workflow is workflow/REF. A runner that follows the daemon does the work. Exit code 0: it was
    completed; 1: it failed or was cancelled. Ctrl-C stops following, and the execution goes on.
    """
    from stigmer.cli import backend, following, sources
    from stigmer.resources import kinds, methods

    with backend.daemon(invocation) as client, sources.of_store(invocation, client) as source:
        what = _find(source, arguments, org)
        kind = kinds.find("agent_execution" if what.kind == "agent" else "workflow_execution")
        assert kind is not None
        execution: Any = kind.message_class(api_version=kind.api_version, kind=kind.message_name)
        if what.kind == "agent":
            _ask_agent(execution, what, message, session)
        elif session is not None:
            raise InvalidArgument("--session", "is of an agent; a workflow has none")
        else:
            _trigger_workflow(execution, what, message)
        _set_environment(execution.spec.runtime_env, variables, secrets)
        created: Any = kind.message_class.FromString(
            client.call(methods.method_of(kind, "create").path, execution.SerializeToString())
        )
        id = created.metadata.id
        if detach:
            _write_created(invocation, kind.name, created)
            return
        invocation.say(f"{kind.name}/{id} created")
        shown = following.Shown(invocation, kind.name, id, full=full)
        following.follow(invocation, client, kind.name, id, shown)
    from stigmer.cli.exits import ExitCode
    from stigmer.cli.phases import COMPLETED

    if shown.transcript.phase != COMPLETED:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _find(source: Source, arguments: Sequence[str], org: str) -> Resource:
    """Give the agent, workflow or instance of a workflow that is to be run."""
    from stigmer.cli.references import Reference, parse_references
    from stigmer.cli.shown import find

    if len(arguments) == 1 and "/" not in arguments[0]:
        text = arguments[0]
        try:
            return find(source, Reference("agent", text, org))
        except NotFound:
            try:
                source.resources.find("workflow", text, org)
            except NotFound:
                pass
            else:
                there = f"stigmer run workflow/{text}" + (f" --org {org}" if org else "")
                raise NotFound("agent", text, hint=f"there is such a workflow: {there}") from None
            raise
    _, references = parse_references(arguments, org)
    if len(references) != 1 or references[0].kind not in ("agent", "workflow", "workflow_instance"):
        raise click.UsageError("name one agent or one workflow: REF, agent/REF or workflow/REF")
    return find(source, references[0])


def _ask_agent(execution: Any, agent: Resource, message: str | None, session: str | None) -> None:
    metadata = _metadata_of(agent)
    execution.metadata.name = metadata.slug or agent.id
    execution.metadata.org = metadata.org
    execution.spec.agent_id = agent.id
    execution.spec.message = BEGIN if message is None else message
    if session is not None:
        execution.spec.session_id = session


def _trigger_workflow(execution: Any, what: Resource, message: str | None) -> None:
    from stigmer.resources.special.instances import IDENTITY, ORGANIZATION

    metadata = _metadata_of(what)
    execution.metadata.name = metadata.slug or what.id
    execution.metadata.org = metadata.org
    execution.metadata.owner_scope = ORGANIZATION if metadata.org else IDENTITY
    if what.kind == "workflow":
        execution.spec.workflow_id = what.id
    else:
        execution.spec.workflow_instance_id = what.id
    execution.spec.trigger_message = message or ""


def _metadata_of(resource: Resource) -> Any:
    from stigmer.resources import kinds

    kind = kinds.find(resource.kind)
    assert kind is not None
    message: Any = kinds.parsed(kind, resource.id, resource.value)
    return message.metadata


def _set_environment(target: Any, variables: Sequence[str], secrets: Sequence[str]) -> None:
    for text in variables:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InvalidArgument("--env", f'"{text}" is not KEY=VALUE')
        target[name].value = value
    for text in secrets:
        name, equals, value = text.partition("=")
        if not name:
            # What is behind it may be the secret: it is not repeated.
            raise InvalidArgument("--secret", "has no name; it takes KEY=VALUE, or KEY")
        if not equals and not (value := os.environ.get(name, "")):
            raise InvalidArgument("--secret", f"the environment has no {name}", hint=f"export {name}, then try again")
        try:
            target[name].value = text_of(value)
        except UnicodeDecodeError:
            raise InvalidArgument("--secret", f"what the environment has as {name} is not UTF-8 text") from None
        target[name].is_secret = True


def _write_created(invocation: Invocation, kind: str, created: Any) -> None:
    from stigmer.cli.output import write_record
    from stigmer.cli.units import visible

    id = created.metadata.id
    if invocation.output in ("yaml", "json", "jsonl"):
        record = {"kind": kind, "id": id}
        for name in ("session_id", "agent_id", "workflow_id", "workflow_instance_id"):
            if value := getattr(created.spec, name, ""):
                record[name] = value
        write_record(record, invocation.output)
    elif invocation.output == "name":
        print(visible(f"{kind}/{id}"))
    elif not invocation.quiet:
        print(visible(f"{kind}/{id} created"))
        invocation.say(f"follow it: {invocation.command('logs', '-f', id)}")
