"""What the tests run forked is a process like any other, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forking
import pytest
from forking import Forked

pytestmark = pytest.mark.skipif(not forking.AVAILABLE, reason="processes are forked on Linux only")

TELLS = """
import os, sys
print(sys.argv[1:], os.environ["NAME"], os.getcwd(), os.getsid(0) == os.getpid(), sys.stdin.read())
print("to the other", file=sys.stderr)
sys.exit(3)
"""

WAITS = """
print("ready", flush=True)
import signal
signal.pause()
"""

HOLDS = """
import signal, sys
held = open(sys.argv[1], "w")
signal.pause()
"""

ABANDONS = """
import os, sys
from forking import Forked
holding = Forked(*sys.argv[1:3], new_session=True)
open(sys.argv[2]).close()
getattr(os, sys.argv[3])(os.getpid(), 9)
"""


def test_a_forked_process_has_what_it_is_given(tmp_path: Path) -> None:
    """Arguments, input, environment, directory and session are its own; so are what it writes and its exit status."""
    large = "x" * (1 << 20)
    process = Forked(
        TELLS, "a", "b c", input=large.encode(), environ={"NAME": "val"}, directory=tmp_path, new_session=True
    )
    output, errors = process.communicate(60)
    assert output.decode() == f"['a', 'b c'] val {tmp_path} True {large}\n"
    assert errors == b"to the other\n"
    assert (process.wait(), process.poll()) == (3, 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_forked_process_ends_by_a_signal(number: signal.Signals) -> None:
    """And its status says so, as that of any process."""
    process = Forked(WAITS)
    assert process.stdout.readline() == b"ready\n"
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(60) == -number
    process.kill()
    process.communicate(60)


def test_a_signal_to_one_whose_end_was_not_told_yet_reaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper waits for it before it tells: its number is free then, and may be another's soon."""
    process = Forked(WAITS)
    process.stdout.readline()
    process.kill()
    while Path(f"/proc/{process.pid}").exists():
        time.sleep(0.001)
    monkeypatch.setattr(process, "poll", lambda: None)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGKILL
    process.communicate(60)


def test_ctrl_c_reaches_a_forked_process() -> None:
    """Though the server that it comes from takes no notice of it."""
    process = Forked(WAITS)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(60)[1]
    assert process.wait() == -signal.SIGINT


def test_a_forked_process_that_takes_too_long_is_killed() -> None:
    """Whoever waits for its end is told."""
    process = Forked(WAITS)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(0.1)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("kill", ["kill", "killpg"])
def test_a_forked_process_ends_with_the_one_that_started_it(tmp_path: Path, kill: str) -> None:
    """However that ends: nothing is left behind by a run that was killed, alone or with all of its group."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    environ = os.environ | {"PYTHONPATH": os.path.dirname(forking.__file__)}
    with (
        subprocess.Popen(
            [sys.executable, "-c", ABANDONS, HOLDS, str(fifo), kill], env=environ, start_new_session=True
        ) as process,
        fifo.open("rb") as held,
    ):
        assert held.read() == b""  # it is at its end when nobody has it open any more
    assert process.returncode == -signal.SIGKILL


LETS_GO = """
import os, signal
os.close(1)
os.close(2)
signal.pause()
"""


def test_a_forked_process_that_writes_no_more_and_goes_on_is_killed() -> None:
    """Its end is waited for no longer than what it writes."""
    process = Forked(LETS_GO)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(0.5)
    assert process.wait() == -signal.SIGKILL
