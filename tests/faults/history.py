"""A history of operations, held against the log: is it linearizable, and is everything that was acknowledged there?

A *history* is what clients saw: each operation with the times at which it was begun and answered, and the answer. The
*log* is what is there at the end. `check` finds whether there is one order of all operations that agrees with real
time (what ended before another began comes first) and in which each answer is the right one.

**Why this needs no search, and misses nothing.** In general it is a hard problem, for the order of the writes has to be
guessed. Here it is known: revisions are dense and a write is told its own, so an order in which the answers are right
can only be that of the log, with exactly the commits of the log in it. An unknown outcome is no exception, for a commit
is found by its request id. So the only thing left to choose is between which two commits each *observation* goes: an
operation that changes nothing, which is a read, a refused write, or the repeat of one. Let its *position* be the last
revision before it.

- The answer of an observation is right at some positions, which can be computed from the log: a resource at revision 7
  is seen from there up to before its next event. A list and a refusal are several such statements at one position.
- Real time asks for inequalities only. What ended before an observation began is not behind it, so the position is no
  less than theirs; a write that began after the observation ended is behind it, so the position is below its revision.
- So each observation may take the smallest position that is right and not below those of what ended before it began.
  Taken in the order in which they began, this gives all of them the smallest positions possible, by induction: what
  ended before one began also began before it. If these break an upper bound, every other choice does too.
- Writes among themselves are compared by their revisions. Observations at the same position go in the order in which
  they began. So the order is there if, and only if, nothing here fails.

All of this is sorting and bisection: n log n for n operations.

An operation whose outcome is unknown has no end, so that it may take effect at any later time, unless it is known when
those who would have carried it out were gone. All attempts at one request are one write, from the first one's beginning
to the last one's end; each answer that an attempt got is, besides, an observation that the request was carried out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

from faults.scenario import Failed
from stigmer import codec
from stigmer.model import Delete, Save
from stigmer.pb import log_pb2
from stigmer.store import Store

Key = tuple[str, str]
"""Kind and id."""

NEVER = 1 << 62
"""An end for what may still take effect; behind every time, and every revision."""


class Unexplained(Failed):
    """A history that no order of its operations explains."""


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One change of a commit, as a client asked for it and as the log has it."""

    kind: str
    id: str
    value: bytes | None
    """None for a delete."""
    expected_revision: int | None = None


