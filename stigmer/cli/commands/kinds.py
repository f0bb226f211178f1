"""`kinds` and `explain`: what there is to write in a manifest."""

from __future__ import annotations

import difflib
import sys

import click

from stigmer.cli.complete import complete_kind
from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, pass_invocation


@click.command("kinds", cls=Command)
@pass_invocation
def kinds_command(invocation: Invocation) -> None:
    """List the kinds of resources.

    Each answers to every name in its row. The store takes other kinds too, with any bytes as values: stigmer save.
    """
    from stigmer.cli.output import table, write_records
    from stigmer.resources import kinds

    rows: list[dict[str, object]] = [
        {
            "kind": kind.name,
            "plural": kind.plural,
            "message": kind.message_name,
            "id_prefix": kind.id_prefix,
            "api_version": kind.api_version,
        }
        for kind in kinds.all_kinds()
    ]
    match invocation.output:
        case "name":
            for row in rows:
                print(row["kind"])
        case "table" | "wide" as output:
            columns = ["kind", "plural", "message", "id_prefix", *(["api_version"] if output == "wide" else [])]
            table(
                [name.upper().replace("_", "-") for name in columns], [[row[name] for name in columns] for row in rows]
            )
        case output:
            write_records(iter(rows), output)


@click.command("explain", cls=Command)
@click.argument("what", metavar="KIND[.FIELD...]", shell_complete=complete_kind)
@click.option("--example", is_flag=True, help="Print a manifest of the kind to start from, which can be applied.")
@pass_invocation
def explain_command(invocation: Invocation, what: str, example: bool) -> None:
    """Explain the fields of a kind.

    Or one field: KIND.FIELD.FIELD.

    \b
    stigmer explain agent
    stigmer explain agent.spec.mcp_servers
    stigmer explain agent --example > agent.yaml
    """
    from stigmer import names
    from stigmer.cli.output import write_record
    from stigmer.errors import InvalidArgument
    from stigmer.resources import explain, kinds

    typed, _, path = what.partition(".")
    kind = kinds.find(typed)
    if kind is None:
        near = difflib.get_close_matches(typed, [known.name for known in kinds.all_kinds()], 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InvalidArgument(
            "kind", f"{names.shown(typed)} is not a known kind", hint=f"{hint}see them: stigmer kinds"
        )
    if example:
        if path:
            raise click.UsageError("--example is of a whole kind: leave the field out")
        sys.stdout.write(explain.example(kind))
        return
    explained = explain.explain(kind, path)
    if invocation.output in ("yaml", "json", "jsonl"):
        import msgspec

        write_record(msgspec.to_builtins(explained), invocation.output)
    else:
        sys.stdout.write(explain.explain_text(explained))
