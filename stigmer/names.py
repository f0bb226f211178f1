"""The grammar of kinds, ids and request ids: one place, checked before anything reaches the log.

    kind         1 to 64 characters of a-z A-Z 0-9 _ . -, the first a letter
    id           1 to 256 bytes of UTF-8; no "/", no control or invisible format character, no line separator, no
                 space at either end; not "." or ".."
    request id   0 to 64 characters of visible ASCII

Neither part may hold a "/", so the key `kind/id` stands for one pair only. Names are compared byte by byte: case
and Unicode normal forms are kept as they come and make different names.
"""

from __future__ import annotations

import re
import unicodedata

from stigmer.errors import InvalidArgument

KIND_LENGTH_MAX = 64
ID_BYTES_MAX = 256
REQUEST_ID_LENGTH_MAX = 64

_kind_matches = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,63}", re.ASCII).fullmatch
# Most ids are visible ASCII: one match settles them. "." and ".." are looked at apart.
_plain_id_matches = re.compile(r"[!-.0-~]{1,256}").fullmatch
_request_id_matches = re.compile(r"[!-~]{0,64}").fullmatch

# Control, format (zero-width, bidirectional override), surrogate, line and paragraph separators.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_SPACES = "".join(c for c in map(chr, range(0x3001)) if unicodedata.category(c) == "Zs")
_SHOWN_LENGTH_MAX = 80

# There are few kinds and many events: a kind that was found good is not matched again.
_kinds_seen: set[str] = set()
_KINDS_SEEN_MAX = 1024


def shown(text: str) -> str:
    """Quote text from outside so that it can be shown on a terminal: escaped, at most 80 characters of it."""
    cut = text if len(text) <= _SHOWN_LENGTH_MAX else text[:_SHOWN_LENGTH_MAX] + "..."
    safe = "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode("ascii") for c in cut)
    return f'"{safe}"'


def check(kind: str, id: str) -> None:
    """Raise `InvalidArgument` unless both follow the grammar. The quick way for the usual case."""
    if kind not in _kinds_seen:
        check_kind(kind)
        if len(_kinds_seen) < _KINDS_SEEN_MAX:
            _kinds_seen.add(kind)
    if _plain_id_matches(id) is None or id == "." or id == "..":
        check_id(id)


def check_kind(kind: str, field: str = "kind") -> None:
    """Raise `InvalidArgument` unless `kind` follows the grammar."""
    if _kind_matches(kind) is None:
        if not kind:
            raise InvalidArgument(field, "must not be empty")
        raise InvalidArgument(
            field,
            f"{shown(kind)} is not a kind: 1 to {KIND_LENGTH_MAX} letters, digits, '_', '.' or '-', a letter first",
        )


def check_id(id: str, field: str = "id") -> None:
    """Raise `InvalidArgument` unless `id` follows the grammar."""
    if _plain_id_matches(id) is not None and id != "." and id != "..":
        return
    _check_unusual_id(id, field)


def _check_unusual_id(id: str, field: str) -> None:
    check_characters(id, field)
    if (size := len(id.encode())) > ID_BYTES_MAX:
        raise InvalidArgument(field, f"{shown(id)} has {size} bytes; at most {ID_BYTES_MAX} are allowed")


def check_characters(id: str, field: str = "id") -> None:
    """Raise `InvalidArgument` unless `id` follows the grammar but for its length."""
    if not id:
        raise InvalidArgument(field, "must not be empty")
    if id in (".", ".."):
        raise InvalidArgument(field, f"{shown(id)} is not an id")
    if "/" in id:
        raise InvalidArgument(field, f"{shown(id)} must not contain '/'")
    for character in dict.fromkeys(id):  # each once: a text may be as long as a request
        if unicodedata.category(character) in _FORBIDDEN_CATEGORIES:
            raise InvalidArgument(
                field,
                f"{shown(id)} contains U+{ord(character):04X}: control and invisible characters are not allowed",
            )
    if id != id.strip():
        raise InvalidArgument(field, f"{shown(id)} must not begin or end with a space")


def check_prefix(prefix: str, field: str = "prefix") -> None:
    """Raise `InvalidArgument` unless an id could start with `prefix`; the empty one always can."""
    if prefix in ("", ".", ".."):
        return
    # A prefix may end in the middle of an id, so a space at its end is in order.
    check_id(prefix.rstrip(_SPACES) or "x", field)


def check_request_id(request_id: str, field: str = "request_id") -> None:
    """Raise `InvalidArgument` unless `request_id` follows the grammar; the empty one does."""
    if _request_id_matches(request_id) is None:
        raise InvalidArgument(
            field, f"{shown(request_id)} must be at most {REQUEST_ID_LENGTH_MAX} visible ASCII characters"
        )
