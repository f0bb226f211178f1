"""The global options, and the classes of commands and groups that take them.

Owns how options are declared and how help is laid out. A global option may stand before or after the verb: people
type `stigmer get agent x -o json`. What was given is kept by name in the `Invocation`; the last one counts. The
meaning of the values, and the values from elsewhere (environment, file, default), are in invocation.py.
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import click

from stigmer.cli.invocation import Invocation

MEANT = {
    "stigmer create": "stigmer apply -f FILE",
    "stigmer describe": "stigmer get KIND REF",
    "stigmer rm": "stigmer delete KIND REF",
    "stigmer watch": "stigmer tail",
    "stigmer start": "stigmer daemon --detach",
    "stigmer stop": "stigmer daemon stop",
    "stigmer status": "stigmer daemon status",
    "stigmer daemon start": "stigmer daemon --detach",
}
"""What people type who know other tools, and what it is called here."""

OUTPUTS = ("table", "wide", "yaml", "json", "jsonl", "name")


class GlobalOption(click.Option):
    """An option that every command takes; its value goes to the `Invocation`, not to the command's function."""

    def __init__(self, declarations: Sequence[str], **attributes: Any) -> None:
        super().__init__(declarations, expose_value=False, callback=self._keep, **attributes)

    @staticmethod
    def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if parameter.name is None or context.get_parameter_source(parameter.name) is None:
            return
        if context.get_parameter_source(parameter.name).name == "COMMANDLINE":  # type: ignore[union-attr]
            context.ensure_object(Invocation).given[parameter.name.replace("_", "-")] = value


def text_of(typed: str) -> str:
    """Give what the command line or the environment has as text, where the locale did not take it for one.

    Raises `UnicodeDecodeError` where it is no UTF-8.
    """
    try:
        typed.encode()
    except UnicodeEncodeError:
        return os.fsencode(typed).decode()
    return typed


def global_options() -> list[click.Parameter]:
    """Make the global options anew, for one command."""
    return [
        GlobalOption(["--addr"], metavar="ADDRESS", help="Where the daemon is: HOST:PORT or unix:PATH."),
        GlobalOption(["--data-dir"], metavar="DIR", help="The data directory, and the daemon that owns it."),
        GlobalOption(
            ["--key-file"], metavar="FILE", help="The file with the key of the secrets in the data directory."
        ),
        GlobalOption(["--token-file"], metavar="FILE", help="The file with the daemon's token."),
        GlobalOption(["--tls-ca"], metavar="FILE", help="Speak TLS, and trust these authorities."),
        GlobalOption(["--tls-cert"], metavar="FILE", help="The certificate to show: the daemon's, or a client's."),
        GlobalOption(["--tls-key"], metavar="FILE", help="The key of that certificate."),
        GlobalOption(
            ["-o", "--output"],
            metavar="FORMAT",
            help="How to print: " + ", ".join(OUTPUTS) + ".",
            shell_complete=lambda _context, _parameter, text: [o for o in OUTPUTS if o.startswith(text)],
        ),
        GlobalOption(["-q", "--quiet"], is_flag=True, help="Print data and errors only."),
        GlobalOption(["-v", "--verbose"], is_flag=True, help="Say more about what is done, and show tracebacks."),
        GlobalOption(["--color"], metavar="WHEN", help="Colour and progress bars: auto, always or never."),
        GlobalOption(["--timeout"], metavar="TIME", help="How long to wait for the daemon, such as 500ms, 10s or 2m."),
        GlobalOption(["--show-secrets"], is_flag=True, help="Print the values of secrets instead of masking them."),
    ]


