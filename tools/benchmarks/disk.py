"""A disk whose power can be cut: an ext4 in a file, mounted through a loop device. Needs Linux and root."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

# FS_IOC_GOINGDOWN without a flush of the journal: what was not synced is lost, and every later write fails.
_GOING_DOWN = 0x8004587D
_BLOCK_BYTES = 4096
_WITHOUT_FLUSH = (2).to_bytes(4, sys.byteorder)


def why_not() -> str | None:
    """Say why there can be no such disk here; None where there can."""
    if sys.platform != "linux":
        return "it needs Linux"
    if os.geteuid() != 0:
        return "it mounts file systems, which needs root"
    return None


class Disk:
    """A mounted file system, taken down and removed when its `with` block ends."""

    def __init__(self, scratch: Path, size_bytes: int) -> None:
        """Make it below `scratch`; it takes as much there as is written to it."""
        self.path = scratch / "disk"
        self._image = scratch / "disk.ext4"
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(size_bytes // _BLOCK_BYTES * _BLOCK_BYTES)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
        self.mount()

    def mount(self) -> None:
        """Mount it; the journal is replayed where the power was cut.

        On a device of its own each time: a process in another namespace of mounts may keep the one before.
        """
        self._device = _run("losetup", "--find", "--show", "--direct-io=on", str(self._image)).strip()
        try:
            _run("mount", self._device, str(self.path))
        except BaseException:
            _run("losetup", "--detach", self._device)
            raise

    def cut(self) -> None:
        """Cut the power: everything that is not durable is lost. Then `lift` it off, and `mount` it again."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _GOING_DOWN, _WITHOUT_FLUSH)
        finally:
            os.close(fd)

    def lift(self) -> None:
        """Unmount it, once nobody uses it, with all that the machine remembers of it."""
        _run("umount", str(self.path))
        _run("losetup", "--detach", self._device)
        Path("/proc/sys/vm/drop_caches").write_text("3\n")

    def __enter__(self) -> Disk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.path.ismount(self.path):
            self.lift()
        self._image.unlink()


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
