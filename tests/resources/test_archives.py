"""Archives of skills: good ones are taken, whoever made them; all others are refused, quickly and by one error."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import stat
import struct
import subprocess
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from checks import deterministic
from hypothesis import given
from hypothesis import strategies as st

from stigmer import config
from stigmer.errors import InvalidArgument
from stigmer.resources.archives import Archive, inspect, pack

from .zipping import DEFLATED, FILE, SKILL, STORED, Part, deflated, extra_field, skill, zipped

MIB = 1024 * 1024
DESCRIPTOR = 1 << 3
UTF8 = 1 << 11
EXAMPLE = Path(__file__).parents[2] / "examples" / "skills" / "release-notes"


def refusal(artifact: bytes) -> InvalidArgument:
    """Give the error for an artifact that must be refused."""
    with pytest.raises(InvalidArgument) as caught:
        inspect(artifact)
    assert caught.value.field == "artifact"
    assert caught.value.message.isprintable()
    return caught.value


def inspected(artifact: bytes) -> Archive | None:
    """Give what an artifact is found to be; None where it is refused as it should be."""
    try:
        return inspect(artifact)
    except InvalidArgument:
        refusal(artifact)
        return None


def unicode_path(name: bytes, of: bytes) -> bytes:
    """Give the extra field with a name in Unicode."""
    return extra_field(0x7075, b"\1" + struct.pack("<I", zlib.crc32(of)) + name)


def descriptor(content: bytes, packed: bytes, shape: str = "<3I", magic: bytes = b"PK\7\x08") -> bytes:
    """Give what follows an entry whose size was not known before."""
    return magic + struct.pack(shape, zlib.crc32(content), len(packed), len(content))


# --- what is taken ---------------------------------------------------------------------------------------


def test_what_is_told_of_a_good_archive() -> None:
    """Its SKILL.md, its hash, its files and how much comes out; folders are no files."""
    folder = Part(b"scripts/", attributes=(stat.S_IFDIR | 0o755) << 16 | 0x10, method=STORED)
    artifact = skill(folder, Part(b"scripts/run.sh", b"echo\n" * 100), Part(b"empty"))
    assert inspect(artifact) == Archive(
        skill_md=SKILL.decode(), version_hash=hashlib.sha256(artifact).hexdigest(), files=3, unpacked_bytes=510
    )


@pytest.mark.parametrize(
    "artifact",
    [
        skill(Part(b"a", b"stored", STORED)),
        skill(Part("é.md".encode(), b"x", flags=UTF8), Part("ü.md".encode(), b"x"), Part(b"\x84.md", b"x")),
        skill(comment=b"made on a Monday"),
        skill(Part(b"a", b"x", comment=b"remark", extra=extra_field(0x5455, b"\1abcd") + b"\0\0\0")),
        skill(Part(b"a", packed=b""), Part(b"b/", packed=b"", attributes=0x10)),
        skill(Part(b"\x81", b"x", extra=unicode_path("ü".encode(), b"\x81"))),
        skill(Part(b"\x81", b"x", extra=unicode_path(b"../stale", b"of another name"))),
        skill(zip64={}),
        skill(zip64={}, end={"here": 0xFFFF, "entries": 0xFFFF, "size": 0xFFFFFFFF, "offset": 0xFFFFFFFF}),
        skill(
            Part(
                *(b"a", b"xx", STORED),
                local={
                    "packed_bytes": 0xFFFFFFFF,
                    "unpacked_bytes": 0xFFFFFFFF,
                    "extra": extra_field(1, struct.pack("<2Q", 2, 2)),
                },
            )
        ),
        skill(Part(b"a", b"xx", STORED, unpacked_bytes=0xFFFFFFFF, extra=extra_field(1, struct.pack("<Q", 2)))),
        *(
            skill(
                Part(
                    *(b"a", b"x" * 99, DEFLATED),
                    flags=DESCRIPTOR,
                    local={"crc": 0, "packed_bytes": told, "unpacked_bytes": told},
                    behind=descriptor(b"x" * 99, deflated(b"x" * 99), shape, magic),
                ),
                Part(b"b"),
            )
            for shape in ("<3I", "<I2Q")
            for magic in (b"", b"PK\7\x08")
            for told in (0, 0xFFFFFFFF)
        ),
        skill(Part(b"inner.zip", skill(Part(b"a", b"x" * 1000)), STORED)),
        skill(Part(b"inner.zip", skill(), STORED), comment=b"a comment"),
        skill(Part(b"x" * 1024, b"x")),
        skill(Part(b"a b/c:d/-e", b"x"), Part(b"..a/b../...", b"x")),
        skill(Part(b"a-b", b"x"), Part(b"a/b", b"x"), Part(b"a.b", b"x")),
    ],
)
def test_every_lawful_way_to_write_a_zip(artifact: bytes) -> None:
    """What other writers do, each in its way, is read as Python's own reader does."""
    found = inspect(artifact)
    with zipfile.ZipFile(io.BytesIO(artifact)) as archive:
        assert archive.testzip() is None
        assert found.files == sum(not info.is_dir() for info in archive.infolist())
        assert found.unpacked_bytes == sum(info.file_size for info in archive.infolist())
    assert found.skill_md == SKILL.decode()


