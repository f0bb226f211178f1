"""What a shell offers while a person types: kinds, and where the daemon answers at once, resources.

Owns no error: completion that fails offers nothing. The imports are inside, because the declarations are imported
with every command.
"""

from __future__ import annotations

import click

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


def _references(context: click.Context, kind: str, start: str) -> list[str]:
    from stigmer.cli.backend import answers, connected, daemon_address
    from stigmer.cli.invocation import Invocation

    invocation = context.ensure_object(Invocation)
    address = daemon_address(invocation)
    if address is None or not answers(address, ANSWER_SECONDS):
        return []
    from stigmer.resources import kinds, present

    known = kinds.find(kind)
    slugs: set[str] = set()
    with connected(invocation, address, ANSWER_SECONDS) as client:
        ids = [one.id for one in client.list(kinds.store_name(kind), prefix=start, limit=OFFERED_MAX)]
        if known is not None:
            for resource in client.resources.list(known.name, limit=OFFERED_MAX).resources:
                message = kinds.decode(known, resource.value)
                slugs.add(present.summary(message).slug if message is not None else "")
    return sorted(slug for slug in slugs if slug and slug.startswith(start)) + ids
