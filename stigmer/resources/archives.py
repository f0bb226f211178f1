"""The archive of a skill: a zip with a SKILL.md, checked before it is stored, and made of a folder to be pushed.

Owns what such an archive may hold: its limits, its names, its SKILL.md. How a zip is read is in `zips`.

Invariants:

- Nothing is unpacked to disk, and no more of it is in memory than the archive, a piece and the SKILL.md.
- Work is bounded by the archive's size and the limits in `config`, whatever its bytes say: the limits hold for what an
  archive says, before anything is unpacked, and nothing may come out beyond what it said.
- What `inspect` takes unpacks to the same files everywhere: inside one folder, none in another's place, also where
  names that differ in case or in their Unicode form are one.
- What `pack` gives, `inspect` takes. The same files with the same zlib give the same bytes, so the same version.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import stat
import unicodedata
import zipfile
from collections.abc import Iterator

import msgspec

from stigmer import config
from stigmer.errors import InvalidArgument
from stigmer.names import shown
from stigmer.resources import zips
from stigmer.resources.zips import Entry, refused

SKILL_MD = "SKILL.md"

_HINT_NAMES = "name it with letters, digits, '-', '_' and '.', folders parted by '/', relative to the skill's folder"
_HINT_SKILL_MD = "put a SKILL.md, which says what the skill is for, at the top of the skill's folder"

_drive_matches = re.compile(r"[A-Za-z]:").match
# Control characters, line and paragraph separators, and halves of pairs, which stand for bytes that are no UTF-8.
_find_forbidden = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]").search

_DOS_FOLDER = 0x10
_PACKED_MODE = stat.S_IFREG | 0o644
_LEFT_OUT = frozenset({"__pycache__"})


class Archive(msgspec.Struct, frozen=True):
    """What an archive was found to be."""

    skill_md: str
    version_hash: str
    """The SHA-256 of the archive's bytes, in hexadecimal."""
    files: int
    unpacked_bytes: int


# --- check -----------------------------------------------------------------------------------------------


def inspect(artifact: bytes) -> Archive:
    """Check the archive of a skill and read its SKILL.md.

    Takes as long as unpacking does, a few seconds at the worst, so it is no work for an event loop.
    Raises `InvalidArgument` with the first thing that is wrong and the entry that is to blame.
    """
    if not artifact:
        raise refused("is empty", hint="push a zip of the skill's folder: stigmer skill push DIR")
    if len(artifact) > config.ARTIFACT_BYTES_MAX:
        raise refused(f"has {len(artifact)} bytes; at most {config.ARTIFACT_BYTES_MAX} are allowed")
    entries = zips.entries_of(artifact, config.ARTIFACT_ENTRIES_MAX)
    for entry in entries:
        _check_entry(entry)
    _check_together(entries)
    skill_md = _find_skill_md(entries)
    _check_sizes(entries, len(artifact))
    text = b""
    for entry in entries:
        for piece in zips.unpacked(artifact, entry):
            if entry is skill_md:
                text += piece
    return Archive(
        skill_md=_decoded(text),
        version_hash=hashlib.sha256(artifact).hexdigest(),
        files=sum(not entry.is_folder for entry in entries),
        unpacked_bytes=sum(entry.unpacked_bytes for entry in entries),
    )


def _check_entry(entry: Entry) -> None:
    if max(map(len, (entry.name_bytes, *entry.readings))) > config.ARTIFACT_NAME_BYTES_MAX:
        raise refused(f"has a name of more than {config.ARTIFACT_NAME_BYTES_MAX} bytes", entry.name)
    for name in (entry.name, *sorted(entry.readings)):
        problem = _problem_of_name(name.removesuffix("/"))
        if problem is not None:
            raise refused(problem, name, hint=_HINT_NAMES)
    kind = stat.S_IFMT(entry.attributes >> 16)
    if kind == stat.S_IFLNK:
        raise refused("is a symbolic link", entry.name, hint="put the file that it leads to in its place")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise refused("is neither a file nor a folder", entry.name, hint="leave it out")
    if entry.is_folder:
        if entry.unpacked_bytes:
            raise refused("is named as a folder, but has content", entry.name)
    elif kind == stat.S_IFDIR or entry.attributes & _DOS_FOLDER:
        raise refused("is a folder, but not named as one, with a '/' at the end", entry.name)


