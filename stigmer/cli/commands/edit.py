"""`edit`: a resource as a text in an editor."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from stigmer.cli.complete import complete_kind_or_reference
from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, org_option, pass_invocation
from stigmer.errors import Conflict, InvalidArgument, StigmerError

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from stigmer.client.resources import Applied
    from stigmer.model import Resource
    from stigmer.resources.kinds import Kind

SAVE_ATTEMPTS = 5
"""How often it is saved anew because the status, which nobody edits, has moved meanwhile."""

OPENED_MAX = 3
"""How often an editor that no terminal belongs to, a script, is opened: it may do the same for ever."""

INTRODUCTION = """\
# {what}, revision {revision}. Save and leave the editor to apply it; leave it as it is to change nothing.
"""
MASKED = "# A secret that is left as {mask} stays what it is.\n"
PROBLEMS = "# It was not applied:\n"


@click.command("edit", cls=Command)
@click.argument("arguments", nargs=-1, required=True, metavar="KIND REF", shell_complete=complete_kind_or_reference)
@org_option
@pass_invocation
def edit_command(invocation: Invocation, arguments: tuple[str, ...], org: str) -> None:
    """Edit a resource in an editor, and apply it.

    The editor is that of VISUAL or EDITOR, else vi. Where something is wrong with the text, the editor opens again
    with the problems on top; left as it is then, the text is kept in its file. A resource that somebody else has
    changed meanwhile is not overwritten.
    """
    from stigmer.cli import backend, sources
    from stigmer.cli.commands.apply import outcome_line
    from stigmer.cli.references import parse_references
    from stigmer.cli.shown import find
    from stigmer.cli.units import visible
    from stigmer.resources import kinds

    _, references = parse_references(arguments, org)
    if len(references) != 1:
        raise click.UsageError("name one resource: KIND REF, or KIND/REF")
    kind = kinds.find(references[0].kind)
    if kind is None:
        raise InvalidArgument(
            "KIND", f"{references[0].kind} is no kind of the platform: its values are bytes", hint="stigmer save"
        )
    with backend.daemon(invocation) as client, sources.of_store(invocation, client) as source:
        found = find(source, references[0])
    file = _File()
    try:
        done = _Editing(invocation, kind, found, file).run()
    except BaseException:
        if file.is_worth_keeping:
            invocation.say(f"your text is in {file.path}")
        else:
            file.remove()
        raise
    file.remove()
    if invocation.quiet:
        return
    if done is None:
        print(visible(f"{references[0].kind}/{references[0].text} unchanged"))
    else:
        print(outcome_line(done))


class _File:
    """The file that is edited: for its owner alone, because it may have secrets in it."""

    def __init__(self) -> None:
        fd, self.path = tempfile.mkstemp(prefix="stigmer-edit-", suffix=".yaml")
        os.close(fd)
        self.is_worth_keeping = False
        """Whether somebody has written something in it."""

    def write(self, text: str) -> None:
        with open(self.path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)

    def read(self) -> str:
        with open(self.path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()

    def remove(self) -> None:
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass  # the editor, or who used it, has removed it


class _Editing:
    """One resource on its way through the editor."""

    def __init__(self, invocation: Invocation, kind: Kind, found: Resource, file: _File) -> None:
        from stigmer.resources import kinds

        self._invocation = invocation
        self._kind = kind
        self._found = found
        self._file = file
        self._stored: Any = kinds.parsed(kind, found.id, found.value)

    def run(self) -> Applied | None:
        """Let it be edited until it can be applied; None where nothing was changed."""
        shown = self._shown()
        problems: Sequence[str] = ()
        refused: StigmerError | None = None
        for opened in itertools.count(1):
            self._file.write(self._introduction(problems) + shown)
            status = _edit(self._file.path)
            edited = _without_introduction(self._file.read())
            if status != 0:
                # One that says so itself was told to give up; one that was killed was not.
                self._file.is_worth_keeping |= status < 0 and edited != shown
                raise _gave_up(status)
            if edited == shown:
                if refused is not None:
                    raise refused
                return None
            if not edited.strip():
                self._invocation.say("the text is empty: nothing was changed")
                return None
            self._file.is_worth_keeping = True
            shown = edited
            try:
                return self._apply(self._message(edited))
            except InvalidArgument as error:
                refused = error
                problems = error.message.splitlines()
                if opened == OPENED_MAX and not sys.stdin.isatty():
                    raise
        raise AssertionError("unreachable: counting has no end")

    def _shown(self) -> str:
        from stigmer.cli.output import yaml_text
        from stigmer.resources import present

        shown = present.as_dict(self._stored, show_secrets=self._invocation.show_secrets)
        shown.pop("status", None)
        return yaml_text(shown)

    def _introduction(self, problems: Sequence[str]) -> str:
        from stigmer.cli.units import visible
        from stigmer.resources.present import MASK

        what = visible(f"{self._found.kind}/{self._found.id}")
        text = INTRODUCTION.format(what=what, revision=self._found.revision)
        if not self._invocation.show_secrets:
            text += MASKED.format(mask=MASK)
        if problems:
            text += PROBLEMS + "".join(f"#   {visible(problem)}\n" for problem in problems)
        return text

    def _message(self, text: str) -> Message:
        """Read the text as the resource that it was. Raises `InvalidArgument`."""
        from stigmer.resources import manifests, paths, sealing

        try:
            found = manifests.parse(text.encode(errors="surrogateescape"), "", masks=False)
        except manifests.ManifestError as error:
            # Told by their places alone: lines move with what is written on top.
            lines = [": ".join(filter(None, (one.path, one.problem))) for one in error.problems]
            error.args = ("\n".join(lines),)
            raise
        if len(found) != 1 or found[0].kind != self._kind:
            raise InvalidArgument("kind", f"it was one {self._kind.message_name}, and must be one")
        message = found[0].message
        for name in ("id", "slug", "org"):
            stored = getattr(self._stored.metadata, name)
            if getattr(found[0].metadata, name) not in ("", stored):
                raise InvalidArgument(f"metadata.{name}", "cannot be changed: it is what the resource is known by")
            setattr(found[0].metadata, name, stored)
        if left := sealing.unmask(message, self._stored):
            raise InvalidArgument(paths.text(left[0]), "there is no secret that this could stand for; write it here")
        return message

    def _apply(self, message: Message) -> Applied:
        """Apply the message, where spec and metadata are still what they were. Raises `Conflict`."""
        from stigmer.cli import backend
        from stigmer.client.resources import Wanted
        from stigmer.codec import value_bytes
        from stigmer.resources import kinds

        with backend.daemon(self._invocation) as client:
            revision = self._found.revision
            for attempt in range(1, SAVE_ATTEMPTS + 1):
                try:
                    (done,) = client.resources.apply([Wanted(self._kind.name, value_bytes(message), revision)])
                    return done
                except Conflict as error:
                    now = client.resources.find(self._kind.name, self._found.id)
                    changed: Any = kinds.parsed(self._kind, now.id, now.value)
                    same = (changed.metadata, changed.spec) == (self._stored.metadata, self._stored.spec)
                    if not same or attempt == SAVE_ATTEMPTS:
                        raise self._changed_by_others(error) from error
                    revision = now.revision
        raise AssertionError("unreachable: the last attempt raises")

    def _changed_by_others(self, error: Conflict) -> Conflict:
        error.args = (
            f"{self._found.kind}/{self._found.id} was changed by somebody else meanwhile; nothing was applied",
        )
        error.hint = f"see the difference, then edit it again: stigmer diff -f {shlex.quote(self._file.path)}"
        return error


def _editor() -> str:
    return os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"


def _edit(path: str) -> int:
    """Run the editor on a file, wait for it, and give its status."""
    editor = _editor()
    try:
        command = [*shlex.split(editor), path]
        with _keys_are_for_the_editor():
            return subprocess.call(command)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StigmerError(f"cannot start the editor {editor}: {reason}", hint="set EDITOR to your editor") from error


@contextmanager
def _keys_are_for_the_editor() -> Iterator[None]:
    """Take no notice of Ctrl-C and Ctrl-\\: a terminal sends them to both processes, and editors use them as keys."""
    # A handler, for what is ignored would be ignored by the editor, too.
    before = [
        (number, signal.signal(number, lambda *_: None))
        for number in (signal.SIGINT, signal.SIGQUIT)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _gave_up(status: int) -> BaseException:
    """Make the error for an editor that ended with a status other than 0."""
    if status == -signal.SIGINT:
        return KeyboardInterrupt()
    ended = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
    return StigmerError(f"the editor {_editor()} {ended}; nothing was applied")


def _without_introduction(text: str) -> str:
    """Give an edited text without the comments that begin it."""
    lines = text.splitlines(keepends=True)
    first = next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[first:])