@pytest.mark.parametrize(
    "command", ["zip -q -r {} .", "zip -q -r - . | cat > {}", "zip -q -fz -r {} .", "zip -q -0 -r {} ."]
)
def test_zips_of_the_usual_program(tmp_path: Path, command: str) -> None:
    """Made at once or through a pipe, in the long form or the short one, compressed or not."""
    if shutil.which("zip") is None:
        pytest.skip("there is no zip program")
    folder = tmp_path / "skill"
    (folder / "scripts").mkdir(parents=True)
    (folder / "SKILL.md").write_bytes(SKILL)
    (folder / "scripts" / "é.sh").write_bytes(b"echo\n" * 1000)
    subprocess.run(command.format(tmp_path / "skill.zip"), shell=True, cwd=folder, check=True)
    found = inspect((tmp_path / "skill.zip").read_bytes())
    assert (found.skill_md, found.files, found.unpacked_bytes) == (SKILL.decode(), 2, len(SKILL) + 5000)


def test_a_mark_of_the_byte_order_is_no_text() -> None:
    """Some editors begin a file with it; it does not reach the agent."""
    assert inspect(zipped(Part(b"SKILL.md", b"\xef\xbb\xbf# A"))).skill_md == "# A"


# --- limits ----------------------------------------------------------------------------------------------


