"""`KIND REF...` and `KIND/REF...`: what a person types to name resources.

Owns the reading of the arguments. Whether a reference is an id or a slug is for whoever looks it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import click


class Reference(NamedTuple):
    """A kind in the store's keys, and an id or a slug, in an organization or in any."""

    kind: str
    text: str
    org: str = ""


def parse_references(arguments: Sequence[str], org: str = "") -> tuple[str, list[Reference]]:
    """Give the kind that was typed first, in the store's keys, and the references; none where a kind stands alone.

    `org` is what `--org` said. Raises `click.UsageError` where the two forms are mixed, and where an organization is
    named for what has none.
    """
    kind, references = _parsed(arguments)
    if org:
        _check_organization(kind, references)
    return kind, [reference._replace(org=org) for reference in references]


def _check_organization(kind: str, references: Sequence[Reference]) -> None:
    from stigmer import names
    from stigmer.resources import kinds

    if not references:
        raise click.UsageError("--org chooses among resources of one name: name one")
    for one in {kind, *(reference.kind for reference in references)}:
        if kinds.find(one) is None:
            raise click.UsageError(f"--org: {names.shown(one)} is no kind of the platform, and has no organizations")


def _parsed(arguments: Sequence[str]) -> tuple[str, list[Reference]]:
    from stigmer import names
    from stigmer.resources import kinds

    first, *rest = arguments
    if "/" not in first:
        for text in rest:
            if "/" in text:
                raise click.UsageError(f"{names.shown(text)}: write KIND REF... or KIND/REF..., not both")
            if not text:
                raise click.UsageError(f"an empty reference to a resource of kind {names.shown(first)}")
        kind = kinds.store_name(first)
        names.check_kind(kind)
        return kind, [Reference(kind, text) for text in rest]
    references = []
    for argument in arguments:
        typed_kind, slash, text = argument.partition("/")
        if not (typed_kind and slash and text) or "/" in text:
            raise click.UsageError(f"{names.shown(argument)} is not KIND/REF")
        kind = kinds.store_name(typed_kind)
        names.check_kind(kind)
        references.append(Reference(kind, text))
    return references[0].kind, references
