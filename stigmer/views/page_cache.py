"""Which page cache the files of a directory are in: what was written and not synced is whole while it lasts.

It ends with the boot of the machine, and with the mount of the file system: a disk that was pulled out and put back has
lost what was in the page cache alone, as in a power cut. Where the system tells mounts apart, both are looked at. A new
mount of a file system that was mounted elsewhere all the time, as in a container, looks like one that lost something;
views then go on from their checkpoint, which is right in any case.
"""

from __future__ import annotations

import os
import struct

_AT_FDCWD = -100
# statx(2): its answer has 256 bytes, the first 4 of which say what of it was filled in. The id of the mount is at 144.
_STATX_BYTES = 256
_STATX_MNT_ID_UNIQUE = 0x4000
_MASK = struct.Struct("=I")
_MOUNT_ID = struct.Struct("=Q")
_MOUNT_ID_OFFSET = 144


def page_cache_id(directory: str) -> str:
    """Give a name of the page cache that a directory is in; "" where there is none to be had.

    The id of the machine's boot and, on Linux 6.8 and later, the number of the mount, which is not used again until the
    next boot.
    """
    boot = boot_id()
    mount = _mount_id(directory) if boot else None
    return boot if mount is None else f"{boot} {mount}"


def boot_id() -> str:
    """Give a name of the present boot of the machine; "" where there is none to be had."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return _darwin_boot_id() if os.uname().sysname == "Darwin" else ""


def _darwin_boot_id() -> str:
    import subprocess

    asked = subprocess.run(["sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def _mount_id(directory: str) -> int | None:
    """Give the number of a directory's mount; None where the system does not tell, or there is no such directory."""
    try:
        import ctypes

        statx = ctypes.CDLL(None).statx
    except (ImportError, OSError, AttributeError):  # not Linux, or a C library or a Python without it
        return None
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(_AT_FDCWD, os.fsencode(directory), 0, _STATX_MNT_ID_UNIQUE, answer) != 0:
        return None
    if not _MASK.unpack_from(answer)[0] & _STATX_MNT_ID_UNIQUE:  # an older kernel
        return None
    mount: int = _MOUNT_ID.unpack_from(answer, _MOUNT_ID_OFFSET)[0]
    return mount