def test_as_much_as_is_allowed() -> None:
    """The most entries, the longest SKILL.md, and a small zip with much more than its size in it."""
    most = zipped(
        *(Part(b"%d" % number) for number in range(config.ARTIFACT_ENTRIES_MAX - 1)), Part(b"SKILL.md", SKILL)
    )
    assert inspect(most).files == config.ARTIFACT_ENTRIES_MAX
    text = random.Random(1).randbytes(config.SKILL_MD_BYTES_MAX // 2).hex().encode()
    assert len(inspect(zipped(Part(b"SKILL.md", text))).skill_md) == config.SKILL_MD_BYTES_MAX
    assert inspect(skill(Part(b"zeros", bytes(MIB - len(SKILL))))).unpacked_bytes == MIB


def test_the_ratio_to_the_byte() -> None:
    """A zip may hold a hundred times its size, and not one byte more."""
    total = 2_000_000
    zeros = Part(b"zeros", bytes(total - len(SKILL)))
    # A comment brings the zip to the size that is asked for.
    bare = len(skill(zeros))
    enough = skill(zeros, comment=b"x" * (total // config.ARTIFACT_RATIO_MAX - bare))
    assert inspect(enough).unpacked_bytes == total == config.ARTIFACT_RATIO_MAX * len(enough)
    too_small = skill(zeros, comment=b"x" * (total // config.ARTIFACT_RATIO_MAX - bare - 1))
    assert '"zeros" brings' in refusal(too_small).message


@pytest.mark.parametrize(
    ("artifact", "told"),
    [
        (zipped(*(Part(b"%d" % n) for n in range(10_000)), Part(b"SKILL.md", SKILL)), "10001 files and folders"),
        (zipped(Part(b"SKILL.md", b"x" * (MIB + 1))), '"SKILL.md" has 1048577 bytes; at most 1048576'),
        (skill(Part(b"zeros", bytes(MIB))), '"zeros" brings what comes out in all above 100 times'),
        (skill(Part(b"noise", os.urandom(20_000)), Part(b"zeros", bytes(3 * MIB))), '"zeros" brings'),
        (skill(Part(b"x" * 1025, b"x")), "a name of more than 1024 bytes"),
        (skill(Part(b"\x81", b"x", extra=unicode_path(b"x" * 1025, b"\x81"))), "a name of more than 1024 bytes"),
    ],
)
def test_more_than_is_allowed(artifact: bytes, told: str) -> None:
    """Each limit, broken by one."""
    assert told in refusal(artifact).message


def test_a_zip_that_is_too_large() -> None:
    """It is refused without a look at it."""
    assert "104857601 bytes" in refusal(bytes(config.ARTIFACT_BYTES_MAX + 1)).message


def test_a_bomb_costs_nothing() -> None:
    """Zeros by the gigabyte, told of truthfully or not, are refused before they come out, or with the first of them."""
    zeros = deflated(bytes(64 * MIB))
    honest = [
        Part(b"%d" % number, packed=zeros, unpacked_bytes=64 * MIB, crc=zlib.crc32(bytes(64 * MIB)))
        for number in range(9)
    ]
    lying = [part._replace(unpacked_bytes=100) for part in honest]
    noise = Part(b"noise", random.Random(1).randbytes(6 * MIB), STORED)
    for parts, told in (
        ([noise, *honest], '"7" brings what comes out in all above 524288000 bytes'),
        (honest[:1], '"0" brings what comes out in all above 100 times'),
        (lying, '"0" holds more than the 100 bytes'),
    ):
        artifact = skill(*parts)
        tracemalloc.start()
        begun = time.process_time()
        assert told in refusal(artifact).message
        assert time.process_time() - begun < 0.5
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
        tracemalloc.stop()


def test_checking_takes_little_memory() -> None:
    """Beside the archive there is never more than a piece of what is in it."""
    noise = random.Random(1).randbytes(8 * MIB)
    artifact = skill(Part(b"packed", noise), Part(b"stored", noise, STORED))
    tracemalloc.start()
    assert inspect(artifact).unpacked_bytes == len(SKILL) + 16 * MIB
    assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    tracemalloc.stop()


def test_what_fills_the_last_piece() -> None:
    """Where all was taken in and a piece is full, what is still to come is not forgotten."""
    noise = Part(b"noise", random.Random(1).randbytes(20_000), STORED)
    for more in range(0, 520, 4):
        zeros = bytes(MIB + more)
        assert inspect(skill(noise, Part(b"zeros", zeros))).files == 3, more


def test_a_directory_of_a_million_entries_costs_nothing() -> None:
    """The number of entries is looked at before any of them; a number that lies, after as many as it says."""
    million = 1_000_000
    directory = zipped(Part(b"", packed=b""))[30:-22] * million

    def with_end(entries: int) -> bytes:
        long = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, len(directory), 0)
        locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(directory), 1)
        short = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        return directory + long + locator + short

    for entries, told in ((million, "1000000 files and folders"), (1, "more than the 1 entries")):
        artifact = with_end(entries)
        tracemalloc.start()
        assert told in refusal(artifact).message
        assert tracemalloc.get_traced_memory()[1] < MIB
        tracemalloc.stop()


# --- what is not a skill ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("artifact", "told", "hint"),
    [
        (b"", "is empty", "stigmer skill push"),
        (b"# A skill, but no zip", "is not a zip", "zip -r"),
        (b"\x1f\x8b" + bytes(100), "is not a zip", "zip -r"),
        (zipped(), "has no SKILL.md at its top", "put a SKILL.md"),
        (zipped(Part(b"README.md", b"x")), "has no SKILL.md", "put a SKILL.md"),
        (
            zipped(Part(b"my-skill/"), Part(b"my-skill/SKILL.md", SKILL)),
            "has no SKILL.md",
            '"my-skill": zip what is in',
        ),
        (zipped(Part(b"skill.md", SKILL)), "has no SKILL.md", 'not "skill.md"'),
        (zipped(Part(b"SKILL.md/"), Part(b"SKILL.md/a", SKILL)), "has no SKILL.md", "put a SKILL.md"),
        (zipped(Part(b"SKILL.md")), '"SKILL.md" is empty', "say in it"),
        (zipped(Part(b"SKILL.md", b" \n\xef\xbb\xbf\n".strip())), '"SKILL.md" is empty', "say in it"),
        (zipped(Part(b"SKILL.md", b" \n\t\n")), '"SKILL.md" is empty', "say in it"),
        (zipped(Part(b"SKILL.md", b"abc\xff")), '"SKILL.md" is not UTF-8: byte 3', "save it"),
        (
            zipped(Part(b"\x81", SKILL, extra=unicode_path(b"SKILL.md", b"\x81"))),
            "has two names",
            None,
        ),
    ],
)
def test_what_is_not_a_skill(artifact: bytes, told: str, hint: str | None) -> None:
    """It is said what is missing and what to do."""
    error = refusal(artifact)
    assert told in error.message
    assert (hint or "") in (error.hint or "")


@pytest.mark.parametrize(
    "name",
    [
        *(b"../a", b"a/../../b", b"a/..", b"..", b"/etc/passwd", b"/", b"//a", b"a//b", b"a//", b"./a", b"a/./b", b"."),
        *(b"C:/a", b"c:a", b"\\a", b"a\\..\\b", b"..\\a", b"\\\\host\\a", b""),
        *(b"a\0b", b"a\nb", b"a\x1b[2Jb", b"a\x7fb", b"\0", "a\u2028b".encode(), "a\x85b".encode()),
    ],
)
def test_names_that_leave_the_folder_or_hide_something(name: bytes) -> None:
    """They are refused whether they are an entry's name or its second one, and shown without what they hide."""
    for part in (Part(name, b"x"), Part(b"\x81", b"x", extra=unicode_path(name, b"\x81"))):
        error = refusal(skill(part))
        assert error.hint is not None
        assert "name it with" in error.hint


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ((b"SKILL.md",), '"SKILL.md" would be unpacked in the place of "SKILL.md"'),
        ((b"Skill.md",), '"Skill.md" would be unpacked in the place of "SKILL.md"'),
        ((b"a/B", b"x", b"A/b"), "in the place of"),
        (("\u00e9".encode(), "e\u0301".encode()), "in the place of"),
        (("stra\u00dfe".encode(), b"STRASSE"), "in the place of"),
        ((b"a", b"a/"), "in the place of"),
        ((b"a/", b"a/"), "in the place of"),
        ((b"a", b"a-b", b"a.b", b"A/b/c"), '"A/b/c" lies in "a", which is a file'),
        ((b"SKILL.md/a",), "which is a file"),
    ],
)
def test_entries_in_each_others_place(names: tuple[bytes, ...], told: str) -> None:
    """No two may be one file on any system, nor may a file be a folder as well."""
    assert told in refusal(skill(*(Part(name) for name in names))).message


