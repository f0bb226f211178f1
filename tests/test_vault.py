"""The keys of secrets: what is on disk when, who may read it, and what is left after damage, a crash or a deletion."""

from __future__ import annotations

import base64
import errno
import os
import random
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checks import deterministic
from forking import run
from hypothesis import example, given
from hypothesis import strategies as st

from stigmer import config
from stigmer.errors import (
    DataDirectoryError,
    InvalidArgument,
    KeyRetired,
    NewerFormat,
    SecretUnreadable,
    StigmerError,
    StorageFailed,
)
from stigmer.log import files
from stigmer.log.format import crc32c
from stigmer.vault import SLOT_BYTES, DataKey, Vault, is_sealed

SECRET = b"correct horse battery staple"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A data directory."""
    return tmp_path


@pytest.fixture
def vault(directory: Path) -> Iterator[Vault]:
    """The keys of a new data directory."""
    vault = open_vault(directory)
    yield vault
    vault.close()


def open_vault(directory: Path, key_file: Path | None = None, **environ: str) -> Vault:
    """Open the keys of a directory."""
    return Vault.open(str(directory), str(key_file) if key_file else None, environ)


def keys_file(directory: Path) -> Path:
    """The file with the slots."""
    return directory / "secrets.keys"


def slot_of(directory: Path, key: DataKey) -> bytes:
    """Give the bytes of a key's slot."""
    return keys_file(directory).read_bytes()[key.slot * SLOT_BYTES :][:SLOT_BYTES]


# --- sealing -------------------------------------------------------------------------------------------------

kinds = st.from_regex(r"[A-Za-z][A-Za-z0-9_.\-]{0,63}", fullmatch=True)
ids = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=64)


@deterministic
@given(kinds, ids, st.binary(max_size=300))
@example("k" * 64, "i" * 256, bytes(range(256)) * 40)
def test_what_is_sealed_opens_to_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, kind: str, id: str, plaintext: bytes
) -> None:
    """Whatever the resource is called and the secret is, now and after the keys were opened anew."""
    directory = tmp_path_factory.mktemp("vault")
    vault = open_vault(directory)
    text = vault.seal(vault.key_for(kind, id), kind, id, plaintext)
    assert is_sealed(text)
    assert vault.open_sealed(kind, id, text) == plaintext
    vault.close()
    again = open_vault(directory)
    assert again.open_sealed(kind, id, text) == plaintext
    again.close()
    for path in directory.iterdir():
        assert len(set(plaintext)) < 8 or plaintext not in path.read_bytes()
        path.unlink()


def test_the_same_secret_is_sealed_to_another_text_each_time(vault: Vault) -> None:
    """So a text does not tell that two secrets are equal."""
    key = vault.key_for("environment", "e")
    assert key.seal(SECRET) != key.seal(SECRET)


@pytest.mark.parametrize(("kind", "id"), [("environment", "f"), ("agent", "e"), ("environment", "E")])
def test_a_sealed_text_opens_in_no_other_resource(vault: Vault, kind: str, id: str) -> None:
    """Not where that has a key of its own either."""
    text = vault.key_for("environment", "e").seal(SECRET)
    vault.key_for(kind, id)
    with pytest.raises(SecretUnreadable, match="another resource") as caught:
        vault.open_sealed(kind, id, text)
    assert (caught.value.kind, caught.value.id) == (kind, id)
    with pytest.raises(ValueError, match="the key is not one of"):
        vault.seal(vault.key_for("environment", "e"), kind, id, SECRET)


def test_every_changed_character_of_a_sealed_text_is_noticed(vault: Vault) -> None:
    """A damaged text never opens, to anything."""
    text = vault.key_for("environment", "e").seal(SECRET + b"!")
    assert text.endswith("=")
    for at in range(len(text)):
        for other in {chr(ord(text[at]) ^ 1), "A", "=", "\n", "é"} - {text[at]}:
            with pytest.raises(SecretUnreadable):
                vault.open_sealed("environment", "e", text[:at] + other + text[at + 1 :])
    # The last character before "=" has two bits that mean nothing: the next one in the alphabet decodes to the same.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    loose = text[:-2] + alphabet[alphabet.index(text[-2]) + 1] + "="
    for cut in (loose, text[:-1], text[:-4], text[:40], text + "A", text + "=", text + "\n", " " + text, ""):
        with pytest.raises(SecretUnreadable):
            vault.open_sealed("environment", "e", cut)


