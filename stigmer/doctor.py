"""What can be wrong with an installation, a data directory and its daemon, and what helps.

Owns the list of checks. Each gives findings: what was looked at, how it is, and, where it is not well, the cure.

Invariants: nothing is repaired, and nothing is written but a small file that is removed again, the name in LOCK, and
what opening the views writes (after a power cut they are put back to their checkpoint, as the next start would);
what a check cannot find out is a finding too, never an exception. While somebody owns the data directory, log and views
are left to them, and a daemon is asked; else the lock is held while they are looked at.
"""

from __future__ import annotations

import enum
import os
import platform
import resource
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib import metadata
from typing import NamedTuple, Protocol

import msgspec

from stigmer import config, lock, unfinished
from stigmer.daemon.info import DaemonInfo, read_daemon_info, read_owner
from stigmer.errors import CorruptLog, DataDirectoryError, LogLocked, StigmerError
from stigmer.log import files, recovery
from stigmer.log.segment import FrameScan, Segment, read_seal
from stigmer.model import FrameInfo, Status
from stigmer.vault import KEY_VARIABLE, SECRETS_FILE, Vault
from stigmer.version import VERSION
from stigmer.views import generations

_ROOM_WARN_BYTES = 1 * config.GIB
_ROOM_FAIL_BYTES = 64 * config.MIB
_INODES_WARN = 10_000
_SYNC_WARN_SECONDS = 0.1
_FILES_WARN = 4096
_CLOCK_WARN_NS = 1_000_000_000
_READERS_WARN = 3_000
_PACKAGES = ("protobuf", "grpcio", "lmdb", "cryptography", "google-crc32c", "msgspec", "click")
# Their locks or their fsync are not those of a local disk, or they forget at a power cut.
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "fuse.s3", "lustre")
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