def test_names_that_only_some_readers_take_for_one() -> None:
    """A name in Unicode beside the real one counts, too."""
    hidden = Part(b"\x81", b"x", extra=unicode_path(b"skill.MD", b"\x81"))
    assert "in the place of" in refusal(skill(hidden)).message


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (Part(b"a", b"/etc/passwd", attributes=(stat.S_IFLNK | 0o777) << 16), "is a symbolic link"),
        (Part(b"a/", b"", attributes=(stat.S_IFLNK | 0o777) << 16), "is a symbolic link"),
        (Part(b"a", attributes=(stat.S_IFIFO | 0o644) << 16), "neither a file nor a folder"),
        (Part(b"a", attributes=(stat.S_IFCHR | 0o644) << 16), "neither a file nor a folder"),
        (Part(b"a", attributes=(stat.S_IFBLK | 0o644) << 16), "neither a file nor a folder"),
        (Part(b"a", attributes=(stat.S_IFSOCK | 0o644) << 16), "neither a file nor a folder"),
        (Part(b"a", attributes=(stat.S_IFDIR | 0o755) << 16), "is a folder, but not named as one"),
        (Part(b"a", attributes=0x10), "is a folder, but not named as one"),
        (Part(b"a/", b"x", attributes=0), "named as a folder, but has content"),
        (Part(b"a", b"x", flags=1), "is encrypted"),
        (Part(b"a", b"x", flags=1 << 6), "is encrypted"),
        (Part(b"a", b"x", flags=1 << 13), "is encrypted"),
        (Part(b"a", b"x", flags=1 << 5), "in a way that not every reader knows"),
        (Part(b"a", b"x", method=99), "method 99"),
        (Part(b"a", b"x", method=12), "method 12"),
        (Part(b"a", b"x", method=9), "method 9"),
        (Part(b"a", b"x", needed=64), "version 64"),
        (Part(b"/etc/passwd", b"x"), '"/etc/passwd" is an absolute path'),
        (Part(b"\xff", flags=UTF8), "not in UTF-8 as it says"),
        (Part(b"\x81", extra=unicode_path(b"\xff", b"\x81")), "second name that is not in UTF-8"),
    ],
)
def test_entries_that_are_no_plain_files(part: Part, told: str) -> None:
    """Links, devices, what needs a password or a reader of its own."""
    assert told in refusal(skill(part)).message