class Acked(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The answer to a commit that was made."""

    first_revision: int
    last_revision: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """The answer to a commit that was not made, because of one of its changes."""

    kind: str
    id: str
    actual_revision: int
    """What the resource was at; 0: it was not there."""


class Write(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """An attempt at a commit."""

    begun_ns: int
    ended_ns: int
    """Where the outcome is unknown, the time after which it cannot take effect any more, or `NEVER`."""
    request_id: str
    changes: list[Change]
    """Each of another resource."""
    answer: Acked | Refused | None
    """None where the outcome is unknown."""


class Found(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A resource as a read showed it."""

    kind: str
    id: str
    revision: int
    """0: it was not there, and the rest says nothing."""
    created_revision: int = 0
    value: bytes = b""


class Read(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """A read of one or more resources at one moment."""

    begun_ns: int
    ended_ns: int
    found: list[Found]
    kind: str = ""
    """Of a list: there was nothing else of this kind ..."""
    through: str | None = None
    """... up to this id, where the list went no further."""


class Seen(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """An answer that told of a revision: the last one there was, or, of a tail, one that there was at least."""

    begun_ns: int
    ended_ns: int
    revision: int
    is_last: bool


Operation = Write | Read | Seen


class Commit(NamedTuple):
    """A commit as the log has it."""

    first_revision: int
    request_id: str
    changes: Sequence[Change]

    @property
    def last_revision(self) -> int:
        return self.first_revision + len(self.changes) - 1


def log_of(store: Store) -> list[Commit]:
    """Read the whole log of a store."""
    cursor = store.cursor(0)
    commits = []
    try:
        while frames := cursor.read(store.horizon.revision):
            for frame in frames:
                commit = codec.decode_commit(frame.payload)
                commits.append(Commit(frame.first_revision, commit.request_id, [_change_of(e) for e in commit.events]))
            if commits[-1].last_revision >= store.horizon.revision:
                break
    finally:
        cursor.close()
    return commits


def _change_of(event: log_pb2.Event) -> Change:
    return Change(
        event.kind,
        event.id,
        event.value if event.op == log_pb2.Event.OP_SAVE else None,
        event.expected_revision if event.HasField("expected_revision") else None,
    )


def changes_of(changes: Sequence[Change]) -> list[Save | Delete]:
    """Give changes as a store takes them."""
    return [
        Delete(one.kind, one.id, one.expected_revision)
        if one.value is None
        else Save(one.kind, one.id, one.value, one.expected_revision)
        for one in changes
    ]


def check(log: Sequence[Commit], operations: Iterable[Operation]) -> None:
    """Raise `Unexplained` unless the operations are linearizable and the log is what came of them.

    `log` is all that is there at the end, when no operation is under way any more.
    """
    fold = _Fold(log)
    writes: list[Write] = []
    observations: list[_Observation] = []
    for one in operations:
        if isinstance(one, Write):
            writes.append(one)
        elif isinstance(one, Read):
            observations.append(_of_read(fold, one))
        else:
            observations.append(_Observation(one, one.revision, one.revision if one.is_last else NEVER))
    effects = _match(fold, log, writes, observations)
    _check_order_of(effects)
    _place(fold, effects, observations)


class _State:
    """What one resource was over time: `after[n]` from position `at[n]` on, up to before `at[n + 1]`."""

    __slots__ = ("after", "at")

    def __init__(self) -> None:
        self.at: list[int] = []
        self.after: list[Found] = []

    def found_at(self, position: int) -> Found | None:
        place = bisect_right(self.at, position) - 1
        return self.after[place] if place >= 0 else None

    def first(self, present: bool, position: int) -> int:
        """Give the first position from one on at which it is there, or is not; `NEVER` where there is none."""
        place = bisect_right(self.at, position) - 1
        if place < 0:
            if not present:
                return position
            place = 0
        while place < len(self.at):
            if bool(self.after[place].revision) == present:
                return max(self.at[place], position)
            place += 1
        return NEVER


class _Fold:
    """The state of every resource at every position."""

    def __init__(self, log: Sequence[Commit]) -> None:
        self.states: dict[Key, _State] = {}
        self.last_revisions: list[int] = []
        """Of every commit: the positions that there are, but for 0."""
        next_revision = 1
        for commit in log:
            if commit.first_revision != next_revision or not commit.changes:
                raise Unexplained(f"the log goes on at revision {commit.first_revision} instead of {next_revision}")
            next_revision = commit.last_revision + 1
            self.last_revisions.append(commit.last_revision)
            self._fold(commit)
        self.ids: dict[str, list[str]] = {}
        for kind, id in sorted(self.states, key=_in_order):
            self.ids.setdefault(kind, []).append(id)

    def _fold(self, commit: Commit) -> None:
        revision = commit.first_revision
        own: dict[Key, Found] = {}
        for change in commit.changes:
            key = change.kind, change.id
            state = self.states.get(key)
            before = own.get(key) or (state.after[-1] if state is not None else None)
            now = before.revision if before is not None else 0
            if (change.expected_revision is not None and change.expected_revision != now) or (
                change.value is None and now == 0
            ):
                raise Unexplained(f"revision {revision} is in the log, but its resource was at {now}: {change!r}")
            if change.value is None:
                own[key] = Found(change.kind, change.id, 0)
            else:
                created = before.created_revision if before is not None and now else revision
                own[key] = Found(change.kind, change.id, revision, created, change.value)
            revision += 1
        for key, found in own.items():
            state = self.states.setdefault(key, _State())
            state.at.append(commit.last_revision)
            state.after.append(found)

    def position_of(self, revision: int) -> int:
        """Give the first position at which everything up to a revision is there; `NEVER` where it is not in the log."""
        place = bisect_right(self.last_revisions, revision - 1)
        return self.last_revisions[place] if place < len(self.last_revisions) else NEVER


def _in_order(key: Key) -> tuple[str, bytes]:
    return key[0], key[1].encode()


class _Observation:
    """An operation that goes between two commits, and where it may go."""

    __slots__ = ("above", "below", "operation", "position", "presences")

    def __init__(self, operation: Operation, above: int = 0, below: int = NEVER) -> None:
        self.operation = operation
        self.above = above
        """Its position is this or more ..."""
        self.below = below
        """... and this or less ..."""
        self.presences: list[tuple[_State, bool]] = []
        """... and at it each of these is there, or is not."""
        self.position = -1

    def say(self, fold: _Fold, key: Key, revision: int) -> None:
        """Say that a resource is at this revision at the position; 0: that it is not there."""
        if not revision:
            self.say_present(fold, key, False)
            return
        start = fold.position_of(revision)
        state = fold.states.get(key)
        place = bisect_right(state.at, start) - 1 if state is not None else -1
        if state is None or place < 0 or state.after[place].revision != revision:
            self.below = -1  # at none: it was never seen to be so
            return
        self.above = max(self.above, start)
        if place + 1 < len(state.at):
            self.below = min(self.below, state.at[place + 1] - 1)

    def say_present(self, fold: _Fold, key: Key, present: bool) -> None:
        """Say that a resource is there, or is not, at the position."""
        state = fold.states.get(key)
        if state is not None:
            self.presences.append((state, present))
        elif present:
            self.below = -1

    def first_right(self, fold: _Fold, floor: int) -> int:
        """Give the first position that is right and not below a floor; `NEVER` where there is none."""
        position = max(floor, self.above)
        if position:
            position = fold.position_of(position)
        while True:
            start = position
            for state, present in self.presences:
                position = state.first(present, position)
            if position in (start, NEVER):
                return position


def _of_read(fold: _Fold, read: Read) -> _Observation:
    one = _Observation(read)
    shown = set()
    for found in read.found:
        key = found.kind, found.id
        shown.add(found.id)
        one.say(fold, key, found.revision)
        if found.revision:
            state = fold.states.get(key)
            expected = state and state.found_at(fold.position_of(found.revision))
            if found != expected:
                raise Unexplained(f"{read!r} shows {found!r}, and the log has {expected!r}")
    if read.kind:
        through = None if read.through is None else read.through.encode()
        for id in fold.ids.get(read.kind, ()):
            if through is not None and id.encode() > through:
                break
            if id not in shown:
                one.say_present(fold, (read.kind, id), False)
    return one


class _Effect(NamedTuple):
    """A commit of the log, and when it was made: at some time between these."""

    commit: Commit
    begun_ns: int
    ended_ns: int


def _match(fold: _Fold, log: Sequence[Commit], writes: list[Write], observations: list[_Observation]) -> list[_Effect]:
    """Find the write that made each commit; add what the answers to writes say to the observations."""
    attempts: dict[str, list[Write]] = {}
    for write in writes:
        attempts.setdefault(write.request_id, []).append(write)
    effects: dict[str, _Effect] = {}
    for commit in log:
        mine = attempts.get(commit.request_id, ())
        if not mine or list(mine[0].changes) != list(commit.changes):
            raise Unexplained(f"the log has a commit that nobody made: {commit!r}, {mine!r}")
        if commit.request_id in effects:
            raise Unexplained(f"the log has a request twice: {effects[commit.request_id].commit!r}, {commit!r}")
        made = [write for write in mine if not isinstance(write.answer, Refused)]
        if not made:
            raise Unexplained(f"the log has a commit that was refused: {commit!r}, {mine!r}")
        begun_ns, ended_ns = min(write.begun_ns for write in made), max(write.ended_ns for write in made)
        effects[commit.request_id] = _Effect(commit, begun_ns, ended_ns)
    for write in writes:
        effect = effects.get(write.request_id)
        if isinstance(write.answer, Acked):
            there = effect and Acked(effect.commit.first_revision, effect.commit.last_revision)
            if there != write.answer:
                raise Unexplained(f"{write!r} was acknowledged, and the log has it at {there!r}")
            observations.append(_Observation(write, write.answer.last_revision))
        elif isinstance(write.answer, Refused):
            # Had it been carried out by then, it would have been answered with that.
            below = NEVER if effect is None else effect.commit.first_revision - 1
            observations.append(_of_refusal(fold, write, write.answer, below))
    return list(effects.values())


def _of_refusal(fold: _Fold, write: Write, refused: Refused, below: int) -> _Observation:
    """Say what was there when a write was refused: the changes before the named one found what they expected."""
    one = _Observation(write, below=below)
    for change in write.changes:
        key = change.kind, change.id
        expected = change.expected_revision
        if key == (refused.kind, refused.id):
            actual = refused.actual_revision
            if expected in (None, actual) and (change.value is not None or actual):
                break
            one.say(fold, key, actual)
            return one
        if expected is not None:
            one.say(fold, key, expected)
        if change.value is None:
            one.say_present(fold, key, True)
    raise Unexplained(f"{write!r} was refused for no reason")


def _check_order_of(effects: list[_Effect]) -> None:
    """Raise unless the commits, which are in the order of the log, may have been made in that order."""
    latest: _Effect | None = None
    for effect in effects:
        if latest is not None and effect.ended_ns < latest.begun_ns:
            raise Unexplained(f"{effect!r} had ended when {latest!r}, which is before it in the log, was begun")
        if latest is None or effect.begun_ns > latest.begun_ns:
            latest = effect


def _place(fold: _Fold, effects: list[_Effect], observations: list[_Observation]) -> None:
    """Give each observation the smallest position that is right; raise where there is none."""
    # Below the first of what was begun after an end: of the effects from each place on, the smallest revision.
    begun = sorted(effects, key=lambda effect: effect.begun_ns)
    begun_ns = [effect.begun_ns for effect in begun]
    firsts = list(accumulate((effect.commit.first_revision for effect in reversed(begun)), min, initial=NEVER))[::-1]
    # What has ended, in the order of the ends: its positions are a floor for what is begun later.
    observations.sort(key=lambda one: one.operation.begun_ns)
    ended = sorted(
        [(one.operation.ended_ns, one) for one in observations] + [(effect.ended_ns, effect) for effect in effects],
        key=lambda pair: pair[0],
    )
    floor, place = 0, 0
    reason: object = None
    for one in observations:
        while ended[place][0] < one.operation.begun_ns:
            before = ended[place][1]
            position = before.position if isinstance(before, _Observation) else before.commit.last_revision
            if position > floor:
                floor, reason = position, before
            place += 1
        ceiling = min(one.below, firsts[bisect_right(begun_ns, one.operation.ended_ns)] - 1)
        one.position = one.first_right(fold, floor)
        if one.position > ceiling:
            shown = reason.operation if isinstance(reason, _Observation) else reason
            raise Unexplained(
                f"{one.operation!r} is right at no position from {max(floor, one.above)} to {ceiling}; "
                f"before it came {shown!r}"
            )