class Level(enum.StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """What one check found."""

    check: str
    level: Level
    found: str
    cure: str = ""


class _End(NamedTuple):
    """Where a log ends, and whose it is."""

    store_id: bytes
    """b"" where it is empty."""
    revision: int


class DaemonClient(Protocol):
    """What is asked of a daemon."""

    def status(self) -> Status:
        """Give its status."""

    def frame(self, revision: int) -> FrameInfo:
        """Give the frame of a revision."""


class Subject(msgspec.Struct, frozen=True):
    """What is looked at."""

    data_dir: str
    addr: str
    """Where clients look for the daemon, when nothing else is said."""
    key_file: str | None
    environ: Mapping[str, str]
    answers: Callable[[str], bool]
    """Says whether something accepts connections at an address."""
    connect: Callable[[str], AbstractContextManager[DaemonClient]]


def examine(subject: Subject) -> Iterator[Finding]:
    """Look at everything, in an order in which a cause comes before its effects."""
    yield from _guarded("python", _python)
    yield from _guarded("packages", _packages)
    yield from _guarded("open files", _open_files)
    directory = subject.data_dir
    if not os.path.lexists(directory):
        yield Finding(
            "directory",
            Level.WARN,
            f"{directory} is not there yet",
            f"stigmer daemon --data-dir {directory} makes it; or choose another with --data-dir",
        )
        yield from _guarded("address", lambda: _address(subject, None))
        return
    access = list(_guarded("directory", lambda: _directory(directory)))
    yield from access
    yield from _guarded("file system", lambda: _file_system(directory))
    yield from _guarded("room", lambda: _room(directory))
    if any(finding.level is Level.FAIL for finding in access):
        return
    yield from _guarded("fsync", lambda: _fsync(directory))
    yield from _guarded("unfinished", lambda: _unfinished(directory))
    owner = read_owner(directory)
    info = read_daemon_info(directory)
    yield from _guarded("lock", lambda: _lock(directory, owner, info))
    yield from _guarded("address", lambda: _address(subject, info))
    if owner is None:
        yield from _guarded("store", lambda: _at_rest(subject))
    elif info is not None:
        yield from _guarded("daemon", lambda: _running(subject, info))


def _guarded(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Give what a check finds; what it cannot find out is a finding too."""
    try:
        yield from look()
    except StigmerError as error:
        yield Finding(check, Level.FAIL, error.message, error.hint or "")
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        yield Finding(check, Level.FAIL, f"cannot be looked at: {error.strerror}{where}", "check the permissions")


# --- the installation ------------------------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    yield Finding(
        "python", Level.OK, f"{platform.python_version()}, stigmer {VERSION}, {platform.platform(terse=True)}"
    )


def _packages() -> Iterator[Finding]:
    found: list[str] = []
    missing: list[str] = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("packages", Level.FAIL, f"missing: {', '.join(missing)}", "pip install --force-reinstall stigmer")
    else:
        yield Finding("packages", Level.OK, ", ".join(found))
    from google.protobuf.internal import api_implementation

    form = api_implementation.Type()
    if form == "python":
        yield Finding(
            "protobuf",
            Level.FAIL,
            "runs in its pure-Python form, with which no daemon starts",
            "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install a protobuf wheel for this platform",
        )
    else:
        yield Finding("protobuf", Level.OK, f"runs as {form}")


def _open_files() -> Iterator[Finding]:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _FILES_WARN:
        yield Finding(
            "open files",
            Level.WARN,
            f"a process may open {hard}; each connection is one",
            f"raise the limit to {_FILES_WARN} or more: ulimit -Hn, or LimitNOFILE of the service",
        )
    else:
        shown = "any number of files" if hard == resource.RLIM_INFINITY else f"{hard} files"
        yield Finding("open files", Level.OK, f"a process may open {shown}")


# --- the directory ---------------------------------------------------------------------------------------


def _directory(directory: str) -> Iterator[Finding]:
    if not os.path.isdir(directory):
        yield Finding("directory", Level.FAIL, f"{directory} is not a directory", "choose another with --data-dir")
        return
    status = os.stat(directory)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(
            "directory",
            Level.FAIL,
            f"{directory} is not ours to use (owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o})",
            f"run as its owner, or: chown -R {os.getuid()} {directory} && chmod 700 {directory}",
        )
        return
    if status.st_uid != os.getuid():
        yield Finding(
            "directory",
            Level.WARN,
            f"{directory} belongs to user {status.st_uid}, and this is user {os.getuid()}",
            "run as its owner, so that it can still open what is written here",
        )
        return
    if status.st_mode & 0o077:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        yield Finding("directory", Level.WARN, f"{directory} is open to others (mode {mode})", f"chmod 700 {directory}")
        return
    foreign = [
        name
        for name in sorted(os.listdir(directory))
        if os.lstat(os.path.join(directory, name)).st_uid != status.st_uid
    ]
    if foreign:
        yield Finding(
            "directory",
            Level.WARN,
            f"{foreign[0]} in it belongs to another user",
            f"chown -R {status.st_uid} {directory}",
        )
        return
    yield Finding("directory", Level.OK, f"{directory}, ours alone")


def _file_system(directory: str) -> Iterator[Finding]:
    kind = file_system_of(directory)
    if kind is None:
        return
    if kind.startswith(_NETWORK_FILE_SYSTEMS):
        yield Finding(
            "file system",
            Level.WARN,
            f"{kind}: locks and fsync of a network file system are not those of a disk",
            "keep the data directory on a local disk",
        )
    elif kind in _MEMORY_FILE_SYSTEMS:
        yield Finding(
            "file system",
            Level.WARN,
            f"{kind}: all is lost when the machine stops",
            "keep the data directory on a disk",
        )
    else:
        yield Finding("file system", Level.OK, kind)


def file_system_of(path: str) -> str | None:
    """Give the type of the file system that holds a path; None where the system does not tell."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                # 36 35 98:0 /root /mount options ... - type source options (proc(5))
                before, _, after = line.partition(" - ")
                if before.split()[2] == wanted:
                    return after.split()[0]
    except OSError:
        pass
    return None


def _room(directory: str) -> Iterator[Finding]:
    state = os.statvfs(directory)
    free = state.f_bavail * state.f_frsize
    shown = f"{free / config.GIB:.1f} GiB free"
    cure = "free some space; a full disk refuses writes, and keeps what is there"
    if free < _ROOM_WARN_BYTES:
        yield Finding("room", Level.FAIL if free < _ROOM_FAIL_BYTES else Level.WARN, shown, cure)
    elif state.f_files and state.f_favail < _INODES_WARN:
        yield Finding("room", Level.WARN, f"{shown}, but only {state.f_favail} inodes", "remove small files")
    else:
        yield Finding("room", Level.OK, shown)


def _fsync(directory: str) -> Iterator[Finding]:
    path = os.path.join(directory, f"doctor.{os.getpid()}.new")
    took: list[float] = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for place in range(5):
            files.write_at(fd, (bytes(4096),), place * 4096)
            begun = time.monotonic()
            files.sync_data(fd)
            took.append(time.monotonic() - begun)
    finally:
        os.close(fd)
        os.unlink(path)
    median = sorted(took)[len(took) // 2]
    shown = f"{median * 1000:.1f} ms; a lone save takes about that long"
    if median > _SYNC_WARN_SECONDS:
        yield Finding("fsync", Level.WARN, shown, "use a faster disk, or --durability interval where that is enough")
    else:
        yield Finding("fsync", Level.OK, shown)


def _unfinished(directory: str) -> Iterator[Finding]:
    work = unfinished.read(directory)
    if work is not None:
        yield Finding(
            "unfinished",
            Level.FAIL,
            f"a {work.operation} of it was not finished; no store opens in it",
            f"run it again: {work.command}",
        )


def _lock(directory: str, owner: lock.Owner | None, info: DaemonInfo | None) -> Iterator[Finding]:
    if owner is None:
        yield Finding("lock", Level.OK, "nobody has the data directory open")
    elif info is None:
        yield Finding(
            "lock",
            Level.WARN,
            f"pid {owner.pid} has it open ({owner.command or 'embedded'}), and is no daemon that listens",
            "log and views were not looked at; end that process, or wait, and ask again",
        )
    else:
        yield Finding("lock", Level.OK, f"held by pid {owner.pid} since {owner.since:%Y-%m-%d %H:%M:%S} UTC")


# --- the daemon ------------------------------------------------------------------------------------------


def _address(subject: Subject, info: DaemonInfo | None) -> Iterator[Finding]:
    if info is None:
        if subject.answers(subject.addr):
            yield Finding(
                "address",
                Level.WARN,
                f"something listens at {subject.addr} that is not the daemon of this data directory",
                "name the one that is meant: --addr, or --data-dir",
            )
        else:
            yield Finding("address", Level.OK, "no daemon runs here")
        return
    for address in info.listen:
        if subject.answers(address):
            yield Finding("address", Level.OK, f"the daemon answers at {address}")
        else:
            yield Finding(
                "address",
                Level.FAIL,
                f"the daemon, pid {info.pid}, should listen at {address}, and cannot be reached there",
                "look for a firewall or a removed socket; else: stigmer daemon stop, and start it again",
            )


def _running(subject: Subject, info: DaemonInfo) -> Iterator[Finding]:
    if info.version != VERSION:
        yield Finding(
            "daemon",
            Level.WARN,
            f"it is stigmer {info.version}, this is {VERSION}",
            "start it again with the version that is installed: stigmer daemon stop; stigmer daemon --detach",
        )
    reachable = next((address for address in info.listen if subject.answers(address)), None)
    if reachable is None:
        return
    with subject.connect(reachable) as client:
        status = client.status()
        last_ns = client.frame(status.revision).time_ns if status.revision else 0
    if info.version == status.version == VERSION:
        yield Finding("daemon", Level.OK, f"pid {status.pid}, stigmer {status.version}, {status.tails} tails")
    yield Finding("log", Level.OK, f"{status.segments} segments, revision {status.revision}")
    for sentence in status.recovery:
        if sentence.startswith("cut off"):
            cure = "nothing acknowledged was lost; remove the file when nobody wants to look at it"
            yield Finding("log", Level.WARN, f"at the start: {sentence}", cure)
    behind = [name for name, at in status.checkpoints.items() if at < status.revision]
    if behind:
        yield Finding(
            "views", Level.WARN, f"behind the log: {', '.join(behind)}", "free some space, or: stigmer replay"
        )
    else:
        yield Finding("views", Level.OK, f"generation {status.generation}, up to date")
    yield from _map(status.views_bytes, status.views_map_bytes, status.views_readers, 0)
    yield from _clock(last_ns)


# --- log, views and keys, at rest ------------------------------------------------------------------------


def _at_rest(subject: Subject) -> Iterator[Finding]:
    directory = subject.data_dir
    if not os.path.isdir(os.path.join(directory, "log")):
        yield Finding("log", Level.WARN, "there is none yet", "the first start of a daemon makes it")
        return
    try:
        held = lock.take(directory, "stigmer doctor")
    except LogLocked as error:
        yield Finding("lock", Level.WARN, error.message, "somebody was quicker; ask again")
        return
    try:
        log: list[Finding] = []
        known = _log(os.path.join(directory, "log"), log)
        yield from log
        yield from _views(directory, known)
        yield from _guarded("secrets", lambda: _secrets(subject))
        yield from _guarded("leftovers", lambda: _leftovers(directory))
    finally:
        held.release()


def _log(directory: str, findings: list[Finding]) -> _End | None:
    """Look at headers and seals; give where the log ends, or None where it would not open."""
    try:
        segments = recovery.list_segments(directory)
        if not segments:
            findings.append(Finding("log", Level.OK, "is empty"))
            return _End(b"", 0)
        recovery.check_sealed(segments, 0)
        last, time_ns, is_sealed, problem = _last(segments[-1])
    except (CorruptLog, DataDirectoryError) as error:
        findings.append(Finding("log", Level.FAIL, error.message, error.hint or "stigmer log repair"))
        return None
    how = "closed clean" if is_sealed else "not closed clean"
    if problem is not None:
        how += f"; {problem}: the next open tells whether it is an unfinished write"
    findings.append(Finding("log", Level.OK, f"{len(segments)} segments, revision {last}, {how}"))
    findings.extend(_clock(time_ns))
    return _End(segments[0].header.store_id, last)


def _last(segment: Segment) -> tuple[int, int, bool, str | None]:
    """Give last revision, last time, whether it ends in a seal, and what is wrong at its end."""
    fd = segment.open()
    try:
        found = read_seal(fd, segment)
        if found is not None:
            return found[1].first_revision - 1, found[1].time_ns, True, None
        time_ns = 0
        scan = FrameScan(fd, segment, segment.size, segment.first_revision)
        for _offset, header, _stored in scan:
            time_ns = header.time_ns
        return scan.revision - 1, time_ns, False, scan.problem
    finally:
        os.close(fd)


def _views(directory: str, log: _End | None) -> Iterator[Finding]:
    notes: list[str] = []
    found = generations.open_serving(os.path.join(directory, "views"), config.MAP_BYTES_DEFAULT, notes)
    if found is None:
        why = notes[0] if notes else "there are none"
        yield Finding("views", Level.WARN, why, "the next start folds them from the log; it takes a while, no more")
        return
    generation, store_id = found
    try:
        checkpoint = generation.projector.checkpoint
        environment = generation.environment
        use, stale = environment.use(), environment.stale_readers
    finally:
        generation.close()
    end = None if log is None else log.revision
    if log is not None and log.store_id and store_id != log.store_id:
        yield Finding(
            "views",
            Level.WARN,
            "are of another store",
            "the next start folds them from the log; it takes a while, no more",
        )
    elif end is not None and checkpoint > end:
        yield Finding(
            "views",
            Level.FAIL,
            f"have revision {checkpoint}, the log ends at {end}: it was cut short or exchanged",
            "put the missing part of the log back from a backup; or: stigmer log repair",
        )
    elif end is not None and checkpoint < end:
        yield Finding("views", Level.OK, f"at revision {checkpoint} of {end}; the next start folds the rest")
    else:
        yield Finding("views", Level.OK, f"generation {generation.number}, at revision {checkpoint}")
    yield from _map(use.bytes, use.map_bytes, use.readers, stale)


def _map(used: int, map_bytes: int, readers: int, stale: int) -> Iterator[Finding]:
    shown = f"{used / config.MIB:.1f} MiB of a map of {map_bytes / config.MIB:.0f} MiB, which grows by itself"
    if stale:
        shown += f"; slots of {stale} readers that were killed were freed"
    if readers > _READERS_WARN:
        yield Finding(
            "lmdb", Level.WARN, f"{readers} readers at a time; there are 4096 slots", "start the daemon again"
        )
    else:
        yield Finding("lmdb", Level.OK, shown)


def _clock(last_ns: int) -> Iterator[Finding]:
    ahead_ns = last_ns - time.time_ns()
    if ahead_ns > _CLOCK_WARN_NS:
        until = datetime.fromtimestamp(last_ns / 1e9, UTC)
        yield Finding(
            "clock",
            Level.WARN,
            f"the last event is {ahead_ns / 1e9:.0f} s ahead of the clock; until {until:%Y-%m-%d %H:%M:%S} UTC, "
            "new ones have its time",
            "set the clock: timedatectl set-ntp true",
        )
    else:
        yield Finding("clock", Level.OK, "not behind the last event")


def _secrets(subject: Subject) -> Iterator[Finding]:
    path = os.path.join(subject.data_dir, SECRETS_FILE)
    vault = Vault.open(subject.data_dir, subject.key_file, dict(subject.environ))
    vault.close()
    if not os.path.exists(path):
        yield Finding("secrets", Level.OK, "there are none yet")
        return
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        yield Finding("secrets", Level.WARN, f"{path} is open to others (mode {mode:04o})", f"chmod 600 {path}")
    elif os.path.dirname(vault.master_key_place) == subject.data_dir and not subject.environ.get(KEY_VARIABLE):
        place = vault.master_key_place
        yield Finding("secrets", Level.OK, f"the master key fits; it is in {place}: keep a copy elsewhere")
    else:
        yield Finding("secrets", Level.OK, "the master key fits")


def _leftovers(directory: str) -> Iterator[Finding]:
    log = os.path.join(directory, "log")
    kept = [name for name in sorted(os.listdir(log)) if name.endswith(".torn")]
    kept += [name for name in sorted(os.listdir(directory)) if name.startswith("log.damaged-")]
    if kept:
        yield Finding(
            "leftovers",
            Level.WARN,
            f"{', '.join(kept[:3])}{' ...' if len(kept) > 3 else ''}: what was cut off or replaced, and kept",
            "remove it when nobody wants to look at it any more",
        )
    temporary = [
        os.path.relpath(os.path.join(folder, name), directory)
        for folder, _, names in os.walk(directory)
        for name in names
        if name.endswith(".new")
    ]
    if temporary:
        shown = f"{len(temporary)} unfinished files, such as {temporary[0]}"
        yield Finding("leftovers", Level.OK, f"{shown}; the next start removes them")