# --- lies and damage -------------------------------------------------------------------------------------

MAGIC = 0x08074B50
"""A checksum that looks like the signature of a descriptor."""
IN_ONE_BLOCK = struct.pack("<BHH", 1, 65531, 65531 ^ 0xFFFF) + bytes(65531)
"""What is compressed, not compressed at all, in 64 KiB."""
OTHERWISE = "is told of in one way by the directory and in another"
NOBODYS = "is followed by bytes that belong to no entry"


@pytest.mark.parametrize(
    ("artifact", "told"),
    [
        (skill(Part(b"a", b"xyz", crc=1)), "its checksum does not match"),
        (skill(Part(b"a", b"xyz", STORED, crc=1)), "its checksum does not match"),
        (skill(Part(b"a", b"xyz", unpacked_bytes=2)), "holds more than the 2 bytes"),
        (skill(Part(b"a", b"xyz", unpacked_bytes=4)), "holds 3 bytes, not 4"),
        (skill(Part(b"a", b"xyz", STORED, unpacked_bytes=2)), "holds more than the 2 bytes"),
        (skill(Part(b"a", b"xyz", packed=deflated(b"xyz")[:-1])), "what is compressed does not end"),
        (skill(Part(b"a", b"xyz", packed=deflated(b"xyz") + b"?")), "behind the end of what is compressed"),
        (skill(Part(b"a", b"xyz", packed=deflated(b"xyz") + bytes(70_000))), "behind the end of what is compressed"),
        (skill(Part(b"a", bytes(65531), packed=IN_ONE_BLOCK + b"?")), "behind the end of what is compressed"),
        (skill(Part(b"a", b"xyz", packed=b"\xff\xff")), '"a" is damaged'),
        (skill(Part(b"a", b"xyz", local={"name": b"b"})), OTHERWISE),
        (skill(Part(b"a", b"xyz", STORED, local={"method": DEFLATED})), OTHERWISE),
        (skill(Part(b"a", b"xyz", local={"crc": 0})), OTHERWISE),
        (skill(Part(b"a", b"xyz", local={"packed_bytes": 0})), OTHERWISE),
        (skill(Part(b"a", b"xyz", local={"unpacked_bytes": 0})), OTHERWISE),
        (skill(Part(b"a", b"xyz", local={"flags": 1})), OTHERWISE),
        (skill(Part("ü".encode(), b"x", flags=UTF8, local={"flags": 0})), OTHERWISE),
        (skill(Part(b"\x81", b"x", local={"extra": unicode_path(b"b", b"\x81")})), OTHERWISE),
        (
            skill(
                Part(
                    *(b"a", b"xyz", STORED),
                    flags=DESCRIPTOR,
                    local={"unpacked_bytes": 7},
                    behind=descriptor(b"xyz", b"xyz"),
                )
            ),
            OTHERWISE,
        ),
        (skill(Part(b"a", b"xyz", behind=b"?")), NOBODYS),
        (skill(Part(b"a", b"xyz", behind=descriptor(b"xyz", b"xyz"))), NOBODYS),
        (skill(Part(b"a", b"xyz", STORED, flags=DESCRIPTOR)), NOBODYS),
        (skill(Part(b"a", b"xyz", STORED, flags=DESCRIPTOR, behind=descriptor(b"xy", b"xyz"))), NOBODYS),
        (skill(Part(b"a", b"xyz", STORED, flags=DESCRIPTOR, behind=descriptor(b"xyz", b"xyz") + b"?")), NOBODYS),
        (
            skill(Part(b"a", b"xyz", STORED, flags=DESCRIPTOR, crc=MAGIC, behind=struct.pack("<3I", MAGIC, 3, 3))),
            "its checksum does not match",
        ),
        (skill(between=b"?"), NOBODYS),
        (skill(before=b"#!/bin/sh\n"), "something was put before its first entry"),
        (b"#!/bin/sh\n" + skill(), "or something was put before or behind it"),
        (skill() + b"\n", "it is cut off, or something was put behind its end"),
        (skill()[:-1], "its end is missing"),
        (skill(comment=b"abc")[:-1], "it is cut off"),
        (skill()[:60], "its end is missing"),
        (skill(Part(b"a", b"x", offset=0)), "overlaps another entry"),
        (skill(Part(b"a", b"x", offset=1)), "does not begin where the directory says"),
        (skill(Part(b"a", b"x", offset=2**31)), NOBODYS),
        (skill(Part(b"a", b"x", STORED, packed_bytes=2**31)), "overlaps what comes behind"),
        (skill(Part(b"a", extra=b"\1\0\xff\0")), "extra fields that are damaged"),
        (skill(Part(b"a", local={"extra": b"\1\0\xff\0"})), "extra fields that are damaged"),
        (
            skill(Part(b"a", unpacked_bytes=0xFFFFFFFF, extra=extra_field(1, b"1234567"))),
            "extra fields that are damaged",
        ),
        (skill(Part(b"a", extra=extra_field(1, b"") * 2)), "an extra field twice"),
        (skill(Part(b"a", disk=1)), "part of a set"),
        (skill(end={"disk": 1}), "part of a set"),
        (skill(end={"directory_disk": 1}), "part of a set"),
        (skill(end={"here": 0}), "part of a set"),
        (skill(end={"here": 0, "entries": 0}), "more than the 0 entries"),
        (skill(end={"here": 2, "entries": 2}), "shorter than its end says"),
        (skill().replace(b"\x08\0\0\0\0\0", b"\x08\0\0\0\1\0"), "shorter than its end says"),
        (skill(Part(b"a"), end={"here": 1, "entries": 1}), "more than the 1 entries"),
        (skill(end={"size": 0}), "not where its end says"),
        (skill(end={"size": 2**32 - 1}), "not where its end says"),
        (skill(end={"offset": 0}), "not where its end says"),
        (skill(end={"comment": 1}), "it is cut off"),
        (skill(zip64={"at": 0}), "its zip64 end is not where it should be"),
        (skill(zip64={"at": 2**63}), "its zip64 end is not where it should be"),
        (skill(zip64={})[:-42] + b"?" + skill(zip64={})[-42:], "its zip64 end is not where it should be"),
        (skill(zip64={"disks": 2}), "part of a set"),
        (skill(zip64={"length": 45}), "its two ends contradict each other"),
        (skill(zip64={"entries": 2, "here": 2}), "its two ends contradict each other"),
        (skill(zip64={"size": 2**63}, end={"size": 0xFFFFFFFF}), "not where its end says"),
        (skill(zip64={"entries": 2**63, "here": 2**63}, end={"entries": 0xFFFF, "here": 0xFFFF}), "files and folders"),
        (skill(zip64={"directory_disk": 1}), "part of a set"),
    ],
)
def test_zips_that_lie(artifact: bytes, told: str) -> None:
    """Whatever is told twice must agree, and every byte must belong to something."""
    assert told in refusal(artifact).message