def _problem_of_name(name: str) -> str | None:
    """Say what is wrong with the name of a file or folder, given without the slash at its end."""
    forbidden = _find_forbidden(name)
    if forbidden is not None:
        code = ord(forbidden[0])
        if 0xD800 <= code <= 0xDFFF:
            return "has a name that is not UTF-8"
        return f"has U+{code:04X} in its name: control characters are not allowed"
    if "\\" in name:
        return "has a backslash in its name, which parts folders on some systems and not on others"
    if name.startswith("/") or _drive_matches(name) is not None:
        return "is an absolute path and would leave the skill's folder"
    parts = name.split("/")
    if ".." in parts:
        return "would leave the skill's folder"
    if "" in parts or "." in parts:
        return "is not a plain path"
    return None


def _check_together(entries: list[Entry]) -> None:
    """Check that no entry would be unpacked in the place of another or into one that is a file."""
    places: list[tuple[str, Entry]] = []
    for entry in entries:
        places += ((place, entry) for place in {_place_of(name) for name in entry.readings})
    places.sort(key=lambda found: found[0])
    for (one, entry), (other, other_entry) in itertools.pairwise(places):
        if one == other:
            raise refused(
                f"would be unpacked in the place of {shown(entry.name)}",
                other_entry.name,
                hint="give each a name of its own, that differs in more than in upper and lower case",
            )
        # What lies in a folder comes directly behind it in this order.
        if not entry.is_folder and other.startswith(one + "\0"):
            raise refused(f"lies in {shown(entry.name)}, which is a file", other_entry.name)


