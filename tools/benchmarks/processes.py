"""The command line and a daemon as processes of their own, in a scratch directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Commands:
    """Runs `stigmer` commands against one data directory and one socket."""

    def __init__(self, scratch: Path) -> None:
        """Keep both below `scratch`."""
        self.address = f"unix:{scratch / 'socket'}"
        self._environment = {**os.environ, "STIGMER_DATA_DIR": str(scratch / "daemon"), "STIGMER_ADDR": self.address}

    def run(self, *arguments: str) -> None:
        """Run one command to its end; raises if it fails."""
        command = [sys.executable, "-m", "stigmer", "-q", *arguments]
        subprocess.run(command, check=True, env=self._environment, stdout=subprocess.DEVNULL)

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """Have a daemon while the block runs."""
        self.run("daemon", "--listen", self.address, "--detach")
        try:
            yield
        finally:
            self.run("daemon", "stop")