def test_entries_that_share_their_bytes() -> None:
    """Many entries over one kernel of zeros, as in the bombs without nesting, do not even get looked into."""
    kernel = Part(b"a", bytes(50_000))
    artifact = skill(kernel, *(kernel._replace(name=b"%d" % number, packed=b"", offset=47) for number in range(100)))
    assert "overlap" in refusal(artifact).message


def test_every_cut_is_refused() -> None:
    """An archive that is not whole is not taken, wherever it ends."""
    artifact = skill(Part(b"a", b"x" * 100), zip64={}, comment=b"comment")
    for size in range(len(artifact)):
        refusal(artifact[:size])


def test_every_flipped_bit_is_harmless() -> None:
    """With any bit flipped an archive is refused, or it has the same files with the same content."""
    artifact = skill(Part(b"a", b"x" * 100), zip64={})
    expected = inspect(artifact)
    for place in range(len(artifact) * 8):
        flipped = bytearray(artifact)
        flipped[place // 8] ^= 1 << place % 8
        found = inspected(bytes(flipped))
        assert found is None or (found.skill_md, found.files, found.unpacked_bytes) == (
            expected.skill_md,
            2,
            expected.unpacked_bytes,
        )


@deterministic
@given(st.binary(max_size=300))
def test_random_bytes(noise: bytes) -> None:
    """Whatever comes is refused as an argument, alone and in the places that are looked at first."""
    for artifact in (noise, noise + zipped(), b"PK\3\4" + noise, skill() + noise[:20], noise + skill()):
        inspected(artifact)


SEEDS = [
    skill(),
    skill(Part(b"a/b", b"x" * 500), Part("ü".encode(), b"", flags=UTF8), comment=b"PK\5\6"),
    skill(Part(b"a", b"xx" * 50, STORED), zip64={}),
    skill(
        Part(
            *(b"a", b"x" * 99, DEFLATED),
            flags=DESCRIPTOR,
            local={"crc": 0, "packed_bytes": 0, "unpacked_bytes": 0},
            behind=descriptor(b"x" * 99, deflated(b"x" * 99)),
        ),
        Part(b"\x81", b"x", extra=unicode_path("ü".encode(), b"\x81")),
    ),
]
NUMBERS = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\1\0\0\0",
    b"PK\1\2",
    b"PK\5\6",
    b"\xff\xff",
    b"\0\0",
)
mutations = st.lists(
    st.tuples(
        st.integers(0, 2**16),
        st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from(NUMBERS)),
        st.sampled_from(["replace", "insert", "remove", "repeat"]),
    ),
    min_size=1,
    max_size=5,
)