def _place_of(name: str) -> str:
    """Give a text that is the same for names that are one on some file system, in which '/' sorts before all else."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
    return folded.removesuffix("/").replace("/", "\0")


def _check_sizes(entries: list[Entry], artifact_bytes: int) -> None:
    """Check what would come out in all. No entry is let give more than it says, so this bounds what does come out."""
    rated = max(config.ARTIFACT_UNRATED_BYTES, config.ARTIFACT_RATIO_MAX * artifact_bytes)
    total = 0
    for entry in entries:
        total += entry.unpacked_bytes
        if total > config.ARTIFACT_UNPACKED_BYTES_MAX:
            limit = f"{config.ARTIFACT_UNPACKED_BYTES_MAX} bytes, the most that is allowed"
        elif total > rated:
            limit = f"{config.ARTIFACT_RATIO_MAX} times the size of the zip"
        else:
            continue
        raise refused(
            f"brings what comes out in all above {limit}",
            entry.name,
            hint="leave out what the skill does not need",
        )


def _find_skill_md(entries: list[Entry]) -> Entry:
    found = next((entry for entry in entries if SKILL_MD in entry.readings), None)
    if found is None:
        raise refused(f"has no {SKILL_MD} at its top", hint=_hint_where(entries))
    if found.readings != {SKILL_MD}:
        raise refused("has two names", found.name)
    if found.unpacked_bytes > config.SKILL_MD_BYTES_MAX:
        raise refused(
            f"has {found.unpacked_bytes} bytes; at most {config.SKILL_MD_BYTES_MAX} are allowed",
            SKILL_MD,
            hint="move what is not needed at once into files beside it",
        )
    return found


def _hint_where(entries: list[Entry]) -> str:
    """Say what to do, by where a SKILL.md seems to be."""
    for entry in entries:
        folder, _, name = entry.name.rpartition("/")
        if name == SKILL_MD:
            return f"it is in {shown(folder)}: zip what is in that folder, not the folder (stigmer skill push does)"
        if not folder and name.lower() == SKILL_MD.lower():
            return f"name it in this case: {SKILL_MD}, not {shown(name)}"
    return _HINT_SKILL_MD


def _decoded(text: bytes) -> str:
    try:
        # Some editors put a mark of the byte order first, which is not part of the text.
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refused(f"is not UTF-8: byte {error.start} is wrong", SKILL_MD, hint="save it as UTF-8") from error
    if not decoded.strip():
        raise refused("is empty", SKILL_MD, hint="say in it what the skill is for and how it is done")
    return decoded


# --- make ------------------------------------------------------------------------------------------------


def pack(directory: str) -> bytes:
    """Make the archive of a skill's folder: its files in order of their names, without times and modes.

    Left out is what begins with a dot, and `__pycache__`. A link is followed to a file inside the folder.
    Raises `InvalidArgument` naming the file, for whatever `inspect` would refuse, and for what cannot be read.
    """
    if not os.path.isdir(directory):
        raise InvalidArgument(directory, "is not a folder", hint=f"give the folder that has the {SKILL_MD}")
    paths = dict(_files_in(directory))
    if SKILL_MD not in paths:
        raise InvalidArgument(directory, f"has no {SKILL_MD}", hint=_HINT_SKILL_MD)
    written = io.BytesIO()
    total = 0
    with zipfile.ZipFile(written, "w") as archive:
        for name in sorted(paths, key=str.encode):
            content = _read(paths[name], config.ARTIFACT_UNPACKED_BYTES_MAX - total)
            total += len(content)
            # Made of a name alone, it has the first time that a zip can tell.
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.external_attr = _PACKED_MODE << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED, compresslevel=9)
            if written.tell() > config.ARTIFACT_BYTES_MAX:
                raise InvalidArgument(
                    paths[name],
                    f"makes the zip larger than {config.ARTIFACT_BYTES_MAX} bytes, the most that is allowed",
                    hint="move what the skill does not need out of its folder",
                )
    packed = written.getvalue()
    try:
        inspect(packed)
    except InvalidArgument as error:
        raise InvalidArgument(directory, error.problem, hint=error.hint) from error
    return packed


def _files_in(directory: str) -> Iterator[tuple[str, str]]:
    """Give the name in the archive and the path of each file under a folder."""
    root = os.path.realpath(directory)
    folders = [""]
    seen = 0
    while folders:
        folder = folders.pop()
        for entry in _listed(os.path.join(directory, folder)):
            if entry.name.startswith(".") or entry.name in _LEFT_OUT:
                continue
            seen += 1
            if seen > config.ARTIFACT_ENTRIES_MAX:
                raise InvalidArgument(
                    directory,
                    f"has more than {config.ARTIFACT_ENTRIES_MAX} files and folders, the most that is allowed",
                    hint="move what the skill does not need out of it",
                )
            name = f"{folder}/{entry.name}" if folder else entry.name
            _check_packed_name(name, entry.path)
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
            elif entry.is_symlink():
                yield name, _followed(entry.path, root)
            elif entry.is_file(follow_symlinks=False):
                yield name, entry.path
            else:
                raise InvalidArgument(entry.path, "is neither a file nor a folder", hint="move it out of the folder")


def _listed(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError as error:
        raise _unreadable(path, error) from error


def _check_packed_name(name: str, path: str) -> None:
    problem = _problem_of_name(name)
    if problem is None and len(name.encode()) > config.ARTIFACT_NAME_BYTES_MAX:
        problem = f"has a name of more than {config.ARTIFACT_NAME_BYTES_MAX} bytes, with its folders"
    if problem is not None:
        raise InvalidArgument(path, problem, hint="rename it, or move it out of the skill's folder")


def _followed(path: str, root: str) -> str:
    """Give the file that a link leads to."""
    try:
        target = os.path.realpath(path, strict=True)
    except OSError as error:
        raise InvalidArgument(path, "is a link that leads nowhere", hint="mend it, or remove it") from error
    if os.path.commonpath([root, target]) != root:
        raise InvalidArgument(
            path, f"is a link that leaves the folder, to {target}", hint="put a copy of the file in its place"
        )
    if not os.path.isfile(target):
        raise InvalidArgument(path, "is a link to something else than a file", hint="put a copy in its place")
    return target


def _read(path: str, bytes_max: int) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > bytes_max:
        raise InvalidArgument(
            path,
            f"brings the folder above {config.ARTIFACT_UNPACKED_BYTES_MAX} bytes, the most that is allowed",
            hint="move what the skill does not need out of the folder",
        )
    return content


def _unreadable(path: str, error: OSError) -> InvalidArgument:
    return InvalidArgument(path, f"cannot be read: {error.strerror}", hint="make it readable, or move it away")
