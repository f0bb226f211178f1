"""`diff`: what an apply would change."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from stigmer.cli.commands.apply import files_option, read_manifests, wanted_of
from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, pass_invocation

if TYPE_CHECKING:
    from stigmer.client.resources import Applied

CHANGED_SECRET = "(secret, changed)"
"""Shown for a secret that is not the one that is stored."""


@click.command("diff", cls=Command)
@files_option
@pass_invocation
def diff_command(invocation: Invocation, files: tuple[str, ...]) -> None:
    """Show what an apply of manifests would change.

    A unified diff for each resource, between what is stored and what would be. Exit code 0: nothing would change; 1:
    something would.
    """
    from stigmer.cli import backend
    from stigmer.cli.exits import ExitCode

    wanted = [wanted_of(manifest) for manifest in read_manifests(files, "compared")]
    with backend.daemon(invocation) as client:
        planned = client.resources.apply(wanted, dry_run=True)
    differing = [one for one in planned if one.outcome != "unchanged"]
    _write(invocation, differing)
    if differing:
        raise click.exceptions.Exit(ExitCode.FAILED)


def _write(invocation: Invocation, differing: list[Applied]) -> None:
    from stigmer.cli.exits import colour_on
    from stigmer.cli.output import write_records
    from stigmer.cli.units import visible

    match invocation.output:
        case "name":
            for one in differing:
                print(visible(f"{one.kind}/{one.slug}"))
        case "yaml" | "json" | "jsonl" as output:
            records: list[dict[str, object]] = [
                {
                    "kind": one.kind,
                    "slug": one.slug,
                    "outcome": one.outcome,
                    "diff": "".join(_diff(one, invocation.show_secrets)),
                }
                for one in differing
            ]
            write_records(iter(records), output)
        case _:
            colour = colour_on(sys.stdout, invocation.color)
            for one in differing:
                for line in _diff(one, invocation.show_secrets):
                    sys.stdout.write(_coloured(line) if colour else line)


def _diff(one: Applied, show_secrets: bool) -> Iterator[str]:
    """Give the lines of a unified diff, each with its line feed."""
    from stigmer.cli.units import visible

    before, after = texts(one.kind, one.before, one.after, show_secrets)
    name = visible(f"{one.kind}/{one.slug}")
    return difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        f"{name} (stored)" if before else "/dev/null",
        f"{name} (applied)",
    )


def texts(kind: str, before: bytes, after: bytes, show_secrets: bool) -> tuple[str, str]:
    """Give two values of a kind as YAML without their status; the first is empty where it is no value.

    Secrets are masked; one that is not the same in both is masked differently in the second.
    """
    from stigmer.cli.output import yaml_text

    shown = _shown(kind, after, show_secrets)
    if not before:
        shown["metadata"].pop("id", None)  # the apply itself will make another one
        return "", yaml_text(shown)
    stored = _shown(kind, before, show_secrets)
    if not show_secrets:
        shown = _with_changed_secrets(stored, shown, _shown(kind, before, True), _shown(kind, after, True))
    return yaml_text(stored), yaml_text(shown)


def _shown(kind: str, value: bytes, show_secrets: bool) -> dict[str, Any]:
    from stigmer.resources import kinds, present

    message = kinds.decode(kind, value)
    assert message is not None, kind
    shown = present.as_dict(message, show_secrets=show_secrets)
    shown.pop("status", None)
    return shown


def _with_changed_secrets(stored: Any, shown: Any, stored_plain: Any, shown_plain: Any) -> Any:
    """Give `shown` with another mask for each secret that is not what is stored in its place."""
    from stigmer.resources.present import MASK

    if isinstance(shown, dict) and isinstance(stored, dict):
        return {
            key: _with_changed_secrets(stored[key], value, stored_plain[key], shown_plain[key])
            if key in stored
            else value
            for key, value in shown.items()
        }
    if isinstance(shown, list) and isinstance(stored, list):
        return [
            _with_changed_secrets(stored[place], value, stored_plain[place], shown_plain[place])
            if place < len(stored)
            else value
            for place, value in enumerate(shown)
        ]
    return CHANGED_SECRET if shown == stored == MASK and shown_plain != stored_plain else shown


def _coloured(line: str) -> str:
    colours = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"}
    code = "\x1b[1m" if line.startswith(("+++", "---")) else colours.get(line[0], "")
    return f"{code}{line.rstrip(chr(10))}\x1b[0m\n" if code else line
