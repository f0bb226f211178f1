"""LMDB opened with care: damaged files, growth, readers, forks; and which generation is used."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import pytest

from stigmer.config import MIB
from stigmer.errors import CorruptView, StigmerError
from stigmer.views import generations, page_cache
from stigmer.views.environment import DAMAGE, Environment, EnvironmentClosed
from stigmer.views.generations import Generation
from views.support import MAP_BYTES, fold_commits, mark, random_commits

STORE = bytes(range(16))


def made(directory: Path, rows: int = 300) -> bytes:
    """Make an environment with some rows; give its file."""
    directory.mkdir(exist_ok=True)
    environment = Environment(str(directory), MAP_BYTES, ["rows"])
    database = environment.databases["rows"]
    for n in range(rows):
        environment.write(lambda t, n=n: t.put(b"%d" % n, bytes(200), db=database))
    environment.close()
    return (directory / "data.mdb").read_bytes()


OPEN_AND_READ = """
import sys
from pathlib import Path
from stigmer.errors import CorruptView
from stigmer.views.environment import Environment

for directory in sys.argv[1:]:
    try:
        environment = Environment(directory, 1 << 20, ["rows"])
    except CorruptView:
        continue
    environment.read(lambda t, d: list(t.cursor(db=d["rows"])))
    sys.exit(f"{directory} was opened")
"""


def test_file_cut_short_is_found_before_it_is_opened(tmp_path: Path) -> None:
    """A file cut at any page, or inside one, is damage, and never the SIGBUS that reading it would be."""
    data = made(tmp_path / "views")
    directories = []
    for size in [*range(4096, len(data), 4096), *range(1, len(data), 9973), 1, 100, 4095, len(data) - 1]:
        directory = tmp_path / f"cut-{size}"
        directory.mkdir(exist_ok=True)
        (directory / "data.mdb").write_bytes(data[:size])
        directories.append(str(directory))
    done = subprocess.run(
        [sys.executable, "-c", OPEN_AND_READ, *directories], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(directories) > 20


@pytest.mark.parametrize("content", [b"x", b"garbage" * 5000, bytes(8192), b"\xff" * 40_960], ids=len)
def test_garbage_file_is_damage(tmp_path: Path, content: bytes) -> None:
    """A file that LMDB did not write is refused, and not changed."""
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(CorruptView, match="environment"):
        Environment(str(tmp_path), MAP_BYTES, ["rows"])
    assert (tmp_path / "data.mdb").read_bytes() == content


def test_whole_file_is_opened_after_any_ending(tmp_path: Path) -> None:
    """After every transaction the file is as long as its meta pages say, so that no whole file is refused."""
    source = random.Random(5)
    for seed in range(40):
        environment = Environment(str(tmp_path), MAP_BYTES, ["rows"])
        database = environment.databases["rows"]

        def work(transaction: object, seed: int = seed, database: object = database) -> None:
            for n in range(source.randint(1, 60)):
                transaction.put(b"%d" % n, bytes(source.randint(0, 9000)), db=database)  # type: ignore[attr-defined]
            for n in range(source.randint(0, 60)):
                transaction.delete(b"%d" % n, db=database)  # type: ignore[attr-defined]

        environment.write(work)
        shutil.copytree(tmp_path, tmp_path.parent / f"crash-{seed}")
        Environment(str(tmp_path.parent / f"crash-{seed}"), MAP_BYTES, ["rows"]).close()
        environment.close()


def test_map_grows_under_concurrent_readers(tmp_path: Path) -> None:
    """While readers come and go the map grows from 64 KiB to megabytes; every read sees whole transactions."""
    environment = Environment(str(tmp_path), 64 * 1024, ["rows"])
    database = environment.databases["rows"]
    stopping = threading.Event()
    failures: list[BaseException] = []
    reads = [0, 0, 0]

    def read(place: int) -> None:
        try:
            while not stopping.wait(0.0005):  # without a pause they would keep the interpreter's lock to themselves
                pair = environment.read(lambda t, d: (t.get(b"a", db=d["rows"]), t.get(b"b", db=d["rows"])))
                assert pair[0] == pair[1]
                reads[place] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for n in itertools.count():
        # All of them have read at least once when it ends, however busy the machine is.
        if n >= 120 and (min(reads) > 0 or failures):
            break

        def work(transaction: object, n: int = n) -> None:
            transaction.put(b"a", b"%d" % n, db=database)  # type: ignore[attr-defined]
            transaction.put(b"big %d" % (n % 120), bytes(50_000), db=database)  # type: ignore[attr-defined]
            transaction.put(b"b", b"%d" % n, db=database)  # type: ignore[attr-defined]

        environment.write(work)
    stopping.set()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert environment.size > 6_000_000
    environment.close()


def test_map_that_cannot_grow_is_a_failure_of_storage(tmp_path: Path) -> None:
    """LMDB loses its map with a growth that fails: the write says so, and so does every read that comes later."""
    program = f"""
import resource
from pathlib import Path
from stigmer.errors import StorageFailed
from stigmer.views.environment import Environment

environment = Environment({str(tmp_path)!r}, {64 * MIB}, ["rows"])
database = environment.databases["rows"]

def fill(place):
    environment.write(lambda transaction: transaction.put(b"%d" % place, bytes({MIB}), db=database))

for place in range(55):
    fill(place)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {24 * MIB}, used + {24 * MIB}))
told = []
for work in (lambda: [fill(place) for place in range(55, 80)], lambda: environment.get("rows", b"1"), environment.begin,
             lambda: environment.read(lambda transaction, databases: None), environment.check_usable):
    try:
        work()
    except StorageFailed as error:
        told.append(str(error))
