"""`config list`: the settings in force."""

from __future__ import annotations

import click

from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, Group, pass_invocation


@click.group("config", cls=Group)
def config_command() -> None:
    """Show the settings and where they come from."""


@config_command.command("list", cls=Command)
@click.option("--show-origin", is_flag=True, help="Also print where each value comes from.")
@pass_invocation
def config_list(invocation: Invocation, show_origin: bool) -> None:
    """List every setting with its value.

    A value comes from the command line, else from the environment, else from the configuration file
    (~/.stigmer/config.yaml, or the file that STIGMER_CONFIG names), else it is the default.
    """
    from stigmer.cli.output import table, write_records
    from stigmer.cli.units import home_shortened

    rows = []
    for setting in invocation.settings():
        origin = f"--{setting.option.name}" if setting.origin == "option" else home_shortened(setting.origin)
        rows.append({"name": setting.option.name, "value": setting.value, "origin": origin})
    if not show_origin:
        for row in rows:
            del row["origin"]
    # The format itself is one of the settings to show, so a wrong one is an error here too.
    match invocation.output:
        case "name":
            print("\n".join(row["name"] for row in rows))
        case "table" | "wide":
            table([header.upper() for header in rows[0]], [list(row.values()) for row in rows])
        case output:
            write_records(iter(rows), output)
