"""The targets without a fuzzer: seeds, what was a fault once, and mutations that are always the same. With teeth."""

from __future__ import annotations

import base64
import importlib.util
import os
import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stigmer import fields, names, page_tokens
from stigmer.daemon import splice
from stigmer.log import delta, recovery
from stigmer.log import format as fmt
from stigmer.resources import documents, zips
from stigmer.views import keys, snapshot, terms

from . import __main__ as command
from . import targets, tokens

SEED = 20_260_101
MUTATIONS = {"frames": 1500, "commits": 1500, "messages": 1000, "manifests": 250, "archives": 3000, "tokens": 1500}
"""So many take a second or two each."""
FOUND = [path for name in targets.NAMES for path in targets.found(name)]


@pytest.fixture(scope="module", autouse=True)
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let targets write where an fsync costs nothing; they leave nothing behind."""
    tmp_path_factory.getbasetemp()  # not in there
    scratch, before = targets.scratch_directory(), tempfile.tempdir
    tempfile.tempdir = scratch
    yield
    tokens.close()
    tempfile.tempdir = before
    os.rmdir(scratch)


def run(name: str, inputs: list[bytes]) -> None:
    """Give a target its inputs, then mutations of them. Raises `AssertionError` with the input that is a fault."""
    target = targets.load(name)
    changed = targets.mutations(inputs, target.TOKENS, random.Random(SEED))
    for number in range(len(inputs) + MUTATIONS[name]):
        data = inputs[number] if number < len(inputs) else next(changed)
        try:
            target.one(data)
        except Exception as error:
            raise AssertionError(f"{name}, seed {SEED}, input {number}: {data!r}") from error


@pytest.mark.parametrize("name", targets.NAMES)
def test_mutations(name: str) -> None:
    """A few thousand mutations of each target's seeds find nothing."""
    run(name, targets.inputs(name))


@pytest.mark.parametrize("name", targets.NAMES)
def test_seeds_are_always_the_same(name: str) -> None:
    """A run can be repeated from its number alone."""
    target = targets.load(name)
    assert list(target.seeds()) == list(target.seeds())
    inputs = targets.inputs(name)
    one, other = (targets.mutations(inputs, target.TOKENS, random.Random(3)) for _ in range(2))
    assert [next(one) for _ in range(50)] == [next(other) for _ in range(50)]


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_what_was_a_fault_once(path: Path) -> None:
    """An input that was found by fuzzing is none any more."""
    targets.load(path.parent.name).one(path.read_bytes())


REACHED = {
    "frames": ("_check_delta", "_check_likeness", "_check_more"),
    "commits": ("_check_changes", "_check_row", "_check_tail"),
    "messages": ("_terms", "_in_order"),
    "manifests": ("_check_manifest", "_check_problems"),
    "archives": ("_check_taken",),
    "tokens": ("_place_of",),
}
"""What each target does only with inputs that are good, or good enough."""