assert environment.use().bytes == 0
environment.close()
print(len(told), "enlarge the map" in told[0], len(set(told)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["5", "True", "1"], done.stderr


def test_closed_environment_says_so(tmp_path: Path) -> None:
    """Reading after the close raises instead of touching a map that is gone; closing again does nothing."""
    environment = Environment(str(tmp_path), MAP_BYTES, ["rows"])
    environment.close()
    environment.close()
    with pytest.raises(EnvironmentClosed):
        environment.begin()


def test_environment_is_not_used_across_a_fork(tmp_path: Path) -> None:
    """A child can neither read nor close its parent's environment."""
    environment = Environment(str(tmp_path), MAP_BYTES, ["rows"])
    pid = os.fork()
    if pid == 0:
        try:
            environment.close()
            environment.begin()
        except StigmerError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    environment.read(lambda t, d: t.get(b"a", db=d["rows"]))
    environment.close()


# --- generations -------------------------------------------------------------------------------------------


def nothing() -> None:
    """Sync no log, where there is none."""


def serving(views: Path, *, clean: bool = False, **meta: str) -> Generation:
    """Make a generation that serves, closed again, with these entries of `meta` changed."""
    generation = generations.create(str(views), MAP_BYTES)
    generation.projector.fold(fold_commits(random_commits(1, 5)))
    generation.serve(STORE, nothing)
    generation.close(clean=clean)
    if meta:
        again = Generation(str(views), generation.number, MAP_BYTES)
        again.projector.set_meta(**meta)
        again.close()
        mark(views / str(generation.number) / "data.mdb")
    return generation


def opened(views: Path) -> tuple[int | None, list[str]]:
    """Give the number of the generation that is used, and the notes."""
    notes: list[str] = []
    found = generations.open_serving(str(views), MAP_BYTES, notes)
    if found is None:
        return None, notes
    assert found[1] == STORE
    found[0].close()
    return found[0].number, notes


@pytest.mark.parametrize(
    ("meta", "used", "note"),
    [
        ({}, True, None),
        ({"schema": "0 old"}, False, "it has another layout"),
        ({"serving": "0"}, False, None),
        ({"store": "xyz"}, False, "it does not say whose it is"),
    ],
)
def test_generation_is_used_only_if_it_can_be_trusted(
    tmp_path: Path, meta: dict[str, str], used: bool, note: str | None
) -> None:
    """Views of another layout are not used, and it is said why."""
    serving(tmp_path, **meta)
    number, notes = opened(tmp_path)
    assert number == (1 if used else None)
    assert notes == ([] if note is None else [f"generation 1 of the views is not used: {note}"])


def test_generation_closed_clean_outlives_its_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark of a clean end makes views usable in another boot, and is gone once they are in use again."""
    serving(tmp_path, clean=True)
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["clean", "data.mdb", "lock.mdb"]
    monkeypatch.setattr(page_cache, "boot_id", lambda: "another")
    assert opened(tmp_path) == (1, [])
    again = Generation(str(tmp_path), 1, MAP_BYTES)
    again.serve(STORE, nothing)
    again.close()
    assert opened(tmp_path) == (1, [])
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["checkpoint", "data.mdb", "lock.mdb"]
    (tmp_path / "1" / "checkpoint").unlink()
    assert opened(tmp_path) == (None, [])


def test_unfinished_build_does_not_hide_the_one_that_serves(tmp_path: Path) -> None:
    """The largest generation that was completed is used, whatever lies beside it, and the others can be removed."""
    serving(tmp_path)
    serving(tmp_path)
    build = generations.create(str(tmp_path), MAP_BYTES)
    build.close()
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "data.mdb").write_bytes(b"garbage")
    (tmp_path / "9" / "clean").touch()
    (tmp_path / "notes").mkdir()
    assert generations.numbers(str(tmp_path)) == [9, 3, 2, 1]
    number, notes = opened(tmp_path)
    assert number == 2
    assert len(notes) == 1
    assert notes[0].startswith("generation 9 of the views is not used")
    generations.remove_others(str(tmp_path), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "notes"]
    assert opened(tmp_path) == (2, [])


def test_damaged_checkpoint_is_not_believed(tmp_path: Path) -> None:
    """A checkpoint whose checksum does not match makes the generation one that is not used."""
    serving(tmp_path)
    generation = Generation(str(tmp_path), 1, MAP_BYTES)
    meta = generation.environment.databases["meta"]
    generation.environment.write(lambda t: t.put(b"checkpoint", b"\0" * 12, db=meta))
    generation.close()
    assert opened(tmp_path) == (None, ["generation 1 of the views is not used: is damaged"])


def test_database_that_damage_hid_is_missed(tmp_path: Path) -> None:
    """A generation in which a database is not found any more is not used: an empty one in its place would serve."""
    serving(tmp_path)
    path = tmp_path / "1" / "data.mdb"
    path.write_bytes(path.read_bytes().replace(b"snapshot.1", b"snapshot.0"))
    # Its schema, which is a row as well, says the right thing again.
    path.write_bytes(path.read_bytes().replace(b"1 snapshot.0 counts.1", b"1 snapshot.1 counts.1"))
    assert opened(tmp_path) == (None, ["generation 1 of the views is not used: it has lost snapshot.1"])


@pytest.mark.parametrize("error", DAMAGE, ids=lambda error: error.__name__)
def test_what_lmdb_says_of_a_damaged_file_is_damage(tmp_path: Path, error: type[lmdb.Error]) -> None:
    """Pages that lead in a circle, for one, are `CorruptView`, for which views are folded again."""
    environment = Environment(str(tmp_path), MAP_BYTES, ["rows"])

    def meet(*_: object) -> None:
        raise error("met")

    with pytest.raises(CorruptView):
        environment.read(meet)
    with pytest.raises(CorruptView):
        environment.write(meet)
    environment.close()
