"""The command line as a person meets it: a real process with a home of its own; and a real daemon.

Most processes are forked off one that has imported everything; tests/cli/test_interpreters.py starts an interpreter for
each command, as `Shell` does where something is said to the interpreter.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from forking import AVAILABLE, Forked

from stigmer.daemon.info import DaemonInfo, read_daemon_info

SECONDS_MAX = 240
"""No command of a test takes longer; one that does hangs."""

PROGRAM = "from stigmer.cli import main; main()"
SAID_TO_THE_INTERPRETER = ("GRPC_", "LANG", "LC_", "PROTOCOL_BUFFERS_", "PYTHON")
"""Variables that begin so are read when the interpreter starts, or a module of another's."""

Process = subprocess.Popen[bytes] | Forked


class Shell:
    """Runs `stigmer` with a home directory of its own, and so with a data directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / ".stigmer" / "data"
        self.environ = {key: value for key, value in os.environ.items() if not key.startswith("STIGMER_")}
        # A directory that is chosen means its own daemon, so that no test meets one that happens to run elsewhere.
        self.environ |= {"HOME": str(home), "STIGMER_DATA_DIR": str(self.data), "COLUMNS": "100", "TZ": "UTC"}
        # As in any shell: buffered (what is written late fails late), and compiled once.
        for variable in ("NO_COLOR", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
            self.environ.pop(variable, None)

    def run(
        self,
        *arguments: str | Path,
        stdin: bytes = b"",
        code: int | None = 0,
        wrapper: Sequence[str] = (),
        interpreter: bool = False,
        **environ: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end and check its exit code; None accepts any.

        `wrapper` is a command that runs it. An `interpreter` of its own is started then, where it is asked for, and
        where a variable of `environ` is for the interpreter; else the process is forked.
        """
        said = any(name.startswith(SAID_TO_THE_INTERPRETER) for name in environ)
        if AVAILABLE and not (wrapper or interpreter or said):
            process = self._fork(arguments, environ, stdin)
            output, errors = process.communicate(SECONDS_MAX)
            done = subprocess.CompletedProcess(process.args, process.wait(), output, errors)
        else:
            done = subprocess.run(
                [*wrapper, *self.command(*arguments)],
                input=stdin,
                capture_output=True,
                env=self.environ | environ,
                timeout=SECONDS_MAX,
                cwd=self.home,
            )
        result = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="surrogateescape"), done.stderr.decode()
        )
        assert "Traceback" not in result.stderr or "-v" in arguments, result.stderr
        assert code is None or result.returncode == code, (result.returncode, result.stdout, result.stderr)
        return result

    def start(self, *arguments: str | Path, **environ: str) -> Process:
        """Start a command that goes on."""
        if AVAILABLE:
            return self._fork(arguments, environ)
        return subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ | environ,
            cwd=self.home,
        )

    def _fork(self, arguments: Sequence[str | Path], environ: Mapping[str, str], stdin: bytes | None = None) -> Forked:
        words = map(str, arguments)
        return Forked(PROGRAM, *words, input=stdin, environ=self.environ | environ, directory=self.home)

    @staticmethod
    def command(*arguments: str | Path) -> list[str]:
        """Give the command line of a process that runs `stigmer`."""
        return [sys.executable, "-m", "stigmer", *map(str, arguments)]

    def without_addresses(self) -> dict[str, str]:
        """Give settings under which no address and no directory is chosen by the call itself: all from a file."""
        file = self.home / "config.yaml"
        file.write_text(f"backend:\n  local:\n    endpoint: 127.0.0.1:1\n    data_dir: {self.data}\n")
        return {"STIGMER_CONFIG": str(file), "STIGMER_DATA_DIR": "", "STIGMER_ADDR": ""}


class Daemon:
    """A daemon in the foreground of a process of its own."""

    def __init__(
        self, shell: Shell, *arguments: str, where: Sequence[str] = ("--listen", "127.0.0.1:0"), **environ: str
    ) -> None:
        self.process = shell.start("daemon", *where, *arguments, **environ)
        assert self.process.stderr is not None
        self.banner = []
        while not (self.banner and self.banner[-1].startswith("ready")):
            line = self.process.stderr.readline().decode()
            assert line, (self.banner, self.process.wait())
            self.banner.append(line.rstrip("\n"))
        info = read_daemon_info(str(shell.data))
        assert info is not None
        self.info: DaemonInfo = info
        self.address = info.listen[0]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal and give its status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(SECONDS_MAX)
        finally:
            self.process.kill()
            for pipe in (self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()
