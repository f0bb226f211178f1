"""`KIND REF...` and `KIND/REF...`: what a person types to name resources.

Owns the reading of the arguments. Whether a reference is an id or a slug is for whoever looks it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import click


class Reference(NamedTuple):
    """A kind in the store's keys, and an id or a slug."""

    kind: str
    text: str


def parse_references(arguments: Sequence[str]) -> tuple[str, list[Reference]]:
    """Give the kind that was typed first, in the store's keys, and the references; none where a kind stands alone.

    Raises `click.UsageError` where the two forms are mixed.
    """
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
