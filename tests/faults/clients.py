"""Clients of a store that do what chance tells them, and record what they did as a history.

What a client does is written once, as a generator: it yields each call, and is sent the answer. `drive` makes the calls
of an embedded store or of the blocking client, `drive_async` those of the asyncio client.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from faults import history
from faults.history import NEVER, Acked, Change, Commit, Found, Key, Operation, Read, Refused, Seen, Write
from stigmer import config
from stigmer.errors import Conflict, NotFound, OutcomeUnknown, StigmerError
from stigmer.model import Resource
from stigmer.store import Store

KINDS = ("alpha", "beta", "gamma")
IDS = tuple(f"id-{number}" for number in range(7))
REMEMBERED = 16

_FILLER = random.Random(0).randbytes(16 * 1024)


def value_of(name: bytes, size: int) -> bytes:
    """Make a value that no other save has; two large ones have most bytes in common, so that deltas are stored."""
    return b"%s %d " % (name, size) + _FILLER[:size]


def abridged(value: bytes) -> bytes:
    """Give a value without its filler; one that was not saved so, as it is."""
    name, size, rest = [*value.split(b" ", 2), b"", b""][:3]
    return b"%s %s" % (name, size) if size.isdigit() and rest == _FILLER[: int(size)] else value


def abridged_log(store: Store) -> list[Commit]:
    """Give the log of a store with its values abridged."""
    return [
        commit._replace(
            changes=[
                one if one.value is None else msgspec.structs.replace(one, value=abridged(one.value))
                for one in commit.changes
            ]
        )
        for commit in history.log_of(store)
    ]


class Mix:
    """Chooses what one client does next."""

    def __init__(self, chance: random.Random, name: str) -> None:
        self.chance = chance
        self._name = name
        self._count = 0
        self._known: dict[Key, int] = {}
        self._asked: list[tuple[str, list[Change]]] = []

    def key(self) -> Key:
        """Choose a resource."""
        return KINDS[int(self.chance.random() * len(KINDS))], IDS[int(self.chance.random() * len(IDS))]

    def see(self, found: Found) -> None:
        """Remember at what revision a resource was seen."""
        self._known[found.kind, found.id] = found.revision

    def request(self) -> tuple[str, list[Change]]:
        """Make a commit, or choose an earlier one to be sent again."""
        chance = self.chance.random
        if self._asked and chance() < 0.05:
            return self.chance.choice(self._asked)
        self._count += 1
        name = f"{self._name}.{self._count}"
        if chance() < 0.7:
            keys = [self.key()]
        else:
            kind = self.key()[0]
            keys = [(kind, id) for id in self.chance.sample(IDS, self.chance.randint(2, 4))]
        changes = [self._change(key, f"{name}.{place}") for place, key in enumerate(keys)]
        self.ask(name, changes)
        return name, changes

    def ask(self, request_id: str, changes: list[Change]) -> None:
        """Remember a request, to send it again one day."""
        self._asked.append((request_id, changes))
        if len(self._asked) > REMEMBERED:
            del self._asked[self.chance.randrange(REMEMBERED)]

    def _change(self, key: Key, name: str) -> Change:
        chance = self.chance.random
        expected = None
        if chance() < 0.2:
            expected = self._known.get(key, 0)
        if chance() < 0.15:
            return Change(*key, None, expected)
        size = 0 if chance() < 0.95 else self.chance.randint(config.DELTA_BYTES_MIN, len(_FILLER))
        return Change(*key, b"%s %d" % (name.encode(), size), expected)


def full_size(changes: Sequence[Change]) -> list[Change]:
    """Give changes with the values that their abridged ones stand for."""
    return [
        one
        if one.value is None
        else msgspec.structs.replace(one, value=value_of(one.value.split()[0], int(one.value.split()[1])))
        for one in changes
    ]


def found_of(resource: Resource) -> Found:
    """Give a resource as a history has it."""
    return Found(resource.kind, resource.id, resource.revision, resource.created_revision, abridged(resource.value))


def refused_of(error: Conflict | NotFound) -> Refused:
    """Give a refusal as a history has it."""
    return Refused(error.kind, error.id, error.actual_revision if isinstance(error, Conflict) else 0)


class Answered(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """The answer to the write that is the record before it."""

    ended_ns: int
    answer: Acked | Refused


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Write | Read | Seen | Answered).decode


class Records(Protocol):
    """Takes records."""

    def append(self, record: bytes, /) -> None: ...


def operations_of(records: Iterable[bytes], over_ns: int) -> list[Operation]:
    """Give the operations that a client recorded; after `over_ns`, none of them could take effect any more."""
    operations: list[Operation] = []
    asked: Write | None = None
    for record in records:
        one = _decode(record)
        if isinstance(one, Answered):
            assert asked is not None
            operations.append(msgspec.structs.replace(asked, ended_ns=one.ended_ns, answer=one.answer))
            asked = None
            continue
        if asked is not None:
            operations.append(msgspec.structs.replace(asked, ended_ns=over_ns))
            asked = None
        if isinstance(one, Write):
            asked = one
        else:
            operations.append(one)
    if asked is not None:
        operations.append(msgspec.structs.replace(asked, ended_ns=over_ns))
    return operations


Calls = Generator[tuple[Any, ...], Any, None]
"""Yields the name of a call and its arguments, and is sent its answer, or thrown its error."""


class Client:
    """One client, which does one thing after the other."""

    def __init__(self, mix: Mix, records: Records, *, reads_at_once: bool) -> None:
        """`reads_at_once`: whether a read of several resources is as of one moment."""
        self._mix = mix
        self._records = records
        self._reads_at_once = reads_at_once

    def step(self) -> Calls:
        """Do something."""
        what = self._mix.chance.random()
        if what < 0.58:
            return self._get()
        if what < 0.64:
            return self._get_many()
        if what < 0.70:
            return self._list()
        if what < 0.75:
            return self._last()
        return self.write(*self._mix.request())

    def write(self, request_id: str, changes: list[Change]) -> Calls:
        """Commit; what it was is on record before it is begun."""
        sent = history.changes_of(full_size(changes))
        self._records.append(encode(Write(time.monotonic_ns(), NEVER, request_id, changes, None)))
        answer: Acked | Refused
        try:
            committed = yield "commit", sent, request_id
            answer = Acked(committed.first_revision, committed.last_revision)
        except (Conflict, NotFound) as error:
            answer = refused_of(error)
        self._records.append(encode(Answered(time.monotonic_ns(), answer)))

    def _get(self) -> Calls:
        kind, id = self._mix.key()
        begun_ns = time.monotonic_ns()
        try:
            resource = yield "get", kind, id
        except NotFound:
            ended_ns = time.monotonic_ns()
            found = Found(kind, id, 0)
        else:
            ended_ns = time.monotonic_ns()
            found = found_of(resource)
        self._records.append(encode(Read(begun_ns, ended_ns, [found])))
        self._mix.see(found)

    def _get_many(self) -> Calls:
        keys = list({self._mix.key() for _ in range(3)})
        begun_ns = time.monotonic_ns()
        resources = yield "get_many", keys
        ended_ns = time.monotonic_ns()
        found = [
            Found(*key, 0) if resource is None else found_of(resource)
            for key, resource in zip(keys, resources, strict=True)
        ]
        for read in [found] if self._reads_at_once else [[one] for one in found]:
            self._records.append(encode(Read(begun_ns, ended_ns, read)))

    def _list(self) -> Calls:
        kind = self._mix.key()[0]
        limit = self._mix.chance.choice((None, 2))
        begun_ns = time.monotonic_ns()
        page = yield "list", kind, "", limit
        ended_ns = time.monotonic_ns()
        through = page.resources[-1].id if page.next_page_token else None
        self._records.append(encode(Read(begun_ns, ended_ns, [found_of(one) for one in page], kind, through)))

    def _last(self) -> Calls:
        begun_ns = time.monotonic_ns()
        revision = yield ("last",)
        self._records.append(encode(Seen(begun_ns, time.monotonic_ns(), revision, True)))


def drive(calls: Calls, methods: dict[str, Callable[..., Any]]) -> None:
    """Make the calls. One whose outcome is unknown stays without an answer."""
    try:
        name, *arguments = next(calls)
        while True:
            try:
                answer = methods[name](*arguments)
            except OutcomeUnknown:
                return
            except StigmerError as error:
                name, *arguments = calls.throw(error)
            else:
                name, *arguments = calls.send(answer)
    except StopIteration:
        pass


async def drive_async(calls: Calls, methods: dict[str, Callable[..., Awaitable[Any]]]) -> None:
    """Make the calls of the asyncio client. One whose outcome is unknown stays without an answer."""
    try:
        name, *arguments = next(calls)
        while True:
            try:
                answer = await methods[name](*arguments)
            except OutcomeUnknown:
                return
            except StigmerError as error:
                name, *arguments = calls.throw(error)
            else:
                name, *arguments = calls.send(answer)
    except StopIteration:
        pass
