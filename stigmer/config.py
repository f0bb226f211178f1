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
QUEUE_BYTES_DEFAULT = 128 * MIB
"""Commits waiting for the writer; a caller beyond that gets `ResourceExhausted` (daemon) or waits (embedded)."""

UNFLUSHED_EVENTS_MAX = 50_000
"""The views keep at most this many events in memory before they put what came of them into LMDB."""
UNFLUSHED_ENTRIES_MAX = 20_000
"""The same, as what these came to: a flush takes time for each, during which no commit is answered."""
UNFLUSHED_BYTES_MAX = 32 * MIB
"""The same, as the bytes of the events' commits."""
UNFLUSHED_SECONDS_MAX = 5.0
"""The same, as the time since the first of them: so much, too, has to be folded again after a crash."""
CHECKPOINT_EVENTS = 50_000
"""A synced checkpoint of the views is begun when so much was flushed since the last: after a power cut it is folded
again."""
CHECKPOINT_BYTES = 64 * MIB
"""The same, as the bytes of the events' commits."""
CHECKPOINT_GROWTH_BYTES = 256 * MIB
"""The same, as what LMDB's file has grown by: it reuses no page that the last checkpoint needs."""
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

VIEWS_CHECK_BYTES_MAX = 1 * GIB
"""Where the file of the views is no larger than this, every byte of it is compared at an open behind a clean end."""

VIEWS_CHECK_ROWS_MAX = 50_000
"""Behind another end every row is looked at: by the open where there are no more than this, else in the background."""

MAP_BYTES_DEFAULT = 16 * GIB if sys.maxsize > 2**32 else 1 * GIB
"""The first size of the LMDB map: address space, not memory. It doubles when it is full."""

REQUEST_IDS_KEPT = 262_144
"""The store remembers the request ids of this many commits, the last ones."""

KEYS_REQUEST_BYTES_MAX = 4 * MIB
"""The largest request that holds no values, but names at the most."""
REQUEST_FIELDS_MAX = 2 * 1024 * 1024
"""Fields in a request, those of messages inside it counted: parsed, each may take some 150 bytes of memory."""

WRITE_COMMITS_MAX = 65_536
"""Commits in one message of a stream of them."""
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

RENEWAL_LOOK_SECONDS = 1.0
"""The daemon looks so often whether the files of its token and its certificates are others."""

REFUSALS_LOG_SECONDS = 60
"""The daemon's log has at most one line in this time for each cause for which calls are refused."""

FILES_RESERVED = 256
"""Open files that are kept free of connections, beside one for each tail."""

FILES_MIN = 64
"""A daemon does not start where fewer files may be open at a time."""
THREADS_MIN = 32
"""A daemon does not start where fewer threads can be started."""

PEER_SILENCE_SECONDS = 60
"""A peer on another machine that was silent for so long is sent a ping,"""
PEER_ANSWER_SECONDS = 20
"""and is taken for gone where it does not answer within this time."""

CERTIFICATE_WARNING_DAYS = 14
"""From then on before its end, a start of the daemon warns of its certificate."""

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
    queue_bytes_max: int = QUEUE_BYTES_DEFAULT
    """A single commit that is larger is taken all the same, where it is alone."""

    def checked(self) -> StoreOptions:
        """Give the options back, or raise `InvalidArgument` naming the one that is out of bounds."""
        _check_bounds(
            self,
            ("sync_interval_ms", 1, 60_000),
            ("segment_bytes", SEGMENT_BYTES_MIN, 4 * GIB),
            ("value_bytes_max", 1, COMMIT_BYTES_MAX - 4 * KIB),
            ("map_bytes", 64 * KIB, 1 << 46),
            ("open_check_bytes", 0, 1 << 46),
            ("queue_bytes_max", 64 * KIB, 16 * GIB),
        )
        return self


def _check_bounds(options: msgspec.Struct, *bounds: tuple[str, float, float]) -> None:
    for name, least, most in bounds:
        value = getattr(options, name)
        if not least <= value <= most:
            raise InvalidArgument(name, f"{value} is out of bounds: {least} to {most}")


# --- who may talk to the daemon, and how much ----------------------------------------------------------------


class Limits(msgspec.Struct, frozen=True):
    """What the daemon takes of its callers. docs/ACCESS.md says what happens beyond each."""

    request_bytes_max: int = ARTIFACT_BYTES_MAX + MIB
    """The largest message of a request: an artifact in its envelope. Where others have a lower limit, that holds."""
    metadata_bytes_max: int = 16 * KIB
    """What a call may send before its message."""
    calls_max: int = 4_000
    """Calls under way at a time at TCP addresses, and as many again at sockets; followers among them."""
    tails_max: int = 1_000
    """Tails at a time."""
    subscribers_max: int = 2_000
    """Subscribers of single resources at a time."""
    connections_max: int = 10_000
    """Connections to one address at a time, or as many as open files allow."""
    connection_calls_max: int = 2_000
    """Calls at a time on one connection. Its client waits with more."""
    idle_seconds: float = 600.0
    """A connection without a call is closed after this time."""
    handshake_seconds: float = 10.0
    """A connection has this time to get as far as HTTP/2."""
    ping_interval_seconds: float = 10.0
    """A client that pings more often, some times over, is sent away."""

    def checked(self) -> Limits:
        """Give the limits back, or raise `InvalidArgument` naming the one that is out of bounds."""
        _check_bounds(
            self,
            ("request_bytes_max", 64 * KIB, 1 * GIB),
            ("metadata_bytes_max", 1 * KIB, 1 * MIB),
            ("calls_max", 1, 1_000_000),
            ("tails_max", 0, 1_000_000),
            ("subscribers_max", 0, 1_000_000),
            ("connections_max", 1, 1_000_000),
            ("connection_calls_max", 1, 1_000_000),
            ("idle_seconds", 0.1, 1_000_000),
            ("handshake_seconds", 0.1, 3_600),
            ("ping_interval_seconds", 0.1, 1_000_000),
        )
        if self.tails_max + self.subscribers_max >= self.calls_max:
            raise InvalidArgument(
                "calls_max",
                f"{self.calls_max} calls leave none to who writes beside {self.tails_max} tails and "
                f"{self.subscribers_max} subscribers",
                hint="take fewer of these with --tails-max and --subscribers-max",
            )
        return self


class Auth(StrEnum):
    """What TCP callers have to show."""

    NONE = "none"
    TOKEN = "token"


class AccessOptions(msgspec.Struct, frozen=True):
    """Who may talk to the daemon over TCP. Paths are of PEM files, but for the token's."""

    auth: Auth = Auth.NONE
    token_file: str | None = None
    """None: `token` in the data directory."""
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    """Who signs the certificates that clients have to show; None: they need not have any."""


class Tls(msgspec.Struct, frozen=True):
    """How a client speaks TLS: whom it trusts, and what it shows of itself. Paths of PEM files."""

    ca: str
    cert: str | None = None
    key: str | None = None


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
    Option("token-file", "DATA/token", "The file with the token of the daemon.", "backend.local.token_file"),
    Option("tls-ca", "none", "The authorities that are trusted, as PEM; turns TLS on.", "backend.local.tls_ca"),
    Option("tls-cert", "none", "The certificate to show, as PEM.", "backend.local.tls_cert"),
    Option("tls-key", "none", "The key of that certificate, as PEM.", "backend.local.tls_key"),
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