@deterministic
@given(st.sampled_from(SEEDS), mutations)
def test_mutated_zips(seed: bytes, changes: list[tuple[int, bytes, str]]) -> None:
    """Nothing but the one error comes out; what is taken is what Python's own reader finds, too; none takes long."""
    changed = bytearray(seed)
    for place, piece, way in changes:
        at = place % (len(changed) + 1)
        match way:
            case "replace":
                changed[at : at + len(piece)] = piece
            case "insert":
                changed[at:at] = piece
            case "remove":
                del changed[at : at + len(piece)]
            case _:
                changed[at:at] = changed[at : at + 40]
    begun = time.process_time()
    found = inspected(bytes(changed))
    if found is not None:
        with zipfile.ZipFile(io.BytesIO(changed)) as archive:
            assert archive.testzip() is None
            assert archive.read("SKILL.md").decode("utf-8-sig") == found.skill_md
            assert sum(info.file_size for info in archive.infolist()) == found.unpacked_bytes
    assert time.process_time() - begun < 1


# --- pack ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give the folder of a skill."""
    made = tmp_path / "my-skill"
    (made / "scripts" / "deep").mkdir(parents=True)
    (made / "SKILL.md").write_bytes(SKILL)
    (made / "scripts" / "run.sh").write_bytes(b"echo\n")
    (made / "scripts" / "deep" / "é.txt").write_bytes(b"x" * 1000)
    return made


def test_a_folder_there_and_back(folder: Path) -> None:
    """What is packed is taken, and is the files that were in the folder."""
    packed = pack(str(folder))
    found = inspect(packed)
    assert (found.skill_md, found.files, found.unpacked_bytes) == (SKILL.decode(), 3, len(SKILL) + 1005)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = ["SKILL.md", "scripts/deep/é.txt", "scripts/run.sh"]
        assert archive.namelist() == names
        assert all(archive.read(name) == (folder / name).read_bytes() for name in names)
        assert {info.external_attr for info in archive.infolist()} == {FILE}


def test_the_same_files_make_the_same_version(folder: Path, tmp_path: Path) -> None:
    """Times, modes, the order in which files were made and the folder's own name do not count; content does."""
    packed = pack(str(folder))
    other = tmp_path / "other"
    for path in sorted((path for path in folder.rglob("*") if path.is_file()), reverse=True):
        copy = other / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o700)
        os.utime(copy, (0, 0))
    assert pack(str(other)) == packed == pack(f"{folder}/")
    (other / "SKILL.md").write_bytes(SKILL + b"!")
    assert pack(str(other)) != packed


def test_what_is_left_out(folder: Path) -> None:
    """What begins with a dot, compiled Python, and folders that are empty."""
    packed = pack(str(folder))
    for name in (".git/config", ".DS_Store", "scripts/.env", "scripts/__pycache__/run.pyc"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / ".link").symlink_to("/etc/passwd")
    (folder / "empty").mkdir()
    assert pack(str(folder)) == packed


