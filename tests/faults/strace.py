"""strace, attached to a process that runs: errors, lies and delays at its system calls, and what calls it made."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import TracebackType
from typing import NamedTuple


class Call(NamedTuple):
    """A system call that was made."""

    name: str
    path: str
    """Of its first argument, where that is a descriptor."""
    arguments: str
    """The others, as strace shows them."""
    result: int
    is_injected: bool


_CALL = re.compile(r"(\w+)\((?:\d+<([^>]*)>)?(.*)\) += (-?\d+)", re.DOTALL)


class Strace:
    """Traces all threads of a process, and those to come, until that ends. Counts of `when` are each thread's own."""

    def __init__(self, pid: int, output: Path, *expressions: str) -> None:
        """Attach with expressions such as `inject=fdatasync:error=EIO:when=3`; it is attached when this returns."""
        arguments = [argument for expression in expressions for argument in ("-e", expression)]
        calls = ",".join(
            sorted({call for one in expressions for call in one.split("=", 1)[1].split(":")[0].split(",")})
        )
        self._output = output
        self._process = subprocess.Popen(
            ["strace", "-f", "-y", "-p", f"{pid}", "-o", str(output), "-e", f"trace={calls}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        line = self._process.stderr.readline()
        if "attached" not in line:
            self._process.kill()
            raise OSError(f"strace cannot attach: {line}{self._process.stderr.read()}")

    def let_go(self) -> None:
        """Detach: the process goes on, at once where a delay held it up."""
        self._process.terminate()
        self._process.wait()

    def calls(self) -> list[Call]:
        """Wait for its end, which is that of what it traces, and give the calls that have ended, in that order."""
        self._process.wait()
        begun: dict[str, str] = {}
        calls = []
        for line in self._output.read_text(errors="replace").splitlines():
            thread, _, text = line.partition(" ")
            text = text.strip()
            if text.endswith("<unfinished ...>"):
                begun[thread] = text.removesuffix("<unfinished ...>")
                continue
            if text.startswith("<..."):
                text = begun.pop(thread, "") + text.partition("resumed>")[2]
            if found := _CALL.match(text):
                name, path, arguments, result = found.groups()
                calls.append(Call(name, path or "", arguments, int(result), "(INJECTED)" in text))
        return calls

    def __enter__(self) -> Strace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.let_go()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()
