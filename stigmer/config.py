"""Every option, limit and default, and where an option's value comes from.

An option is set, in this order of precedence, by the command line, by the environment (`STIGMER_<NAME>`), by the
configuration file (`~/.stigmer/config.yaml`, a file shared with the platform's other tools: keys that are not ours
are left alone), or it has its default. `StoreOptions` holds what the embedded store takes, with the same defaults.

Imports nothing of Stigmer but errors. Sizes are in bytes, times in the unit that ends the name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from stigmer.errors import InvalidArgument

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- limits ----------------------------------------------------------------------------------------------

SEGMENT_BYTES_DEFAULT = 64 * MIB
"""A segment that has reached this size is sealed and the next one started."""
SEGMENT_BYTES_MIN = 4 * KIB

VALUE_BYTES_DEFAULT = 16 * MIB
"""The largest value of one resource."""
COMMIT_BYTES_MAX = 64 * MIB
"""The largest commit, as a serialized message."""
COMMIT_EVENTS_MAX = 100_000

GROUP_BYTES_MAX = 16 * MIB
"""A group takes no further commit once it holds this much, so that one fsync stays short."""
QUEUE_BYTES_MAX = 128 * MIB
"""Commits waiting for the writer; a caller beyond that gets `ResourceExhausted` (daemon) or waits (embedded)."""

UNFLUSHED_EVENTS_MAX = 50_000
"""The views keep at most this many events in memory before they put what came of them into LMDB."""
UNFLUSHED_ENTRIES_MAX = 20_000
"""The same, as what these came to: a flush takes time for each, during which no commit is answered."""
UNFLUSHED_BYTES_MAX = 32 * MIB
"""The same, as the bytes of the events' commits."""
UNFLUSHED_SECONDS_MAX = 5.0
"""The same, as the time since the first of them: so much, too, has to be folded again after a crash."""
LIST_UNFLUSHED_MAX = 1_000
"""A list looks through all that is in memory, so it has more than this flushed before."""

DELTA_BYTES_MIN = 4 * KIB
"""A commit of at least this size may be stored as a delta against the last one of the same key."""
CHAIN_FRAMES_MAX = 256
"""So many deltas at most have to be applied to get a payload; then a whole one is written."""
CHAIN_BYTES_MAX = 1 * MIB
"""What they take on disk together, or as much as the payload itself where that is more."""
LINEAGES_BYTES_MAX = 32 * MIB
"""The writer keeps the last payloads of so many bytes in memory, to store the next ones as deltas against them."""
PAYLOADS_BYTES_MAX = 32 * MIB
"""The log's readers together keep payloads of so many bytes that are stored as deltas, to apply the next ones to, and
half as many of others. As much as the writer keeps, so that reading in order finds its bases here."""

OPEN_CHECK_BYTES = 64 * MIB
"""Opening verifies at least this much of the end of the log, beside the whole of its last segment."""

MAP_BYTES_DEFAULT = 16 * GIB if sys.maxsize > 2**32 else 1 * GIB
"""The first size of the LMDB map: address space, not memory. It doubles when it is full."""

REQUEST_IDS_KEPT = 262_144
"""The store remembers the request ids of this many commits, the last ones."""

WRITE_BYTES_MAX = 8 * MIB
"""The daemon stops reading a stream of commits while more than this much of it is unanswered."""
WRITE_MESSAGE_BYTES = 256 * KIB
"""A client puts commits into one message of such a stream until it has this much."""
WRITE_CALL_BYTES = 4 * MIB
"""The blocking client sends about this much of a `save_many` in one such stream, under one deadline."""
COMMIT_OVERHEAD_BYTES = 512
"""What an unanswered commit counts for beside its bytes, so that many small ones are bounded, too."""

PAGE_BYTES_MAX = 1 * MIB
"""A page of a List, a batch of a Tail and an answer to GetMany hold about this much; existing clients receive at most
4 MiB."""
GET_KEYS_MAX = 1_000
"""GetMany answers this many keys at a time; a client asks for no more."""
SECRET_KEYS_OPEN_MAX = 4_096
"""Keys of resources' secrets that are kept unwrapped in memory; others are read and unwrapped when they are needed."""

TAILS_MAX = 1_000
"""Tails that one daemon serves at a time."""
SUBSCRIBERS_MAX = 2_000
"""Subscribers of single resources that one daemon serves at a time. With the tails it is less than the calls that are
taken at a time (`daemon/server.py`), so that followers never keep out who writes."""

