"""Target: what clients hand back, or name things by: page tokens, names, keys of artifacts, addresses.

The tokens are those of a real store. A client can make one whose checksum is right, so those are tried as well.
"""

from __future__ import annotations

import atexit
import shutil
import string
import tempfile
from collections.abc import Iterator

from stigmer import artifacts, names, page_tokens, wire
from stigmer.config import StoreOptions
from stigmer.errors import InvalidArgument, NotFound
from stigmer.store import Store

from .targets import is_safe_to_show

READERS = ("stigmer.page_tokens", "stigmer.query", "stigmer.names", "stigmer.store", "stigmer.views", "stigmer.wire")
TOKENS = (
    b"agent/",
    b"note/n",
    b"\0",
    b"=",
    b"==",
    b"-_",
    b"+/",
    b"unix:",
    b"[::1]:1",
    b"127.0.0.1:",
    b"sha256-",
    "\u202e".encode(),
    b"\xff",
)

_IDS = ("a", "b", "n1", "\u00e9", "z" * 256)
_DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
_KIND, _INDEXED_KIND = "note", "agent"


def one(data: bytes) -> None:
    """Use bytes as a token as they are, as the place in a token that is right otherwise, and as names."""
    store = _store()
    for token in _texts(data):
        _check_token(store, token)
        _check_names(store, token)
    place = _place_of(store, data)
    token = page_tokens.token_of(store.store_id, place)
    assert page_tokens.place_in(store.store_id, token) == place
    _check_token(store, token)
    for other in (page_tokens.token_of("ff" * 16, place), *_other_writings(token)):
        for ask in (_listed, _indexed):
            assert ask(store, other) is None, "what no store gave out was taken"


def seeds() -> Iterator[bytes]:
    """Give tokens, places and names."""
    store = _store()
    for id in _IDS:
        yield f"{_KIND}/{id}".encode()
        yield id.encode()
    place = page_tokens.place_in(store.store_id, store.list_indexed(_INDEXED_KIND, limit=1).next_page_token)
    # Of the store's own id nothing is in the seeds, which are the same each time.
    yield b"\0" + place[9:]
    yield b"\0" + b"\xff" * 8 + b"n1"
    yield b"\0"
    yield page_tokens.token_of("00" * 16, b"note/n1").encode()
    yield b"AAAAAAAAAAA="
    yield b"sha256-" + b"0a" * 32
    yield b"127.0.0.1:50051"
    yield b"[::1%lo]:65535"
    yield b"unix:///run/stigmer.sock"


_stores: list[Store] = []


def _store() -> Store:
    """Give a store with a few resources, opened once: reading leaves no trace in it."""
    if not _stores:
        directory = tempfile.mkdtemp(prefix="stigmer-fuzz-")
        store = Store.open(directory, StoreOptions())
        for id in _IDS:
            store.save(_KIND, id, b"value")
            store.save(_INDEXED_KIND, id, b"value")
        store._writer.flush()
        # Two more, that are in memory only.
        store.save(_KIND, "m", b"value")
        store.save(_INDEXED_KIND, "m", b"value")
        _stores.append(store)
    return _stores[0]


@atexit.register
def close() -> None:
    """Close the store and remove it."""
    while _stores:
        store = _stores.pop()
        store.close()
        shutil.rmtree(store.directory)


def _texts(data: bytes) -> Iterator[str]:
    yield data.decode("latin-1")
    try:
        yield data.decode()
    except UnicodeDecodeError:
        return


def _place_of(store: Store, data: bytes) -> bytes:
    """Give bytes as a place; behind a NUL, as one in a list by an index, whose question is made right."""
    if not data.startswith(b"\0"):
        return data
    token = store.list_indexed(_INDEXED_KIND, limit=1).next_page_token
    return page_tokens.place_in(store.store_id, token)[:9] + data[1:]


def _other_writings(token: str) -> Iterator[str]:
    """Give other texts that a reader of base64 may take for the same bytes."""
    yield token + "="
    yield token[:4] + "\n" + token[4:]
    digits = token.rstrip("=")
    if digits != token:
        yield digits
        # Behind the last byte there are bits that say nothing.
        place = _DIGITS.index(digits[-1])
        yield digits[:-1] + _DIGITS[place + 1] + token[len(digits) :]
    other = token.replace("-", "+").replace("_", "/")
    if other != token:
        yield other


def _check_token(store: Store, token: str) -> None:
    """A token is refused, or stands for a place, and only this text does: what comes behind the place is listed."""
    try:
        place = page_tokens.place_in(store.store_id, token)
    except InvalidArgument as error:
        assert error.field == "page_token"
        place = None
    else:
        assert page_tokens.token_of(store.store_id, place) == token
    listed = _listed(store, token)
    indexed = _indexed(store, token)
    if not token:
        return
    if place is None:
        assert (listed, indexed) == (None, None)
    if listed is not None:
        assert place is not None
        start = f"{_KIND}/".encode()
        every = sorted([*_IDS, "m"], key=str.encode)
        assert listed == [id for id in every if id.encode() > place.removeprefix(start)][:3]
    if indexed is not None:
        assert place is not None
        assert place.startswith(b"\0")
        names.check_id(place[17:].decode())


def _listed(store: Store, token: str) -> list[str] | None:
    """Give what a list of ids gives behind a token; None where it is refused."""
    try:
        page = store.list(_KIND, limit=3, page_token=token)
    except InvalidArgument as error:
        assert error.field == "page_token"
        assert is_safe_to_show(str(error))
        return None
    return [resource.id for resource in page.resources]


def _indexed(store: Store, token: str) -> int | None:
    """Give how many resources a list by an index gives behind a token; None where it is refused."""
    try:
        page = store.list_indexed(_INDEXED_KIND, limit=3, page_token=token)
        older = store.list_indexed(_INDEXED_KIND, limit=3, newest_first=False)
    except InvalidArgument as error:
        assert error.field == "page_token"
        assert is_safe_to_show(str(error))
        return None
    assert page.total == older.total == len(_IDS) + 1
    return len(page.rows)


def _check_names(store: Store, text: str) -> None:
    """Whatever is asked for is found or refused, and what a grammar takes it gives back."""
    for kind, id in ((_KIND, text), (text, "n1")):
        try:
            assert store.get(kind, id).id == id
        except (InvalidArgument, NotFound) as error:
            assert is_safe_to_show(str(error))
    try:
        found = store.list(_KIND, text)
        assert all(resource.id.startswith(text) for resource in found.resources)
    except InvalidArgument as error:
        assert error.field == "prefix"
        assert is_safe_to_show(str(error))
    try:
        artifacts.check_key(text)
    except InvalidArgument as error:
        assert is_safe_to_show(str(error))
    else:
        assert text.isascii()
        assert text.removeprefix("sha256-").isalnum(), "the key of an artifact leads elsewhere"
    try:
        address = wire.parse_address(text)
    except InvalidArgument as error:
        assert is_safe_to_show(str(error))
    else:
        assert wire.parse_address(str(address)) == address
        assert isinstance(address.is_local, bool)
