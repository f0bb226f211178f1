"""docs/CLI.md and the help name every command and every option."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from stigmer import config
from stigmer.cli.options import Group, global_options
from stigmer.cli.root import root

DOCS = (Path(__file__).parents[2] / "docs" / "CLI.md").read_text()


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Give every command below a group with what is typed for it."""
    context = click.Context(command)
    if path:
        yield " ".join(path), command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, (*path, name))


COMMANDS = dict(walk(root))


@pytest.mark.parametrize("path", COMMANDS)
def test_docs_have_a_section_for_the_command(path: str) -> None:
    """A command has a section of its own; a group may be told of by its commands."""
    headings = [line.lstrip("#").strip() for line in DOCS.splitlines() if line.startswith("#")]
    assert path in headings or any(heading.startswith(path + " ") for heading in headings)


@pytest.mark.parametrize("path", COMMANDS)
def test_docs_name_every_option_of_the_command(path: str) -> None:
    """Every long option stands in the command's section, or among the global ones."""
    sections = [part for part in DOCS.split("\n#") if part.lstrip("#").startswith((f" {path}\n", " Global options\n"))]
    for parameter in COMMANDS[path].params:
        for name in parameter.opts if isinstance(parameter, click.Option) else ():
            assert any(f"`{name}`" in section for section in sections), name


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_has_a_help_text(path: str) -> None:
    """Help is a sentence: it begins with a capital and ends with a full stop."""
    command = COMMANDS[path]
    assert command.help is not None
    assert command.help.splitlines()[0].rstrip().endswith((".", ",")), command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help is not None, parameter.name
            assert parameter.help.endswith("."), parameter.help


def test_the_list_of_commands_says_what_the_commands_say() -> None:
    """The help that is shown without importing a command is the first line of the command's own."""
    assert isinstance(root, Group)
    said = {name: (COMMANDS[name].help or "").splitlines()[0] for name in root.entries}
    assert said == {name: entry.help for name, entry in root.entries.items()}


def test_every_setting_is_an_option_and_in_the_docs() -> None:
    """What config.py lists can be typed, and the docs have its default and its key."""
    typed = {parameter.name for parameter in global_options()}
    for option in config.OPTIONS:
        assert option.name.replace("-", "_") in typed
        assert f"`{option.default}`" in DOCS
        assert option.file_key is None or f"`{option.file_key}`" in DOCS