def org_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command that takes references to resources take `--org` for them."""
    from stigmer.cli.complete import complete_organization

    return click.option(
        "--org",
        default="",
        metavar="ORG",
        help="The organization of what is named, where several have the name.",
        shell_complete=complete_organization,
    )(function)


def _write_help(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    own = [p for p in command.get_params(context) if not isinstance(p, GlobalOption)]
    rows = [row for p in own if (row := p.get_help_record(context)) is not None]
    if rows:
        with formatter.section("Options"):
            formatter.write_dl(rows)


def _as_text(parameter: click.Parameter, context: click.Context) -> None:
    """Take what was typed for UTF-8 whatever the locale is, but for paths; refuse what is none.

    It is not repeated: it may be a secret.
    """
    name = parameter.name or ""
    given = context.params.get(name)
    if isinstance(parameter.type, click.Path) or not isinstance(given, str | tuple):
        return
    try:
        read = tuple(
            text_of(one) if isinstance(one, str) else one for one in (given if isinstance(given, tuple) else (given,))
        )
    except UnicodeDecodeError:
        error = click.BadParameter("it is not UTF-8 text", context, parameter)
        error.add_note("type it in UTF-8, or set the terminal to UTF-8")
        raise error from None
    context.params[name] = read if isinstance(given, tuple) else read[0]


class Command(click.Command):
    """A command: its own options, then the global ones."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.params.extend(global_options())

    def invoke(self, context: click.Context) -> Any:
        """Run the command, once it is sure that its answer can be printed: a wrong `-o` must not come after a save."""
        context.ensure_object(Invocation).check_printing()
        for parameter in self.params:
            _as_text(parameter, context)
        return super().invoke(context)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the own options, and where the global ones are explained."""
        _write_help(self, context, formatter)
        formatter.write_paragraph()
        formatter.write_text("Takes the global options too: stigmer --help lists them.")


class Entry(NamedTuple):
    """A command that is imported when it is called: where it is, and its help without the import."""

    name: str
    module: str
    help: str


class Group(click.Group):
    """A group of commands that are imported when they are called, in sections."""

    command_class = Command

    def __init__(
        self, *arguments: Any, sections: Iterable[tuple[str, Sequence[Entry]]] = (), **attributes: Any
    ) -> None:
        super().__init__(*arguments, **attributes)
        self.sections = tuple((title, tuple(entries)) for title, entries in sections)
        self.params.extend(global_options())

    @property
    def entries(self) -> dict[str, Entry]:
        """The commands that are imported late, by name."""
        return {entry.name: entry for _title, entries in self.sections for entry in entries}

    def list_commands(self, context: click.Context) -> list[str]:
        """Give the names of the commands, in the order in which help shows them."""
        return [*self.entries, *super().list_commands(context)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Give the command, imported now; None where there is no such command."""
        entry = self.entries.get(name)
        if entry is None:
            return super().get_command(context, name)
        found: click.Command = getattr(importlib.import_module(entry.module), name.replace("-", "_") + "_command")
        return found

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names; a misspelt one is told the nearest."""
        name = arguments[0]
        if not name.startswith("-") and not context.resilient_parsing and self.get_command(context, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(context), n=1)
            error = click.UsageError(f'{context.command_path} has no command "{name}"', context)
            typed = f"{context.command_path} {name}"
            if typed in MEANT:
                error.add_note(f"did you mean {MEANT[typed]}?")
            elif near:
                error.add_note(f"did you mean {context.command_path} {near[0]}?")
            raise error
        return super().resolve_command(context, arguments)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options and the commands; at the root, the global options too."""
        _write_help(self, context, formatter)
        for title, entries in self.sections or [("Commands", self._entries_of_loaded(context))]:
            with formatter.section(title):
                formatter.write_dl([(entry.name, entry.help) for entry in entries])
        if context.parent is None:
            rows = [p.get_help_record(context) for p in self.params if isinstance(p, GlobalOption)]
            with formatter.section("Global options, also STIGMER_<NAME> in the environment"):
                formatter.write_dl([row for row in rows if row is not None])

    def _entries_of_loaded(self, context: click.Context) -> list[Entry]:
        names = self.list_commands(context)
        return [
            Entry(name, "", command.get_short_help_str(90))
            for name in names
            if (command := self.get_command(context, name)) is not None
        ]


pass_invocation: Callable[[Callable[..., Any]], Callable[..., Any]] = click.make_pass_decorator(Invocation)
