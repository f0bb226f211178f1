"""Artifacts: what is stored under a hash is that, whole and durable, for as long as it is held or needed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stigmer.artifacts import Artifacts, key_of
from stigmer.errors import CorruptArtifact, InvalidArgument, NotFound, StorageFailed

CONTENT = b"the content of an artifact" * 1000
KEY = "sha256-" + hashlib.sha256(CONTENT).hexdigest()
NO_KEYS = [
    "",
    "sha256-",
    "sha256-" + "0" * 63,
    "sha256-" + "0" * 65,
    "sha256-" + "0" * 64 + "\n",
    "sha256-" + "A" * 64,
    "sha256-" + "\u0660" * 64,
    "SHA256-" + "0" * 64,
    "0" * 64,
    "sha256-../../../" + "0" * 55,
    "/etc/passwd",
    "sha256-" + "0" * 63 + "\0",
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give where the artifacts lie; it is not there yet."""
    return tmp_path / "data" / "artifacts"


@pytest.fixture
def artifacts(directory: Path) -> Artifacts:
    """Give the artifacts of a new data directory."""
    directory.parent.mkdir()
    return Artifacts(str(directory))


def path_of(directory: Path, key: str = KEY) -> Path:
    digits = key.removeprefix("sha256-")
    return directory / digits[:2] / digits


def names_in(directory: Path) -> set[str]:
    """Give the names of all files."""
    return {path.name for path in directory.glob("*/*")}


def never(_: str) -> bool:
    return False


def always(_: str) -> bool:
    return True


# --- in and out ------------------------------------------------------------------------------------------


def test_what_is_put_comes_back(artifacts: Artifacts, directory: Path) -> None:
    """An artifact lies under its hash, readable by its owner alone; nothing else is left beside it."""
    before = os.umask(0)
    try:
        assert artifacts.put(CONTENT) == KEY == key_of(CONTENT)
    finally:
        os.umask(before)
    assert artifacts.get(KEY) == CONTENT
    assert path_of(directory).read_bytes() == CONTENT
    assert names_in(directory) == {path_of(directory).name}
    assert stat.S_IMODE(path_of(directory).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(path_of(directory).parent.stat().st_mode) == 0o700


def test_nothing_is_made_before_the_first_artifact(artifacts: Artifacts, directory: Path) -> None:
    """Reading, listing and collecting where nothing was put finds nothing and leaves nothing."""
    assert artifacts.keys() == []
    assert artifacts.collect(never) == []
    assert not artifacts.remove(KEY)
    with pytest.raises(NotFound, match=KEY):
        artifacts.get(KEY)
    assert not directory.exists()


def test_keys_are_those_of_what_is_stored(artifacts: Artifacts, directory: Path) -> None:
    """All are listed, in order; files of others are not, and stay when everything is collected."""
    keys = {artifacts.put(b"%d" % number) for number in range(300)} | {artifacts.put(b"")}
    misplaced = path_of(directory, key_of(b"0")).parent / path_of(directory, key_of(b"")).name
    foreign = [directory / "README", misplaced.parent / "notes", misplaced, directory / "zz" / ("0" * 64)]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("kept")
    assert artifacts.keys() == sorted(keys)
    assert set(artifacts.collect(never)) == keys
    assert artifacts.keys() == []
    assert all(path.exists() for path in foreign)


@pytest.mark.parametrize("key", NO_KEYS)
def test_what_is_no_key_is_refused(artifacts: Artifacts, directory: Path, key: str) -> None:
    """No path is made of anything but a prefix and 64 digits; a collection passes such a candidate over."""

    def hold() -> None:
        with artifacts.hold(key):
            raise AssertionError("it is held")

    for use in (lambda: artifacts.get(key), lambda: artifacts.remove(key), hold):
        with pytest.raises(InvalidArgument) as caught:
            use()
        assert caught.value.field == "artifact_storage_key"
    assert artifacts.collect(never, [key]) == []
    assert not directory.exists()


def test_the_same_content_again_is_not_written(artifacts: Artifacts, directory: Path) -> None:
    """A file that is whole stays the file it is."""
    artifacts.put(CONTENT)
    before = path_of(directory).stat()
    assert artifacts.put(CONTENT) == KEY
    after = path_of(directory).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    "damaged",
    [b"", CONTENT[:-1], CONTENT + b"x", CONTENT[:5000] + b"\0" + CONTENT[5001:]],
    ids=["empty", "shorter", "longer", "a byte changed"],
)
def test_a_damaged_file_is_told_and_written_anew(artifacts: Artifacts, directory: Path, damaged: bytes) -> None:
    """It is never given out; the same content put again mends it."""
    artifacts.put(CONTENT)
    path_of(directory).write_bytes(damaged)
    with pytest.raises(CorruptArtifact) as caught:
        artifacts.get(KEY)
    assert caught.value.path == str(path_of(directory))
    artifacts.put(CONTENT)
    assert artifacts.get(KEY) == CONTENT