ARTIFACT_BYTES_MAX = 100 * MIB
"""The largest zip of a skill. The contract says 100 MB; MiB, here and below, so that no reading of it is refused."""
ARTIFACT_UNPACKED_BYTES_MAX = 500 * MIB
"""What a skill's files may have in all."""
ARTIFACT_RATIO_MAX = 100
"""A zip may hold so many times its own size."""
ARTIFACT_UNRATED_BYTES = 1 * MIB
"""So much may come out of any zip, however small: a page that repeats itself packs better than the ratio allows, and
does no harm."""
ARTIFACT_ENTRIES_MAX = 10_000
"""Files and folders in a skill's zip."""
ARTIFACT_NAME_BYTES_MAX = 1024
"""The name of one of them, with its folders."""
SKILL_MD_BYTES_MAX = 1 * MIB
"""The SKILL.md of a skill."""

DAEMON_LOG_BYTES = 8 * MIB
DAEMON_LOG_FILES = 3

DRAIN_SECONDS = 5.0
"""How long a daemon that was told to stop waits for calls under way."""

ADDR_DEFAULT = "127.0.0.1:50051"


class Durability(StrEnum):
    """When a commit is acknowledged."""

    FSYNC = "fsync"
    """After it is on disk: survives a power cut. The default."""
    INTERVAL = "interval"
    """At once; the log is synced every `sync_interval_ms`: a power cut may lose that much, a crash nothing."""
    OS = "os"
    """At once; the operating system writes when it likes. A crash of the process loses nothing."""


class StoreOptions(msgspec.Struct, frozen=True):
    """What an embedded store can be told."""

    durability: Durability = Durability.FSYNC
    sync_interval_ms: int = 100
    """Only for `interval`."""
    segment_bytes: int = SEGMENT_BYTES_DEFAULT
    value_bytes_max: int = VALUE_BYTES_DEFAULT
    map_bytes: int = MAP_BYTES_DEFAULT
    open_check_bytes: int = OPEN_CHECK_BYTES

    def checked(self) -> StoreOptions:
        """Give the options back, or raise `InvalidArgument` naming the one that is out of bounds."""
        for name, least, most in (
            ("sync_interval_ms", 1, 60_000),
            ("segment_bytes", SEGMENT_BYTES_MIN, 4 * GIB),
            ("value_bytes_max", 1, COMMIT_BYTES_MAX - 4 * KIB),
            ("map_bytes", 64 * KIB, 1 << 46),
            ("open_check_bytes", 0, 1 << 46),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise InvalidArgument(name, f"{value} is out of bounds: {least} to {most}")
        return self


# --- options of the command line ---------------------------------------------------------------------------


class Option(msgspec.Struct, frozen=True):
    """An option that can come from the command line, the environment or the configuration file."""

    name: str
    """As on the command line, without the dashes."""
    default: str
    help: str
    file_key: str | None = None
    """The dotted key in the configuration file, where it can be set there."""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "STIGMER_" + self.name.upper().replace("-", "_")


OPTIONS: tuple[Option, ...] = (
    Option("addr", ADDR_DEFAULT, "Where the daemon is: HOST:PORT or unix:PATH.", "backend.local.endpoint"),
    Option("data-dir", "~/.stigmer/data", "The data directory.", "backend.local.data_dir"),
    Option("key-file", "DATA/secret.key", "The file with the key of the secrets.", "backend.local.key_file"),
    Option("output", "table", "How to print: table, wide, yaml, json, jsonl or name."),
    Option("color", "auto", "Colour and progress bars: auto, always or never."),
    Option("timeout", "10s", "How long to wait for the daemon, such as 500ms, 10s or 2m."),
)


class Setting(msgspec.Struct, frozen=True):
    """An option's value and where it came from: "option", a variable, a file with its key, or "default"."""

    option: Option
    value: str
    origin: str


def config_file_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Give the path of the configuration file: `STIGMER_CONFIG`, else `~/.stigmer/config.yaml`."""
    named = environ.get("STIGMER_CONFIG")
    return Path(named) if named else Path("~/.stigmer/config.yaml").expanduser()


def resolve(
    option: Option, given: str | None, environ: Mapping[str, str], file: Mapping[str, Any], file_path: Path
) -> Setting:
    """Give the value of an option and its origin.

    `given` is what the command line said, `file` the parsed configuration file (empty where there is none).
    """
    if given is not None:
        return Setting(option, given, "option")
    from_environment = environ.get(option.variable)
    if from_environment:
        return Setting(option, from_environment, option.variable)
    if option.file_key is not None:
        found: Any = file
        for part in option.file_key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        origin = f"{file_path} ({option.file_key})"
        if isinstance(found, Mapping | list | bool):
            raise InvalidArgument(origin, "is not a text")
        if found is not None and str(found):
            return Setting(option, str(found), origin)
    return Setting(option, option.default, "default")