def test_a_sealed_text_of_a_store_without_keys_is_unreadable(
    vault: Vault, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As after a restore that left the keys out: an error for this secret, and no more."""
    text = vault.key_for("environment", "e").seal(SECRET)
    other = open_vault(tmp_path_factory.mktemp("other"))
    with pytest.raises(SecretUnreadable, match="key was destroyed"):
        other.open_sealed("environment", "e", text)
    other.close()


# --- the files -----------------------------------------------------------------------------------------------


def test_nothing_is_made_before_the_first_secret(directory: Path) -> None:
    """Nor is the library of ciphers imported, which is slow."""
    vault = open_vault(directory)
    assert vault.keys_of("environment", "e") == ()
    assert vault.retire("environment", "e") == ()
    assert vault.destroy(()) == vault.sweep(lambda kind, id: False) == 0
    vault.close()
    assert list(directory.iterdir()) == []
    program = "import stigmer.vault, stigmer.resources.sealing, sys; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert done.stdout == "False\n", done.stderr


def test_the_files_are_ours_alone_and_hold_no_secret(vault: Vault, directory: Path) -> None:
    """Neither the secret nor any key but the master's can be read from them, and there is nothing else."""
    before = os.umask(0)
    try:
        key = vault.key_for("environment", "e")
    finally:
        os.umask(before)
    text = key.seal(SECRET)
    assert sorted(path.name for path in directory.iterdir()) == ["secret.key", "secrets.keys"]
    master = base64.b64decode((directory / "secret.key").read_text().splitlines()[1])
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert SECRET not in path.read_bytes()
    assert len(master) == 32
    assert master not in keys_file(directory).read_bytes()
    assert SECRET.decode() not in text
    assert slot_of(directory, key)[88:].rstrip(b"\0") == b"environment/e"


def test_keys_are_found_again_and_the_file_grows(directory: Path) -> None:
    """Over several growths, with resources that have several keys."""
    texts = {}
    for opening in range(3):
        vault = open_vault(directory)
        for n in range(100):
            key = vault.new_key("environment", f"e{n}") if opening % 2 else vault.key_for("environment", f"e{n}")
            texts[n, opening] = key.seal(b"%d %d" % (n, opening))
        for (n, number), text in texts.items():
            assert vault.open_sealed("environment", f"e{n}", text) == b"%d %d" % (n, number)
            assert len(vault.keys_of("environment", f"e{n}")) == (1 if opening == 0 else 2)
        vault.close()
    assert keys_file(directory).stat().st_size == 2 * 128 * SLOT_BYTES


def test_more_keys_than_are_kept_open_are_read_again(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory holds the last ones; the others come from the file."""
    monkeypatch.setattr(config, "SECRET_KEYS_OPEN_MAX", 3)
    texts = [vault.key_for("environment", f"e{n}").seal(b"%d" % n) for n in range(10)]
    for _ in range(2):
        assert [vault.open_sealed("environment", f"e{n}", texts[n]) for n in range(10)] == [
            b"%d" % n for n in range(10)
        ]
        assert len(vault._opened) == 3


def test_a_newer_file_is_refused_by_name(directory: Path) -> None:
    """Nothing of it is read or changed."""
    vault = open_vault(directory)
    vault.key_for("environment", "e")
    vault.close()
    content = bytearray(keys_file(directory).read_bytes())
    content[8] = 2
    content[60:64] = crc32c(0, bytes(content[:60])).to_bytes(4, "little")
    keys_file(directory).write_bytes(content)
    with pytest.raises(NewerFormat, match=r"format 2.*reads up to 1"):
        open_vault(directory)


def test_a_hundred_thousand_keys_open_quickly(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening looks at names alone: most keys are never needed, and none is opened."""
    vault = open_vault(directory)
    key = vault.key_for("agent_execution", "aex-000000")
    vault.close()
    slot = bytearray(slot_of(directory, key))
    with keys_file(directory).open("r+b") as file:
        file.seek(SLOT_BYTES)
        for n in range(100_000):
            slot[8:12] = (n + 1).to_bytes(4, "little")
            slot[108:114] = b"%06d" % n
            file.write(slot)
    opened: list[object] = []
    monkeypatch.setattr("stigmer.vault._unwrap", lambda *of: opened.append(of))
    begun = time.process_time()
    vault = open_vault(directory)
    seconds = time.process_time() - begun
    assert len(vault._entries) == 100_000
    vault.close()
    assert opened == []
    assert seconds < 2  # a tenth of this on a quiet machine


# --- the master key ------------------------------------------------------------------------------------------


def test_the_master_key_comes_from_the_environment_before_the_file(directory: Path, tmp_path: Path) -> None:
    """`STIGMER_KEY` makes no key file, and is taken out of the environment, which children would get."""
    environ = {"STIGMER_KEY": base64.b64encode(bytes(range(32))).decode(), "PATH": "/bin"}
    vault = Vault.open(str(directory), str(tmp_path / "elsewhere"), environ)
    text = vault.key_for("environment", "e").seal(SECRET)
    vault.close()
    assert environ == {"PATH": "/bin"}
    assert [path.name for path in directory.iterdir()] == ["secrets.keys"]
    with pytest.raises(DataDirectoryError, match="key file is missing"):
        open_vault(directory)
    vault = open_vault(directory, STIGMER_KEY=base64.b64encode(bytes(range(32))).decode() + "\n")
    assert vault.open_sealed("environment", "e", text) == SECRET
    vault.close()


@pytest.mark.parametrize("given_key", ["x", "AAAA", "A" * 43, "A" * 86 + "==", "é" * 32, "-" * 43 + "="])
def test_a_key_that_is_none_is_refused_without_being_shown(directory: Path, given_key: str) -> None:
    """It may be a key with a slip in it."""
    with pytest.raises(InvalidArgument, match="STIGMER_KEY: is not the base64 of 32 bytes") as caught:
        open_vault(directory, STIGMER_KEY=given_key)
    assert given_key not in f"{caught.value}{caught.value.hint}".replace(
        "STIGMER_KEY: is not the base64 of 32 bytes", ""
    )


def test_a_key_file_may_be_elsewhere_and_shared(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The second store takes the key that the first has made."""
    key_file = tmp_path_factory.mktemp("keys") / "shared.key"
    other = tmp_path_factory.mktemp("other")
    for one in (directory, other):
        vault = open_vault(one, key_file)
        vault.key_for("environment", "e")
        vault.close()
        assert [path.name for path in one.iterdir()] == ["secrets.keys"]
    assert [path.name for path in key_file.parent.iterdir()] == ["shared.key"]
    open_vault(other, key_file).close()


def test_a_key_file_that_appears_meanwhile_is_taken_and_not_replaced(directory: Path) -> None:
    """Two processes may make the same key file at once: there is one key in the end."""
    vault = open_vault(directory)
    theirs = base64.b64encode(b"x" * 32).decode()
    (directory / "secret.key").write_text(theirs)
    (directory / "secret.key").chmod(0o600)
    text = vault.key_for("environment", "e").seal(SECRET)
    vault.close()
    assert (directory / "secret.key").read_text() == theirs
    vault = open_vault(directory, STIGMER_KEY=theirs)
    assert vault.open_sealed("environment", "e", text) == SECRET
    vault.close()


def test_sixteen_processes_that_make_one_key_file_have_one_key(tmp_path: Path) -> None:
    """Whoever is first makes it; the others take it."""
    program = """
import sys
from stigmer.vault import Vault
vault = Vault.open(sys.argv[1], sys.argv[2], {})
print("ready", flush=True)
sys.stdin.readline()
vault.key_for("environment", "e")
"""
    directories = [tmp_path / f"store{n}" for n in range(16)]
    key_file = tmp_path / "keys" / "shared.key"
    key_file.parent.mkdir()
    children = []
    for directory in directories:
        directory.mkdir()
        command = [sys.executable, "-c", program, str(directory), str(key_file)]
        children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=60)
        assert child.returncode == 0
    assert [path.name for path in key_file.parent.iterdir()] == ["shared.key"]
    for directory in directories:
        open_vault(directory, key_file).close()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o660, 0o644])
def test_a_key_file_that_others_have_access_to_is_refused(directory: Path, mode: int) -> None:
    """Before the first secret as well as later."""
    vault = open_vault(directory)
    vault.key_for("environment", "e")
    vault.close()
    (directory / "secret.key").chmod(mode)
    for with_secrets in (True, False):
        if not with_secrets:
            keys_file(directory).unlink()
        with pytest.raises(DataDirectoryError, match=f"others have access to it .mode {mode:04o}") as caught:
            open_vault(directory)
        assert (caught.value.hint or "").startswith(f"chmod 600 {directory / 'secret.key'}")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "does not hold the base64 of 32 bytes"),
        (b"# only a comment\n", "does not hold"),
        (base64.b64encode(bytes(31)), "does not hold"),
        (base64.b64encode(bytes(33)), "does not hold"),
        (base64.b64encode(bytes(32)) + b"\n" + base64.b64encode(bytes(32)), "does not hold"),
        (bytes(32), "does not hold"),
        (b"\xff" * 100_000, "does not hold"),
        (base64.b64encode(bytes(32)), "another master key than that of"),
        (None, "key file is missing"),
    ],
)
def test_a_wrong_or_missing_key_file_is_refused_and_left_alone(
    directory: Path, content: bytes | None, problem: str
) -> None:
    """The error says what to do; neither file is touched; with the right key all is as before."""
    vault = open_vault(directory)
    text = vault.key_for("environment", "e").seal(SECRET)
    vault.close()
    key_file, before = directory / "secret.key", keys_file(directory).read_bytes()
    right = key_file.read_bytes()
    key_file.unlink()
    if content is not None:
        key_file.write_bytes(content)
        key_file.chmod(0o600)
    with pytest.raises(DataDirectoryError, match=problem) as caught:
        open_vault(directory)
    assert "back" in (caught.value.hint or "")
    assert (key_file.read_bytes() if key_file.exists() else None) == content
    assert keys_file(directory).read_bytes() == before
    key_file.write_bytes(right)
    key_file.chmod(0o600)
    vault = open_vault(directory)
    assert vault.open_sealed("environment", "e", text) == SECRET
    vault.close()


def test_a_key_file_that_cannot_be_made_or_is_none_is_told(directory: Path) -> None:
    """In a folder that is not there; a folder in its place; a pipe, which nobody waits for."""
    vault = open_vault(directory, directory / "nowhere" / "a.key")
    with pytest.raises(DataDirectoryError, match="cannot be made: No such file"):
        vault.key_for("environment", "e")
    vault.close()
    (directory / "folder").mkdir()
    os.mkfifo(directory / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(DataDirectoryError, match="it is not a file"):
            open_vault(directory, directory / name)
    assert not keys_file(directory).exists()


# --- damage --------------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_a_slot_costs_its_key_and_nothing_else(directory: Path) -> None:
    """The start goes on, other keys open, and the next secret of the resource gets a new key elsewhere."""
    vault = open_vault(directory)
    keys = [vault.key_for("environment", f"e{n}") for n in range(3)]
    texts = [key.seal(SECRET) for key in keys]
    vault.close()
    content = keys_file(directory).read_bytes()[: 5 * SLOT_BYTES]
    start = keys[1].slot * SLOT_BYTES
    for bit in range(8 * SLOT_BYTES):
        damaged = bytearray(content)
        damaged[start + bit // 8] ^= 1 << bit % 8
        keys_file(directory).write_bytes(damaged)
        vault = open_vault(directory)
        with pytest.raises(SecretUnreadable):
            vault.open_sealed("environment", "e1", texts[1])
        assert vault.open_sealed("environment", "e2", texts[2]) == SECRET
        if bit % 61 == 0:
            again = vault.key_for("environment", "e1")
            assert again.slot not in {key.slot for key in keys}, "what is damaged is kept"
            assert vault.open_sealed("environment", "e1", again.seal(b"new")) == b"new"
        vault.close()


def test_every_flipped_bit_of_the_header_is_told_at_the_start(directory: Path) -> None:
    """No slot is looked at with a file id or a fingerprint that may be wrong."""
    vault = open_vault(directory)
    vault.key_for("environment", "e")
    vault.close()
    content = keys_file(directory).read_bytes()
    for bit in range(8 * SLOT_BYTES):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        keys_file(directory).write_bytes(damaged)
        with pytest.raises(DataDirectoryError, match="header is damaged") as caught:
            open_vault(directory)
        assert "backup" in (caught.value.hint or "")
        assert keys_file(directory).read_bytes() == damaged


def test_a_slot_of_another_place_or_file_is_no_key(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whole as it is: its number and its file's id say that it does not belong there."""
    vault = open_vault(directory)
    first, second = vault.key_for("environment", "a"), vault.key_for("environment", "b")
    texts = first.seal(SECRET), second.seal(SECRET)
    vault.close()
    content = keys_file(directory).read_bytes()
    one, two = slot_of(directory, first), slot_of(directory, second)
    keys_file(directory).write_bytes(content[:SLOT_BYTES] + two + one + content[3 * SLOT_BYTES :])
    vault = open_vault(directory)
    for id, text in zip("ab", texts, strict=True):
        with pytest.raises(SecretUnreadable):
            vault.open_sealed("environment", id, text)
    assert vault.keys_of("environment", "a") == vault.keys_of("environment", "b") == ()
    vault.close()
    other = tmp_path_factory.mktemp("other")
    (other / "secret.key").write_bytes((directory / "secret.key").read_bytes())
    (other / "secret.key").chmod(0o600)
    vault = open_vault(other)
    vault.key_for("environment", "x")
    vault.close()
    header = keys_file(other).read_bytes()[:SLOT_BYTES]
    keys_file(other).write_bytes(header + content[SLOT_BYTES:])
    vault = open_vault(other)
    with pytest.raises(SecretUnreadable):
        vault.open_sealed("environment", "a", texts[0])
    vault.close()


def test_a_torn_slot_at_any_byte_is_harmless_and_swept(directory: Path) -> None:
    """A crash in the middle of writing a key: the file opens, other keys too, and the slot is free after the sweep."""
    vault = open_vault(directory)
    old = vault.key_for("environment", "old")
    text = old.seal(SECRET)
    before = keys_file(directory).read_bytes()[: 4 * SLOT_BYTES]
    torn = vault.key_for("environment", "torn")
    after = keys_file(directory).read_bytes()[: 4 * SLOT_BYTES]
    vault.close()
    start = torn.slot * SLOT_BYTES
    for written in range(SLOT_BYTES):
        keys_file(directory).write_bytes(after[: start + written] + before[start + written :])
        vault = open_vault(directory)
        assert vault.open_sealed("environment", "old", text) == SECRET
        # From here on only the zeros behind the name are missing.
        whole = written >= 88 + len("environment/torn")
        assert len(vault.keys_of("environment", "torn")) == whole
        vault.sweep(lambda kind, id: (kind, id) == ("environment", "old"))
        assert keys_file(directory).read_bytes() == before
        assert vault.key_for("environment", "torn").slot == torn.slot
        vault.close()


def test_a_file_that_ends_anywhere_opens(directory: Path) -> None:
    """A growth that a crash cut short is made good by the next."""
    vault = open_vault(directory)
    text = vault.key_for("environment", "e").seal(SECRET)
    vault.close()
    content = keys_file(directory).read_bytes()
    for size in (2 * SLOT_BYTES, 2 * SLOT_BYTES + 1, 3 * SLOT_BYTES - 1, len(content) - 1):
        keys_file(directory).write_bytes(content[:size])
        vault = open_vault(directory)
        assert vault.open_sealed("environment", "e", text) == SECRET
        texts = [vault.key_for("environment", f"n{n}").seal(SECRET) for n in range(200)]
        vault.close()
        vault = open_vault(directory)
        assert [vault.open_sealed("environment", f"n{n}", texts[n]) for n in range(200)] == [SECRET] * 200
        vault.close()
    keys_file(directory).write_bytes(content[: SLOT_BYTES - 1])
    with pytest.raises(DataDirectoryError, match="header is damaged"):
        open_vault(directory)


# --- deletion ------------------------------------------------------------------------------------------------


def test_destroying_removes_every_byte_of_a_resources_keys(vault: Vault, directory: Path) -> None:
    """Of all its keys, and of no other's; neither this process nor the next can open what they sealed."""
    keys = [vault.key_for("environment", "gone"), vault.new_key("environment", "gone")]
    kept = vault.key_for("environment", "kept")
    texts, kept_text = [key.seal(SECRET) for key in keys], kept.seal(SECRET)
    slots = [slot_of(directory, key) for key in keys]
    assert vault.destroy(vault.retire("environment", "gone")) == 2
    assert list(vault._opened) == [kept.slot], "still in memory"
    content = keys_file(directory).read_bytes()
    for slot in slots:
        for at in range(0, 88, 8):
            assert slot[at : at + 8] not in content or not any(slot[at : at + 8])
    assert b"gone" not in content
    for one in (vault, open_vault(directory)):
        for text in texts:
            with pytest.raises(SecretUnreadable, match="key was destroyed"):
                one.open_sealed("environment", "gone", text)
        assert one.open_sealed("environment", "kept", kept_text) == SECRET
        assert one.keys_of("environment", "gone") == ()
    one.close()


def test_a_slot_is_used_again_with_another_key(vault: Vault) -> None:
    """For the same resource too: what the first key sealed stays closed, and destroying it again takes nothing."""
    first = vault.key_for("environment", "e")
    text, retired = first.seal(SECRET), vault.retire("environment", "e")
    vault.destroy(retired)
    second = vault.key_for("environment", "e")
    assert (second.slot, second.id == first.id) == (first.slot, False)
    assert vault.destroy(retired) == 0
    with pytest.raises(SecretUnreadable):
        vault.open_sealed("environment", "e", text)
    assert vault.open_sealed("environment", "e", second.seal(SECRET)) == SECRET


def test_a_retired_key_seals_nothing_and_goes_on_opening(vault: Vault) -> None:
    """A save that was prepared before a deletion is refused; a deletion that comes to nothing loses nothing."""
    key = vault.key_for("environment", "e")
    text = key.seal(SECRET)
    assert vault.retire("environment", "e") == vault.retire("environment", "e") == (key.id,)
    with pytest.raises(KeyRetired) as caught:
        key.seal(SECRET)
    assert (caught.value.kind, caught.value.id) == ("environment", "e")
    assert vault.open_sealed("environment", "e", text) == SECRET
    new = vault.key_for("environment", "e")
    assert new.id != key.id
    assert new is vault.key_for("environment", "e")
    assert {one.id for one in vault.keys_of("environment", "e")} == {key.id, new.id}
    vault.destroy(key for key in (key.id,))
    with pytest.raises(KeyRetired):
        key.seal(SECRET)
    assert vault.open_sealed("environment", "e", new.seal(SECRET)) == SECRET


def test_a_key_of_a_save_that_was_not_made_is_freed(vault: Vault, directory: Path) -> None:
    """Unless somebody else has taken it meanwhile."""
    key = vault.key_for("environment", "e")
    vault.discard(key)
    assert slot_of(directory, key) == bytes(SLOT_BYTES)
    with pytest.raises(KeyRetired):
        key.seal(SECRET)
    shared = vault.key_for("environment", "e")
    assert shared.slot == key.slot
    vault.discard(key)
    text = vault.key_for("environment", "e").seal(SECRET)
    vault.discard(shared)
    assert vault.open_sealed("environment", "e", text) == SECRET


def test_a_start_destroys_the_keys_of_resources_that_do_not_exist(directory: Path) -> None:
    """What a crash between a deletion and its destroying left; keys that are taken meanwhile stay."""
    vault = open_vault(directory)
    texts = {id: vault.key_for("environment", id).seal(SECRET) for id in ("here", "gone", "back", "taken")}
    vault.close()
    vault = open_vault(directory)
    asked: list[str] = []

    def exists(kind: str, id: str) -> bool:
        asked.append(f"{kind}/{id}")
        if id == "gone":
            vault.key_for("environment", "back")  # created anew while the sweep is under way
        if id == "taken":
            vault.key_for("environment", "taken")  # and this one while it is asked for
        return id == "here"

    assert vault.sweep(exists) == 1
    assert asked == ["environment/here", "environment/gone", "environment/taken"]
    assert vault.open_sealed("environment", "here", texts["here"]) == SECRET
    for id in ("back", "taken"):
        assert vault.open_sealed("environment", id, texts[id]) == SECRET
    with pytest.raises(SecretUnreadable):
        vault.open_sealed("environment", "gone", texts["gone"])
    vault.close()


# --- crashes, full disks, threads ----------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from stigmer.vault import Vault
vault = Vault.open(sys.argv[1], None, {})
for n in range(int(sys.argv[2])):
    key = vault.key_for("environment", f"e{n}")
    print(key.seal(b"secret %d" % n), flush=True)
vault.key_for("environment", "unused")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_keys_outlive_a_kill(directory: Path) -> None:
    """What was sealed can be opened; a key that was not used yet is swept."""
    for count in (0, 1, 200):
        done = run(KILLED, directory, count)
        assert done.returncode == -9, done.stderr
        texts = done.stdout.split()
        assert len(texts) == count
        vault = open_vault(directory)
        assert [vault.open_sealed("environment", f"e{n}", text) for n, text in enumerate(texts)] == [
            b"secret %d" % n for n in range(count)
        ]
        vault.sweep(lambda kind, id: id != "unused")
        assert vault.keys_of("environment", "unused") == ()
        vault.close()


FULL_DISK = """
import os, resource, signal, sys
from stigmer.errors import DiskFull
from stigmer.vault import Vault

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def room(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def refused(id):
    try:
        vault.key_for("environment", id)
    except DiskFull as error:
        return str(error)

vault = Vault.open(sys.argv[1], None, {})
path = os.path.join(sys.argv[1], "secrets.keys")
room(10)
assert "secret.key" in refused("e"), "no room for the master key"
assert os.listdir(sys.argv[1]) == []
room(1000)
assert "secrets.keys" in refused("e"), "no room for the first slots"
assert os.listdir(sys.argv[1]) == ["secret.key"]
room(resource.RLIM_INFINITY)
texts = [vault.key_for("environment", f"e{n}").seal(b"s") for n in range(127)]
size = os.path.getsize(path)
room(size + 700)
assert refused("more") and refused("more"), "no room for more slots"
assert os.path.getsize(path) == size, "half a growth is still there"
assert vault.destroy(vault.retire("environment", "e3")) == 1, "a deletion needs no room"
room(1000)
assert refused("in its place"), "a file system may have no room for what is overwritten either"
room(size + 700)
assert refused("in its place") is None, "the slot that could not be written is free"
room(resource.RLIM_INFINITY)
assert refused("more") is None
again = Vault.open(sys.argv[1], None, {})
assert all(again.open_sealed("environment", f"e{n}", texts[n]) == b"s" for n in range(127) if n != 3)
"""


def test_a_full_disk_refuses_a_key_and_leaves_the_rest_usable(directory: Path) -> None:
    """At every place where room is needed; with room again all goes on."""
    done = run(FULL_DISK, directory)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_key_whose_sync_failed_is_given_to_nobody(
    vault: Vault, directory: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nor is any other made after it; what is sealed can be read on."""
    text = vault.key_for("environment", "e").seal(SECRET)
    with monkeypatch.context() as patch:

        def fail(fd: int) -> None:
            raise OSError(number, os.strerror(number))

        patch.setattr(files, "sync_data", fail)
        with pytest.raises(StorageFailed, match="fdatasync"):
            vault.key_for("environment", "f")
    with pytest.raises(StorageFailed):
        vault.key_for("environment", "f")
    with pytest.raises(StorageFailed):
        vault.destroy(vault.retire("environment", "e"))
    assert vault.keys_of("environment", "f") == ()
    again = open_vault(directory)
    assert again.open_sealed("environment", "e", text) == SECRET
    again.close()


def test_keys_that_are_made_together_share_a_sync(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one sync runs, all that comes waits for the next, and that one is enough for it."""
    vault.key_for("environment", "first")
    syncs = 0
    entered, may_end = threading.Event(), threading.Event()
    sync_data = files.sync_data

    def slow(fd: int) -> None:
        nonlocal syncs
        syncs += 1
        entered.set()
        assert may_end.wait(60)
        sync_data(fd)

    monkeypatch.setattr(files, "sync_data", slow)
    all_wait = threading.Event()

    class Counting(threading.Condition):
        """A condition that tells when the fifteen others wait."""

        waits = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.waits += 1
            if self.waits == 15:
                all_wait.set()
            return super().wait(timeout)

    vault._turn = Counting()
    threads = [threading.Thread(target=vault.new_key, args=("environment", f"e{n}")) for n in range(16)]
    threads[0].start()
    assert entered.wait(60)
    for thread in threads[1:]:
        thread.start()
    assert all_wait.wait(60)
    assert not any(vault.keys_of("environment", f"e{n}") for n in range(16)), "given before it was on disk"
    may_end.set()
    for thread in threads:
        thread.join(60)
    assert syncs == 2
    assert all(vault.keys_of("environment", f"e{n}") for n in range(16))


def test_sixteen_threads_make_use_and_destroy_keys(directory: Path) -> None:
    """Each thread's secrets open as long as they are to, in this process and after it, and slots are used again."""
    vault = open_vault(directory)
    kept: dict[str, str] = {}
    gone: dict[str, str] = {}
    errors: list[BaseException] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        try:
            for n in range(40):
                id = f"{number}-{n}"
                text = vault.key_for("environment", id).seal(id.encode())
                shared = vault.key_for("environment", "shared").seal(id.encode())
                assert vault.open_sealed("environment", id, text) == id.encode()
                assert vault.open_sealed("environment", "shared", shared) == id.encode()
                if chance.random() < 0.5:
                    assert vault.destroy(vault.retire("environment", id)) == 1
                    gone[id] = text
                else:
                    kept[id] = text
                for other, sealed in list(kept.items())[-3:]:
                    assert vault.open_sealed("environment", other, sealed) == other.encode()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for one in (vault, open_vault(directory)):
        for id, text in kept.items():
            assert one.open_sealed("environment", id, text) == id.encode()
        for id, text in gone.items():
            with pytest.raises(SecretUnreadable):
                one.open_sealed("environment", id, text)
        one.close()
    assert keys_file(directory).stat().st_size <= (len(kept) + 16 + 128 * 2) * SLOT_BYTES
    content = keys_file(directory).read_bytes()
    used = sum(any(content[at : at + SLOT_BYTES]) for at in range(SLOT_BYTES, len(content), SLOT_BYTES))
    assert len(kept) < used <= len(kept) + 16


def test_a_closed_vault_says_so(directory: Path) -> None:
    """Instead of using a descriptor that may be another file's by now."""
    vault = open_vault(directory)
    text = vault.key_for("environment", "e").seal(SECRET)
    vault.close()
    vault.close()
    for call in (lambda: vault.key_for("environment", "f"), lambda: vault.open_sealed("environment", "e", text)):
        with pytest.raises(StigmerError, match="the vault is closed"):
            call()
