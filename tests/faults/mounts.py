"""An ext4 of its own, in a file behind a loop device, that can be cut off as by a loss of power.

Everything is done by system calls, for a cut and what follows it should cost some milliseconds. The mount is in a mount
namespace of this process, and the loop device lets go of its file when nobody has it open, so both go with the
process, however that ends.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import subprocess
from pathlib import Path

from faults.boots import boot

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_SET_FD = 0x4C00
_LOOP_SET_STATUS64 = 0x4C04
_LOOP_INFO = struct.Struct("=5Q4I64s64s32s2Q")
_AUTOCLEAR = 4
_WRITE_AND_WAIT = 1 | 2 | 4
_GOING_DOWN = 0x8004587D

FLUSH, LOG_FLUSH, NO_FLUSH = 0, 1, 2
"""How the file system goes down: with all that was written, with its journal as it is in memory, with neither."""


class Disk:
    """A mounted file system."""

    def __init__(self, directory: Path, size_bytes: int = 64 << 20) -> None:
        """Make it in an empty folder; it is not mounted yet."""
        self.path = directory / "disk"
        self.path.mkdir()
        image = directory / "image"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        _call(_LIBC.unshare(_CLONE_NEWNS), "unshare")
        _call(_LIBC.mount(b"none", b"/", None, _MS_REC_PRIVATE, None), "make mounts private")
        self._root = -1
        self.journals_data = False
        """Whether bytes of files go through its journal, as it is mounted."""
        self._device, self._loop = _attach(image)
        self.format()

    def format(self) -> None:
        """Make a file system with nothing in it. It must not be mounted."""
        # Everything is there from the start, so that nothing else is written later.
        extended = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        command = ("mkfs.ext4", "-q", "-F", "-J", "size=4", "-E", extended, self._device)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def mend(self) -> bool:
        """Replay the journal, and mend the file system as it is done when a machine starts; False if that cannot be.

        A cut like these leaves, once in a few hundred, a bitmap that no journal has written, and which the file system
        would later find damaged. No loss of power does so, and no file is touched by its repair.
        """
        done = subprocess.run(("e2fsck", "-f", "-p", self._device), stdout=subprocess.DEVNULL, check=False)
        return done.returncode in (0, 1)

    def mount(self, options: str = "", *, machine_has_begun_anew: bool = True) -> None:
        """Mount it, when the machine has begun anew; or in the same boot, after the disk was taken out and put back."""
        _call(_LIBC.mount(self._device.encode(), bytes(self.path), b"ext4", 0, options.encode() or None), "mount")
        self._root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        self.journals_data = "data=journal" in options
        if machine_has_begun_anew:
            boot()

    def cut(self, how: int = NO_FLUSH) -> None:
        """Cut it off: what is written or synced from now on fails."""
        fcntl.ioctl(self._root, _GOING_DOWN, struct.pack("=I", how))

    def unmount(self) -> None:
        """Unmount it; nobody may use it any more."""
        os.close(self._root)
        self._root = -1
        _call(_LIBC.umount2(bytes(self.path), 0), "unmount")

    def close(self) -> None:
        """Unmount it, if it is mounted, and let go of the loop device."""
        try:
            if self._root >= 0:
                self.unmount()
        finally:
            os.close(self._loop)


def write_out(fd: int, offset: int, size: int) -> None:
    """Have a part of a file written to the device; not what the file system needs to find it."""
    result = _LIBC.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(size), _WRITE_AND_WAIT)
    _call(result, "sync_file_range")


def _attach(image: Path) -> tuple[str, int]:
    """Give a free loop device for a file, open."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            loop = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(loop, _LOOP_SET_FD, fd)
            except OSError as error:
                os.close(loop)
                if error.errno == errno.EBUSY:
                    continue  # another process was quicker
                raise
            info = _LOOP_INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR, b"", b"", b"", 0, 0)
            fcntl.ioctl(loop, _LOOP_SET_STATUS64, info)
            return device, loop
    finally:
        os.close(fd)
        os.close(control)


def _call(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
