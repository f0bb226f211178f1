"""`stigmer`: the root of the commands.

Owns the list of commands, each with its line of help, so that `stigmer --help` needs no other import.
"""

from __future__ import annotations

import click

from stigmer.cli.options import Entry, Group


def _entry(name: str, module: str, help: str) -> Entry:
    return Entry(name, f"stigmer.cli.commands.{module}", help)


SECTIONS: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    (
        "Every day",
        (
            _entry("apply", "apply", "Create or update resources from manifests."),
            _entry("get", "get", "Print resources."),
            _entry("list", "get", "List the resources of a kind, or count them per kind."),
            _entry("diff", "diff", "Show what an apply of manifests would change."),
            _entry("edit", "edit", "Edit a resource in an editor, and apply it."),
            _entry("delete", "delete", "Delete resources."),
            _entry("save", "save", "Save the bytes of a file as KIND/ID."),
            _entry("tail", "tail", "Print the log, and follow it."),
        ),
    ),
    (
        "Agents at work",
        (
            _entry("run", "run", "Run an agent or a workflow, and follow the execution."),
            _entry("logs", "logs", "Print what happened in an execution."),
            _entry("wait", "wait", "Wait until an execution is in a phase, or a resource is deleted."),
            _entry("skill", "skill", "Push, list and pull the versions of skills."),
        ),
    ),
    (
        "The daemon",
        (_entry("daemon", "daemon", "Run the daemon; look at it, stop it, read what it wrote."),),
    ),
    (
        "The log and the views",
        (
            _entry("log", "log", "Look inside the log."),
            _entry("replay", "fold", "Rebuild the views from the log."),
            _entry("verify", "fold", "Prove that the views are what the log says."),
            _entry("backup", "backup", "Copy the store into a directory, or bring the copy up to date."),
            _entry("restore", "backup", "Make a new store of a backup, in a data directory that is empty."),
            _entry("import", "recording", "Bring data in from elsewhere."),
        ),
    ),
    (
        "Help",
        (
            _entry("kinds", "kinds", "List the kinds of resources."),
            _entry("explain", "kinds", "Explain the fields of a kind."),
            _entry("doctor", "doctor", "Look whether the installation, the data directory and the daemon are well."),
            _entry("config", "config", "Show the settings and where they come from."),
            _entry("completion", "completion", "Print a script that completes commands in a shell."),
            _entry("version", "version", "Print the version."),
        ),
    ),
)


def _print_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from stigmer.version import VERSION

        print(f"stigmer {VERSION}")
        context.exit()


@click.group(cls=Group, sections=SECTIONS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print the version."
)
def root() -> None:
    """Keep, change and follow the resources of Stigmer.

    Start with `stigmer daemon`, then `stigmer apply -f examples/` in a second terminal.
    """
