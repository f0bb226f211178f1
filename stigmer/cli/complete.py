"""What a shell offers while a person types: kinds, and where the daemon answers at once, resources.

Owns no error: completion that fails offers nothing. The imports are inside, because the declarations are imported
with every command.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from stigmer.client.sync import Client
    from stigmer.model import Resource
    from stigmer.resources.present import Summary

ANSWER_SECONDS = 0.3
"""Nobody waits longer than this for a completion."""
OFFERED_MAX = 50
"""Every one of them is read with its value; of the slugs, those of the newest are offered."""


def complete_kind(_context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Offer the kinds that start with what was typed."""
    try:
        from stigmer.resources import kinds

        return [kind.name for kind in kinds.all_kinds() if kind.name.startswith(text)]
    except Exception:
        return []


def complete_kind_or_reference(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
    """Offer kinds; behind a kind, or behind `KIND/`, its resources by slug and by id."""
    try:
        kind, slash, start = text.partition("/")
        if slash:
            return [f"{kind}/{id}" for id in _references(context, kind, start)]
        typed = context.params.get("arguments") or ()
        if typed:
            return _references(context, typed[0], text)
    except Exception:
        return []
    return complete_kind(context, parameter, text)


def complete_execution(context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Offer the newest executions by their ids."""
    try:
        return [
            id
            for kind in ("agent_execution", "workflow_execution")
            for id in _references(context, kind, text)
            if id.startswith(text)
        ]
    except Exception:
        return []


def complete_skill(context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Offer the newest skills by slug and by id."""
    try:
        return _references(context, "skill", text)
    except Exception:
        return []


def complete_organization(context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Offer the organizations of the newest resources of the kind that was typed."""
    try:
        with _daemon(context) as client:
            organizations = {facts.org for facts in _newest(client, _kind_typed(context))}
        return sorted(org for org in organizations if org and org.startswith(text))
    except Exception:
        return []


def _kind_typed(context: click.Context) -> str:
    if "ref" in context.params:
        return "skill"
    # Behind an option without its value, click has not told arguments from the rest.
    typed = context.params.get("arguments") or context.args or ("",)
    kind, slash, _ = typed[0].partition("/")
    # What is run is an agent where nothing else is said.
    return "agent" if context.info_name == "run" and not slash else kind


def _references(context: click.Context, kind: str, start: str) -> list[str]:
    from stigmer.resources import kinds

    org = context.params.get("org") or ""
    with _daemon(context) as client:
        stored = client.list(kinds.store_name(kind), prefix=start, limit=OFFERED_MAX)
        if kinds.find(kind) is None:
            return [one.id for one in stored]
        slugs = {facts.slug for facts in _newest(client, kind) if not org or facts.org == org}
    ids = [one.id for one in stored if not org or _organization(kind, one) == org]
    return sorted(slug for slug in slugs if slug and slug.startswith(start)) + ids


def _newest(client: Client, kind: str) -> list[Summary]:
    """Give what is to be shown of the newest resources of a kind."""
    from stigmer.resources import kinds, present

    return [
        present.summary(message)
        for one in client.resources.list(kind, limit=OFFERED_MAX).resources
        if (message := kinds.decode(kind, one.value)) is not None
    ]


def _organization(kind: str, resource: Resource) -> str:
    from stigmer.resources import kinds, present

    message = kinds.decode(kind, resource.value)
    return present.summary(message).org if message is not None else ""


@contextmanager
def _daemon(context: click.Context) -> Iterator[Client]:
    """Connect to the daemon. Raises `Unavailable` where it does not answer at once."""
    from stigmer.cli.backend import answers, connected, daemon_address
    from stigmer.cli.invocation import Invocation
    from stigmer.errors import Unavailable

    invocation = context.ensure_object(Invocation)
    address = daemon_address(invocation)
    if address is None or not answers(address, ANSWER_SECONDS):
        raise Unavailable("no daemon")
    with connected(invocation, address, ANSWER_SECONDS) as client:
        yield client
