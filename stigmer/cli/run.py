"""From arguments to an exit code: the one place where errors of every sort end.

Owns the promise that nothing a person can cause shows a traceback, Ctrl-C and a closed pipe included.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click

from stigmer.cli.exits import ExitCode, exit_code_of, print_error
from stigmer.cli.invocation import Invocation
from stigmer.errors import StigmerError

COMPLETE_VARIABLE = "_STIGMER_COMPLETE"


def run(arguments: Sequence[str]) -> int:
    """Run one command and give the exit code."""
    from stigmer.cli.root import root

    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show a character shows its escape; it is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    if hasattr(sys.stdout, "reconfigure") and not sys.stdout.isatty() and not os.environ.get("PYTHONIOENCODING"):
        # JSON and YAML that are read by programs have no escapes of ours, but for paths that are no text.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    # gRPC's own log lines say in its words what our errors say in ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    invocation = Invocation()
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(root, {"obj": invocation}, "stigmer", COMPLETE_VARIABLE, instruction)
    try:
        code = _run(root, arguments, invocation)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough, as in `stigmer list | head -1`. What is still buffered must not be
        # flushed at exit: it would fail once more.
        _discard_output()
        return ExitCode.DONE
    except KeyboardInterrupt:
        _discard_output()
        return ExitCode.INTERRUPTED
    except OSError as error:
        _discard_output()
        print_error(f"cannot write to standard output: {error.strerror or error}", None)
        return ExitCode.FAILED
    return code


def _open_closed_streams() -> None:
    """Open nothing in the place of a standard stream that was closed, as in `stigmer list >&-`.

    Else the next file that is opened, a file of the store among them, would be the standard stream of its number.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _run(root: click.Group, arguments: Sequence[str], invocation: Invocation) -> int:
    try:
        with root.make_context("stigmer", list(arguments), obj=invocation) as context:
            root.invoke(context)
        return ExitCode.DONE
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return ExitCode.USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "stigmer"
        notes = getattr(error, "__notes__", None)
        print_error(_sentence(error), notes[0] if notes else f"{path} --help", _color(invocation))
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        print(file=sys.stderr)  # so that the shell's prompt does not stand behind "^C"
        return ExitCode.INTERRUPTED
    except StigmerError as error:
        print_error(error.message, error.hint, _color(invocation))
        _show_traceback_if_asked(invocation)
        return exit_code_of(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EIO, errno.EFBIG) and error.filename is None:
            raise  # standard output, as in `stigmer list > /full/disk`
        if isinstance(error, FileNotFoundError) and _folder_is_gone():
            print_error("the folder that this was called in is gone", "cd to one that is there", _color(invocation))
            return ExitCode.FAILED
        if error.filename is None:
            return _report_bug(error, invocation)
        print_error(f"{error.filename}: {error.strerror}", None, _color(invocation))
        _show_traceback_if_asked(invocation)
        return ExitCode.FAILED
    except Exception as error:
        return _report_bug(error, invocation)


def _folder_is_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _sentence(error: click.UsageError) -> str:
    """Write click's message as ours: on one line, without its full stop."""
    text = " ".join(error.format_message().split())
    return text if text.endswith("...") else text.removesuffix(".")


def _color(invocation: Invocation) -> str:
    try:
        return invocation.color
    except StigmerError:
        return "auto"


def _asked_for_traceback(invocation: Invocation) -> bool:
    try:
        return invocation.verbose
    except StigmerError:
        return False


def _show_traceback_if_asked(invocation: Invocation) -> None:
    if _asked_for_traceback(invocation):
        import traceback

        traceback.print_exc()


def _report_bug(error: Exception, invocation: Invocation) -> int:
    hint = "this is a bug in stigmer; run with -v for the traceback"
    asked = _asked_for_traceback(invocation)
    print_error(f"{type(error).__name__}: {error}", None if asked else hint, _color(invocation))
    _show_traceback_if_asked(invocation)
    return ExitCode.FAILED


def _discard_output() -> None:
    """Send what is still buffered nowhere."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass  # closed already: there is nothing to flush