def test_a_link_under_a_key_is_not_followed(artifacts: Artifacts, directory: Path, tmp_path: Path) -> None:
    """What is read and written is the file under the name, not one that a link leads to."""
    artifacts.put(CONTENT)
    elsewhere = tmp_path / "elsewhere"
    path_of(directory).rename(elsewhere)
    path_of(directory).symlink_to(elsewhere)
    with pytest.raises(StorageFailed):
        artifacts.get(KEY)
    artifacts.put(CONTENT)
    assert not path_of(directory).is_symlink()
    assert artifacts.get(KEY) == elsewhere.read_bytes() == CONTENT


# --- out of use ------------------------------------------------------------------------------------------


def test_collecting_removes_what_nobody_needs(artifacts: Artifacts) -> None:
    """Among the candidates, or among everything; what is needed stays."""
    keys = [artifacts.put(b"%d" % number) for number in range(10)]
    assert artifacts.collect(lambda key: key == keys[0], [keys[0], keys[1], keys[1], key_of(b"other")]) == [keys[1]]
    assert artifacts.keys() == sorted({*keys} - {keys[1]})
    assert set(artifacts.collect(lambda key: key in keys[5:])) == {keys[0], *keys[2:5]}
    assert artifacts.keys() == sorted(keys[5:])
    assert artifacts.remove(keys[5])
    assert artifacts.keys() == sorted(keys[6:])


def test_what_is_held_is_not_removed(artifacts: Artifacts) -> None:
    """Neither by a collection nor by its key, until the last one has let go."""
    with artifacts.hold(KEY):
        with artifacts.hold(KEY):
            artifacts.put(CONTENT)
        assert artifacts.collect(never) == []
        assert not artifacts.remove(KEY)
    assert artifacts.collect(never) == [KEY]


def test_a_hold_ends_with_an_error_too(artifacts: Artifacts) -> None:
    """A push that fails leaves nothing that could not be collected."""
    artifacts.put(CONTENT)
    with pytest.raises(ZeroDivisionError), artifacts.hold(KEY):
        raise ZeroDivisionError
    assert artifacts.collect(never) == [KEY]


def test_a_question_that_fails_removes_nothing(artifacts: Artifacts) -> None:
    """Where need cannot be told, even for want of a file, the artifact stays and can be used and collected later."""

    def fail(_: str) -> bool:
        raise FileNotFoundError("views/1/data.mdb")

    artifacts.put(CONTENT)
    with pytest.raises(FileNotFoundError):
        artifacts.collect(fail)
    assert artifacts.get(KEY) == CONTENT
    assert artifacts.put(CONTENT) == KEY
    assert artifacts.collect(never) == [KEY]


@contextmanager
def running(*threads: threading.Thread) -> Iterator[None]:
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def test_a_put_waits_for_a_removal_and_then_writes(artifacts: Artifacts) -> None:
    """Content that comes again while its file is being removed is there afterwards."""
    artifacts.put(CONTENT)
    pushing = threading.Thread(target=artifacts.put, args=(CONTENT,))

    def begin_to_push(_: str) -> bool:
        pushing.start()
        pushing.join(0.3)
        assert pushing.is_alive(), "it did not wait"
        return False

    assert artifacts.collect(begin_to_push) == [KEY]
    pushing.join()
    assert artifacts.get(KEY) == CONTENT


