"""What a scenario may need of the machine. Each function gives why it is not there, or ""."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from faults.network import NARROW


@cache
def root() -> str:
    """To mount, to limit, to become another user."""
    return "" if os.geteuid() == 0 else "needs root"


@cache
def strace() -> str:
    """To inject errors and kills at system calls."""
    if shutil.which("strace") is None:
        return "needs strace (Debian: apt install strace)"
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"strace cannot trace here: {tried.stderr.strip()[:200]}"


@cache
def loop_device() -> str:
    """To mount an ext4 of its own, from a file, and cut it off."""
    if reason := linux() or root():
        return reason
    for program in ("losetup", "mkfs.ext4", "e2fsck", "mount", "umount"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            return f"needs {program}"
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory, "image")
        image.touch()
        os.truncate(image, 1 << 20)
        tried = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False)
        if tried.returncode:
            return f"needs a loop device: {tried.stderr.strip()[:200]}"
        subprocess.run(["losetup", "--detach", tried.stdout.strip()], check=True)
    return ""


@cache
def network() -> str:
    """To have a network of its own, and make it narrow."""
    if reason := linux() or root():
        return reason
    for program in ("unshare", "ip", "tc"):
        if shutil.which(program) is None:
            return f"needs {program} (Debian: apt install util-linux iproute2)"
    tried = subprocess.run(
        ["unshare", "-n", "sh", "-c", " && ".join(NARROW)], capture_output=True, text=True, check=False
    )
    return "" if tried.returncode == 0 else f"cannot make a narrow network: {tried.stderr.strip()[:200]}"


def linux() -> str:
    """For system calls and /proc."""
    return "" if sys.platform == "linux" else "needs Linux"