@pytest.mark.parametrize("name", targets.NAMES)
def test_seeds_reach_what_they_are_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target whose seeds were all refused would look at nothing."""
    target = targets.load(name)
    reached: set[str] = set()

    def watched(function: str) -> Callable[..., Any]:
        original: Callable[..., Any] = getattr(target, function)

        def call(*arguments: Any) -> Any:
            reached.add(function)
            return original(*arguments)

        return call

    for function in REACHED[name]:
        monkeypatch.setattr(target, function, watched(function))
    for data in targets.inputs(name):
        target.one(data)
    assert reached == set(REACHED[name])


# --- teeth -------------------------------------------------------------------------------------------------


def _without_own_checksum(data: bytes, at: int, offset: int, salt: int) -> fmt.FrameHeader | None:
    body = data[at : at + fmt._FRAME_BODY_SIZE]
    if len(body) < fmt._FRAME_BODY_SIZE or not body.startswith(fmt.FRAME_MAGIC):
        return None
    return fmt.FrameHeader(*fmt._FRAME.unpack(body)[1:-1])


def _without_bounds(base: bytes, body: bytes, size: int) -> bytes:
    _, count, literals, _, _ = struct.unpack_from("<HHIII", body)
    return body[16 + 12 * count :][:literals].ljust(size, b"\0")[: size + 1] if count else body


def _first_commit_only(request: bytes) -> list[bytes]:
    return [request[2 : 2 + request[1]]] if len(request) > 1 and request[0] == 0x0A else []


def _any_place(store_id: str, page_token: str) -> bytes:
    return base64.urlsafe_b64decode(page_token)[8:]


def _cut_here(fd: int, segment: Any) -> str:
    os.ftruncate(fd, segment.size)
    return "cut off"


def _unchecked(content: bytes, entry: zips.Entry) -> Iterator[bytes]:
    begin = zips.data_offset(content, entry)
    packed = memoryview(content)[begin : begin + entry.packed_bytes]
    yield from zips._inflated(packed, entry.name) if entry.method == zips.DEFLATED else zips._cut(packed)


BROKEN = {
    "a header without its checksum": ("frames", fmt, "decode_frame_header", _without_own_checksum),
    "a delta without its bounds": ("frames", delta, "decode", _without_bounds),
    "a torn tail that is not kept": ("frames", recovery, "_cut", _cut_here),
    "commits behind the first lost": ("commits", splice, "commits_of", _first_commit_only),
    "ids that are not checked": ("commits", names, "check", lambda kind, id: None),
    "a row whose value has no size": ("commits", snapshot, "_before_value", lambda size: b"\x3a"),
    "long texts in the index": ("commits", terms, "_short", lambda text: text),
    "fields of one byte": ("messages", fields, "_read_varint", lambda message, at: (message[at] & 0x7F, at + 1)),
    "terms of nothing": ("messages", terms, "_texts", lambda path: lambda message: ()),
    "a number that is a string": ("manifests", documents, "_IS_NUMBER", documents._IS_NULL),
    "entries that may overlap": ("archives", zips, "_check_layout", lambda *_: None),
    "content that is not checked": ("archives", zips, "unpacked", _unchecked),
    "any token": ("tokens", page_tokens, "place_in", _any_place),
}
"""What is broken -> the target that must see it, and what stands in the place of what."""


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_reader_is_caught(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each target finds a fault that is put in on purpose, with the mutations that find none without it."""
    name, module, attribute, broken = BROKEN[what]
    inputs = targets.inputs(name)
    forget()
    monkeypatch.setattr(module, attribute, broken)
    try:
        with pytest.raises(AssertionError, match=f"{name}, seed {SEED}"):
            run(name, inputs)
    finally:
        monkeypatch.undo()
        forget()


def forget() -> None:
    """Have the product forget the answers that it remembers: those of a broken reader are wrong for whoever is next."""
    for function in (terms._prefix, terms._readers, snapshot._before_id):
        function.cache_clear()
    keys._start_anew()
    names._kinds_seen.clear()


# --- the command -------------------------------------------------------------------------------------------


def test_without_atheris_the_command_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the extra, and the tests that need none."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command.main(["frames"]) == 2
    assert "pip install -e '.[fuzz]'" in capsys.readouterr().err


def test_an_unknown_target(capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused with those that there are."""
    with pytest.raises(SystemExit):
        command.main(["frame"])
    assert "there is: frames commits" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_the_command_fuzzes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second of fuzzing says what it did, keeps its corpus where it is told, and leaves nothing else behind."""
    told = ["archives", "--minutes", "0.02", "--seed", "7", "--corpus", str(tmp_path / "corpus")]
    assert command.main([*told, "--findings", str(tmp_path / "findings")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("seed 7, ")
    assert "crashes 0 hangs 0" in said
    assert len(list((tmp_path / "corpus" / "archives").iterdir())) >= 10


OTHER_READER_BROKEN = """
import zipfile
zipfile.ZipFile.read = lambda *_: b""
"""


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_the_command_fails_for_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An input that makes a target raise is kept in a file, which is named, and the command fails."""
    (tmp_path / "sitecustomize.py").write_text(OTHER_READER_BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert command.main(["archives", "--minutes", "0.1", "--seed", "7", "--findings", str(tmp_path / "findings")]) == 1
    said = capsys.readouterr().out
    assert "crashes 1 hangs 0" in said
    data = Path(said.splitlines()[-1].strip()).read_bytes()
    targets.load("archives").one(data)
    assert data in targets.inputs("archives")