def test_pushes_of_the_same_content_beside_a_collection(artifacts: Artifacts, directory: Path) -> None:
    """Whatever crosses whatever, an artifact that is held or needed can be read, and no temporary file is lost."""
    contents = [bytes([number]) * 20_000 for number in range(3)]
    needed: Counter[str] = Counter()
    guard = threading.Lock()
    done = threading.Event()
    wrong: list[BaseException] = []

    def push(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(150):
                content = chance.choice(contents)
                key = key_of(content)
                with artifacts.hold(key):
                    assert artifacts.put(content) == key
                    with guard:
                        needed[key] += 1
                assert artifacts.get(key) == content
                with guard:
                    needed[key] -= 1
        except BaseException as error:
            wrong.append(error)

    def is_needed(key: str) -> bool:
        with guard:
            return needed[key] > 0

    removed = 0

    def collect() -> None:
        nonlocal removed
        try:
            while not done.is_set():
                removed += len(artifacts.collect(is_needed))
        except BaseException as error:
            wrong.append(error)

    with running(threading.Thread(target=collect)):
        with running(*(threading.Thread(target=push, args=(seed,)) for seed in (1, 2))):
            pass
        done.set()
    assert wrong == []
    assert removed > 0, "nothing was ever removed in between"
    artifacts.collect(never)
    assert names_in(directory) == set()


# --- crashes and disks -----------------------------------------------------------------------------------

PUT = """
import signal, sys
from stigmer.artifacts import Artifacts
from stigmer.errors import DiskFull, StorageFailed
directory, content = sys.argv[1], b"the content of an artifact" * 1000
artifacts = Artifacts(directory)
"""


def run(program: str, directory: Path, *wrapper: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, with `directory` as its argument."""
    return subprocess.run(
        [*wrapper, sys.executable, "-c", PUT + program, str(directory)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def with_strace(fault: str) -> tuple[str, ...]:
    """Give a wrapper for a process in which a call of fsync meets a fault."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("faults of the disk are made with strace")
    return (strace, "-f", "-o", "/dev/null", "-e", "trace=fsync", "-e", f"inject=fsync:{fault}")


@pytest.mark.parametrize("sync", [1, 2, 3, 4])
def test_killed_at_every_sync(artifacts: Artifacts, directory: Path, sync: int) -> None:
    """A put that dies leaves a temporary name or a whole file; then it can be repeated, and what it left goes."""
    killed = run("artifacts.put(content)", directory, *with_strace(f"signal=KILL:when={sync}"))
    assert killed.returncode == -signal.SIGKILL
    (name,) = names_in(directory)
    assert name.endswith(".new") == (sync == 1)
    assert artifacts.keys() == ([] if sync == 1 else [KEY])
    artifacts.put(CONTENT)
    assert artifacts.get(KEY) == CONTENT
    assert artifacts.collect(always) == []
    assert names_in(directory) == {path_of(directory).name}


def test_killed_at_any_moment(artifacts: Artifacts, directory: Path) -> None:
    """After kill -9 everything acknowledged is there, and nothing under a key is anything but its content."""
    program = """
import os
while True:
    print(artifacts.put(os.urandom(200_000)), flush=True)
"""
    acknowledged: set[str] = set()
    for kills in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", PUT + program, str(directory)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for _ in range(1 + kills * 3):
                acknowledged.add(child.stdout.readline().strip())
            child.kill()
            acknowledged |= {line.strip() for line in child.stdout if line.endswith("\n")}
        found = artifacts.keys()
        assert acknowledged <= set(found)
        for key in found:
            assert key_of(artifacts.get(key)) == key
    assert artifacts.collect(always) == []
    assert names_in(directory) == {key.removeprefix("sha256-") for key in found}


def test_a_full_disk(artifacts: Artifacts, directory: Path) -> None:
    """What does not fit is refused and leaves nothing; what was there stays, and with room again puts go on."""
    program = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
before = artifacts.put(b"before")
resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) - 1, resource.RLIM_INFINITY))
try:
    artifacts.put(content)
except DiskFull as error:
    assert error.path == directory
else:
    raise SystemExit("it was not refused")
assert artifacts.keys() == [before]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert artifacts.get(artifacts.put(content)) == content
"""
    done = run(program, directory)
    assert done.returncode == 0, done.stderr
    assert names_in(directory) == {key_of(content).removeprefix("sha256-") for content in (b"before", CONTENT)}


def test_a_file_that_cannot_be_synced(artifacts: Artifacts, directory: Path) -> None:
    """It is thrown away, so the next put begins with a new one."""
    program = """
try:
    artifacts.put(content)
except StorageFailed as error:
    assert "Input/output error" in error.message
else:
    raise SystemExit("it was not refused")
assert artifacts.keys() == []
artifacts.put(content)
"""
    done = run(program, directory, *with_strace("error=EIO:when=1"))
    assert done.returncode == 0, done.stderr
    assert artifacts.get(KEY) == CONTENT
    assert names_in(directory) == {path_of(directory).name}


def test_a_directory_that_cannot_be_synced(artifacts: Artifacts, directory: Path) -> None:
    """No put is acknowledged any more, not even where a later sync would succeed; reading goes on."""
    program = """
for one in (content, content, b"other"):
    try:
        artifacts.put(one)
    except StorageFailed as error:
        assert error.operation == "fsync"
    else:
        raise SystemExit("it was not refused")
(key,) = artifacts.keys()
assert artifacts.get(key) == content
"""
    done = run(program, directory, *with_strace("error=EIO:when=2"))
    assert done.returncode == 0, done.stderr


def test_a_place_that_cannot_be_written(directory: Path) -> None:
    """Where no directory can be made, the put fails and says which file it was about."""
    with pytest.raises(StorageFailed, match="write") as caught:
        Artifacts(str(directory / "missing" / "artifacts")).put(CONTENT)
    assert KEY.removeprefix("sha256-") in caught.value.path
