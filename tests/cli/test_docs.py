"""docs/CLI.md and the help name every command and every option; the limits that pages give are those of the code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from stigmer import config
from stigmer.cli.options import Group, global_options
from stigmer.cli.root import root

PAGES = Path(__file__).parents[2] / "docs"
DOCS = (PAGES / "CLI.md").read_text()


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


def shown(size_bytes: int) -> str:
    """Write a size as the pages do."""
    unit = next(one for one in ("GIB", "MIB", "KIB") if size_bytes % getattr(config, one) == 0)
    return f"{size_bytes // getattr(config, unit)} {unit[0]}i{unit[2]}"


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (
            "ARCHITECTURE.md",
            f"after {config.UNFLUSHED_EVENTS_MAX:,} events, {config.UNFLUSHED_ENTRIES_MAX:,} entries, "
            f"{shown(config.UNFLUSHED_BYTES_MAX)} of commits",
        ),
        (
            "ARCHITECTURE.md",
            f"every {config.CHECKPOINT_EVENTS:,} events, {shown(config.CHECKPOINT_BYTES)} of commits or "
            f"{shown(config.CHECKPOINT_GROWTH_BYTES)}",
        ),
        ("ARCHITECTURE.md", f"at least {shown(config.OPEN_CHECK_BYTES)} in all"),
        ("ARCHITECTURE.md", f"The map begins with {shown(config.MAP_BYTES_DEFAULT)}"),
        ("FORMAT.md", f"at most **{config.CHAIN_FRAMES_MAX} deltas**"),
        ("FORMAT.md", f"at most **{shown(config.CHAIN_BYTES_MAX)} on disk"),
        ("FORMAT.md", f"in memory ({shown(config.LINEAGES_BYTES_MAX)} of them)"),
        ("FORMAT.md", f"A commit of {shown(config.DELTA_BYTES_MIN)} or more"),
        ("FORMAT.md", f"larger than {shown(config.VIEWS_CHECK_BYTES_MAX)}"),
        ("FORMAT.md", f"The last {config.REQUEST_IDS_KEPT:,} commits that had an id"),
        ("FORMAT.md", f"where there are {config.VIEWS_CHECK_ROWS_MAX:,} rows or fewer"),
        ("GUARANTEES.md", f"last {config.REQUEST_IDS_KEPT:,} commits that had an id"),
        ("GUARANTEES.md", f"up to {shown(config.VIEWS_CHECK_BYTES_MAX)}; behind another end"),
        ("GUARANTEES.md", f"by the open up to {config.VIEWS_CHECK_ROWS_MAX:,} rows"),
    ],
)
def test_limits_in_the_docs_are_those_of_the_code(page: str, sentence: str) -> None:
    """Whoever changes one changes the other."""
    assert sentence in " ".join((PAGES / page).read_text().split())


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
