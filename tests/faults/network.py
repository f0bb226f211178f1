"""A network of this process alone, and of those that it forks: narrow, and it drops what does not fit at once."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess

_CLONE_NEWNET = 0x4000_0000

NARROW = (
    "ip link set lo mtu 1500 up",
    # So short a queue drops a good part of whatever comes in a burst.
    "tc qdisc add dev lo root tbf rate 1mbit burst 2000 limit 4000",
)
"""The commands that make the loopback device of a new network narrow."""


def enter_narrow() -> None:
    """Leave the machine's network for a new one, for good."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for command in NARROW:
        subprocess.run(command.split(), check=True)


def dropped() -> int:
    """Give how many packets this network has dropped."""
    shown = subprocess.run(["tc", "-s", "-j", "qdisc", "show", "dev", "lo"], capture_output=True, check=True)
    return int(json.loads(shown.stdout)[0]["drops"])