def test_links_inside_the_folder_are_files(folder: Path) -> None:
    """What they lead to is packed under their name."""
    (folder / "scripts" / "link").symlink_to("../SKILL.md")
    with zipfile.ZipFile(io.BytesIO(pack(str(folder)))) as archive:
        assert archive.read("scripts/link") == SKILL


def test_links_that_are_refused(folder: Path, tmp_path: Path) -> None:
    """Out of the folder, to nowhere, in a circle, to a folder: each is named, with what to do."""
    (tmp_path / "my-skill-secret").write_bytes(b"x")
    for target, told in (
        ("/etc/passwd", "is a link that leaves the folder, to /etc/passwd"),
        ("../my-skill-secret", "is a link that leaves the folder"),
        ("..", "is a link that leaves the folder"),
        ("missing", "is a link that leads nowhere"),
        ("link", "is a link that leads nowhere"),
        (".", "is a link to something else than a file"),
        ("scripts", "is a link to something else than a file"),
    ):
        link = folder / "link"
        link.symlink_to(target)
        with pytest.raises(InvalidArgument, match=told) as caught:
            pack(str(folder))
        assert caught.value.field == str(link)
        assert caught.value.hint is not None
        link.unlink()


def test_folders_that_cannot_be_packed(folder: Path, tmp_path: Path) -> None:
    """Each error names the file and the next step."""

    def refused(path: Path, told: str, packed: Path = folder) -> None:
        with pytest.raises(InvalidArgument, match=told) as caught:
            pack(str(packed))
        assert caught.value.field == str(path)
        assert caught.value.hint is not None

    refused(tmp_path / "missing", "is not a folder", tmp_path / "missing")
    refused(folder / "SKILL.md", "is not a folder", folder / "SKILL.md")
    refused(folder / "scripts", "has no SKILL.md", folder / "scripts")
    os.mkfifo(folder / "pipe")
    refused(folder / "pipe", "neither a file nor a folder")
    (folder / "pipe").unlink()
    for name, told in ((b"a\nb", "control characters"), (b"a\\b", "backslash"), (b"a\xff", "not UTF-8")):
        path = os.path.join(os.fsencode(folder), name)
        with open(path, "wb"):
            pass
        refused(Path(os.fsdecode(path)), told)
        os.unlink(path)
    deep = folder
    for _ in range(6):
        deep = deep / ("x" * 200)
    deep.mkdir(parents=True)
    with pytest.raises(InvalidArgument, match="a name of more than 1024 bytes"):
        pack(str(folder))
    shutil.rmtree(folder / ("x" * 200))
    (folder / "skill.md").write_bytes(b"x")
    refused(folder, '"skill.md" would be unpacked in the place of "SKILL.md"')
    (folder / "skill.md").unlink()
    (folder / "SKILL.md").write_bytes(b"")
    refused(folder, '"SKILL.md" is empty')


def test_folders_that_are_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits hold before anything is sent, and name the file that is too much."""
    zeros = folder / "zeros"
    with zeros.open("wb") as file:
        file.truncate(config.ARTIFACT_UNPACKED_BYTES_MAX)
    with pytest.raises(InvalidArgument, match="above 524288000 bytes") as caught:
        pack(str(folder))
    assert caught.value.field == str(zeros)
    with zeros.open("wb") as file:
        file.truncate(2 * MIB)
    with pytest.raises(InvalidArgument, match="100 times the size of the zip"):
        pack(str(folder))
    # A limit of a size that a test can reach.
    monkeypatch.setattr(config, "ARTIFACT_BYTES_MAX", 1000)
    zeros.write_bytes(os.urandom(1000))
    with pytest.raises(InvalidArgument, match="makes the zip larger than 1000 bytes") as caught:
        pack(str(folder))
    assert caught.value.field == str(zeros)
    monkeypatch.setattr(config, "ARTIFACT_ENTRIES_MAX", 5)
    for number in range(9):
        (folder / str(number)).touch()
    with pytest.raises(InvalidArgument, match="more than 5 files and folders"):
        pack(str(folder))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(folder: Path) -> None:
    """It is named."""
    (folder / "SKILL.md").chmod(0)
    with pytest.raises(InvalidArgument, match="cannot be read: Permission denied"):
        pack(str(folder))


def test_the_example_packs() -> None:
    """The skill in examples/ is one that can be pushed."""
    found = inspect(pack(str(EXAMPLE)))
    assert found.skill_md == (EXAMPLE / "SKILL.md").read_text(encoding="utf-8")
    assert found.files > 1
