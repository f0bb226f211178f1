"""Exit codes, and how an error is shown: one `Error:` line, then a `Hint:` with the next command to type.

Owns the one table from errors to exit codes. A bug (any exception that is not a `StigmerError`) is one line too; its
traceback is for whoever asks with `-v`.
"""

from __future__ import annotations

import enum
import os
import sys
from typing import TextIO

from stigmer import errors


class ExitCode(enum.IntEnum):
    """What the exit code of the process says."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNREACHABLE = 5
    DAMAGE = 6
    INTERRUPTED = 130


# The first class that matches counts, so a class comes before those it is derived from.
_EXIT_CODES: tuple[tuple[type[errors.StigmerError], ExitCode], ...] = (
    (errors.InvalidArgument, ExitCode.USAGE),
    (errors.NotFound, ExitCode.NOT_FOUND),
    (errors.Conflict, ExitCode.CONFLICT),
    (errors.OutcomeUnknown, ExitCode.UNREACHABLE),
    (errors.CorruptLog, ExitCode.DAMAGE),
    (errors.CorruptView, ExitCode.DAMAGE),
    (errors.CorruptArtifact, ExitCode.DAMAGE),
    (errors.CorruptBackup, ExitCode.DAMAGE),
    (errors.StigmerError, ExitCode.FAILED),
)


def exit_code_of(error: errors.StigmerError) -> ExitCode:
    """Give the exit code for an error."""
    return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))


def colour_on(stream: TextIO, setting: str) -> bool:
    """Say whether what goes to a stream is coloured: only on a terminal, and not where `NO_COLOR` is set."""
    if setting in ("always", "never"):
        return setting == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_error(message: str, hint: str | None, color: str = "auto") -> None:
    """Write an error and its hint to stderr."""
    from stigmer.cli.units import visible

    red, dim, plain = ("\x1b[1;31m", "\x1b[2m", "\x1b[0m") if colour_on(sys.stderr, color) else ("", "", "")
    # An error may quote what it was given; a line break in it must not pass for a line of ours.
    first, *more = [visible(line) for line in message.splitlines()] or [""]
    lines = [f"{red}Error:{plain} {first}", *(f"  {line}" for line in more)]
    if hint:
        lines.append(f"{dim}Hint:{plain} {visible(hint)}")
    print("\n".join(lines), file=sys.stderr)
