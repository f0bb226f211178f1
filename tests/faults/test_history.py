"""The checker of histories: what a store can do is accepted, what it must not do is found, and a search agrees."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest
from checks import deterministic
from hypothesis import given
from hypothesis import strategies as st

from faults import history
from faults.history import NEVER, Acked, Change, Commit, Found, Operation, Read, Refused, Seen, Unexplained, Write

KIND = "k"
IDS = ("a", "b", "c")
History = tuple[list[Commit], list[Operation]]


class Model:
    """A store that is right, for it does one thing after the other."""

    def __init__(self) -> None:
        self.log: list[Commit] = []
        self.state: dict[str, Found] = {}
        self.requests: dict[str, Acked] = {}

    @property
    def revision(self) -> int:
        return self.log[-1].last_revision if self.log else 0

    def write(self, request_id: str, changes: Sequence[Change]) -> Acked | Refused:
        if request_id in self.requests:
            return self.requests[request_id]
        for change in changes:
            now = self.found(change.id).revision
            if change.expected_revision not in (None, now) or (change.value is None and not now):
                return Refused(KIND, change.id, now)
        first = self.revision + 1
        for revision, change in enumerate(changes, first):
            if change.value is None:
                del self.state[change.id]
            else:
                created = self.state[change.id].created_revision if change.id in self.state else revision
                self.state[change.id] = Found(KIND, change.id, revision, created, change.value)
        self.log.append(Commit(first, request_id, list(changes)))
        self.requests[request_id] = Acked(first, self.revision)
        return self.requests[request_id]

    def found(self, id: str) -> Found:
        return self.state.get(id, Found(KIND, id, 0))

    def all(self) -> list[Found]:
        return [self.state[id] for id in sorted(self.state)]


def changes_for(chance: random.Random, model: Model, name: str) -> list[Change]:
    """Make up to three changes, some with a precondition, some of them wrong."""
    changes = []
    for place, id in enumerate(chance.sample(IDS, chance.randint(1, 3))):
        value = None if chance.random() < 0.25 else f"{name}.{place}".encode()
        now = model.found(id).revision
        expected = chance.choice([None, None, now, chance.randint(0, model.revision + 1)])
        changes.append(Change(KIND, id, value, expected))
    return changes


def history_of(chance: random.Random, count: int, span: int) -> History:
    """Make a history of a model: each operation takes effect at its own moment, between its begin and its end."""
    model = Model()
    operations: list[Operation] = []
    asked: list[tuple[str, list[Change]]] = []
    for number in range(count):
        moment = 10 * number
        begun, ended = moment - chance.randint(1, span), moment + chance.randint(1, span)
        what = chance.random()
        if what < 0.5:
            if asked and chance.random() < 0.15:
                request_id, changes = chance.choice(asked)
            else:
                request_id, changes = f"r{number}", changes_for(chance, model, str(number))
                asked.append((request_id, changes))
            answer: Acked | Refused | None
            outcome = chance.random()
            if outcome < 0.2:  # it was done, or not, and nobody was told
                if outcome < 0.1:
                    model.write(request_id, changes)
                operations.append(Write(begun, chance.choice([ended, NEVER]), request_id, changes, None))
                continue
            answer = model.write(request_id, changes)
            operations.append(Write(begun, ended, request_id, changes, answer))
        elif what < 0.75:
            operations.append(Read(begun, ended, [model.found(id) for id in chance.sample(IDS, chance.randint(1, 2))]))
        elif what < 0.9:
            limit = chance.choice([1, 2, 9])
            shown = model.all()
            through = shown[limit - 1].id if len(shown) > limit else None
            operations.append(Read(begun, ended, shown[:limit], KIND, through))
        else:
            operations.append(Seen(begun, ended, model.revision, chance.random() < 0.5))
    chance.shuffle(operations)
    return model.log, operations


def is_explained(log: Sequence[Commit], operations: Sequence[Operation]) -> bool:
    try:
        history.check(log, operations)
    except Unexplained:
        return False
    return True


@deterministic
@given(st.integers(0, 1 << 32))
def test_what_a_store_can_do_is_accepted(seed: int) -> None:
    """Whatever overlaps, whatever the outcomes, the truth is always explained."""
    chance = random.Random(seed)
    history.check(*history_of(chance, 40, chance.choice([1, 30, 200])))


def test_nothing_at_all_is_accepted() -> None:
    history.check([], [])


# --- one thing wrong ---


def acked(operations: Sequence[Operation]) -> list[Write]:
    return [one for one in operations if isinstance(one, Write) and isinstance(one.answer, Acked)]


def before(log: Sequence[Commit], write: Write) -> Model:
    """Give what there was before a write."""
    model = Model()
    for commit in log:
        if commit.request_id == write.request_id:
            return model
        model.write(commit.request_id, commit.changes)
    raise AssertionError("it is not in the log")


def swap_acks(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """Two writes were each told the revisions of the other."""
    first, second = chance.sample(acked(operations), 2)
    if first.request_id == second.request_id:
        return None
    rest = [one for one in operations if one is not first and one is not second]
    swapped = [
        msgspec.structs.replace(first, answer=second.answer),
        msgspec.structs.replace(second, answer=first.answer),
    ]
    return log, [*rest, *swapped]


def stale_read(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """A read after an answer shows what was there before."""
    write = chance.choice(acked(operations))
    was = before(log, write).found(write.changes[0].id)
    if not was.revision:  # that it is not there may be so again
        return None
    return log, [*operations, Read(write.ended_ns + 1, write.ended_ns + 2, [was])]


def stale_list(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """A list after an answer shows what was there before."""
    write = chance.choice(acked(operations))
    model = before(log, write)
    if not model.found(write.changes[0].id).revision:
        return None
    return log, [*operations, Read(write.ended_ns + 1, write.ended_ns + 2, model.all(), KIND)]


def early_read(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """A read shows a value before anybody had asked to save it."""
    commit = chance.choice(log)
    if commit.changes[0].value is None:
        return None
    after = Model()
    for one in log[: log.index(commit) + 1]:
        after.write(one.request_id, one.changes)
    begun = min(one.begun_ns for one in operations if isinstance(one, Write) and one.request_id == commit.request_id)
    return log, [*operations, Read(begun - 2, begun - 1, [after.found(commit.changes[0].id)])]


def going_back(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """Of two reads, one after the other, the second shows an older state, while nothing else tells them apart."""
    if len(log) < 2:
        return None
    place = chance.randrange(1, len(log))
    states: list[Found] = []
    for upto in (place, place + 1):
        model = Model()
        for one in log[:upto]:
            model.write(one.request_id, one.changes)
        states.append(model.found(log[place].changes[0].id))
    if not (states[0].revision and states[1].revision):
        return None
    quiet: list[Operation] = [Write(0, NEVER, commit.request_id, list(commit.changes), None) for commit in log]
    return log, [*quiet, Read(10, 11, [states[1]]), Read(12, 13, [states[0]])]


def lost_ack(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """The last commits, one of them acknowledged, are gone from the log."""
    write = chance.choice(acked(operations))
    place = next(place for place, commit in enumerate(log) if commit.request_id == write.request_id)
    return log[:place], operations


def renumbered(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """An acknowledged commit is gone, and those behind it have moved up."""
    write = chance.choice(acked(operations))
    kept = [commit for commit in log if commit.request_id != write.request_id]
    moved, revision = [], 1
    for commit in kept:
        moved.append(commit._replace(first_revision=revision))
        revision += len(commit.changes)
    return moved, operations


def duplicate(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """A commit is in the log twice."""
    commit = chance.choice(log)
    plain = [msgspec.structs.replace(change, expected_revision=None) for change in commit.changes]
    if any(change.value is None for change in plain):
        return None
    return [*log, Commit(log[-1].last_revision + 1, commit.request_id, plain)], operations


def torn_commit(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """The last commit has lost an event."""
    if len(log[-1].changes) < 2:
        return None
    return [*log[:-1], log[-1]._replace(changes=log[-1].changes[:-1])], operations


def torn_list(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """A list shows one event of a commit and not the other."""
    if len(log[-1].changes) < 2 or log[-1].changes[0].value is None:
        return None
    model = Model()
    for one in log[:-1]:
        model.write(one.request_id, one.changes)
    model.write("half", log[-1].changes[:1])
    return log, [*operations, Read(-10_000, NEVER, model.all(), KIND)]


def between(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """The last revision, as a status tells it, is in the middle of a commit."""
    if len(log[-1].changes) < 2:
        return None
    return log, [*operations, Seen(-10_000, NEVER, log[-1].first_revision, True)]


def other_bytes(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """A value is not the one that was saved."""
    place = chance.randrange(len(log))
    changes = [
        change if change.value is None else msgspec.structs.replace(change, value=change.value + b"!")
        for change in log[place].changes
    ]
    if all(change.value is None for change in changes):
        return None
    return [*log[:place], log[place]._replace(changes=changes), *log[place + 1 :]], operations


def other_creation(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """A resource is shown as created at another revision than it was."""
    model = Model()
    for one in log:
        model.write(one.request_id, one.changes)
    if not model.all():
        return None
    found = chance.choice(model.all())
    wrong = msgspec.structs.replace(found, created_revision=found.created_revision + 1)
    return log, [*operations, Read(-10_000, NEVER, [wrong])]


def swapped_order(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """Of two writes that nobody was told of, the one that had ended first is the later one in the log."""
    asked = [[Change(KIND, "a", b"1")], [Change(KIND, "b", b"2")]]
    writes: list[Operation] = [Write(0, 5, "1", asked[0], None), Write(6, 9, "2", asked[1], None)]
    return [Commit(1, "2", asked[1]), Commit(2, "1", asked[0])], writes


def baseless_refusal(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """A write was refused because of a revision that its resource had, but not any more."""
    write = chance.choice(acked(operations))
    change = write.changes[0]
    was = before(log, write).found(change.id).revision
    if not was:
        return None
    asked = [Change(KIND, change.id, b"refused", was + 1_000)]
    late = Write(write.ended_ns + 1, write.ended_ns + 2, "refused", asked, Refused(KIND, change.id, was))
    return log, [*operations, late]


def stale_status(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """A status after an answer tells a revision that is below it."""
    write = chance.choice(acked(operations))
    assert isinstance(write.answer, Acked)
    wrong = Seen(write.ended_ns + 1, write.ended_ns + 2, write.answer.first_revision - 1, True)
    return log, [*operations, wrong]


def early_tail(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """A tail shows a revision that is not in the log."""
    return log, [*operations, Seen(-10_000, NEVER, log[-1].last_revision + 1, False)]


def unasked(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """The log has a commit that nobody asked for."""
    return [*log, Commit(log[-1].last_revision + 1, "nobody", [Change(KIND, "a", b"")])], operations


def gap(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """The log leaves a revision out, before a commit whose outcome nobody was told."""
    changes = [Change(KIND, "a", b"behind")]
    silent = Write(-10_000, NEVER, "behind", changes, None)
    return [*log, Commit(log[-1].last_revision + 2, "behind", changes)], [*operations, silent]


def unmet(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """A commit was made that expected another revision than there was."""
    last = log[-1].last_revision
    changes = [Change(KIND, "a", b"unmet", last + 1)]
    write = Write(-10_000, NEVER, "unmet", changes, Acked(last + 1, last + 1))
    return [*log, Commit(last + 1, "unmet", changes)], [*operations, write]


def refused_and_made(chance: random.Random, log: list[Commit], operations: list[Operation]) -> History | None:
    """A write is in the log that was refused, as it had to be at the time."""
    asked = [[Change(KIND, "a", b"1")], [Change(KIND, "a", b"2", 1)]]
    writes: list[Operation] = [
        Write(0, NEVER, "1", asked[0], None),
        Write(0, NEVER, "2", asked[1], Refused(KIND, "a", 0)),
    ]
    return [Commit(1, "1", asked[0]), Commit(2, "2", asked[1])], writes


Mutation = Callable[[random.Random, list[Commit], list[Operation]], History | None]
MUTATIONS: list[Mutation] = [
    swap_acks,
    stale_read,
    stale_list,
    early_read,
    going_back,
    lost_ack,
    renumbered,
    duplicate,
    torn_commit,
    torn_list,
    between,
    other_bytes,
    other_creation,
    swapped_order,
    baseless_refusal,
    stale_status,
    early_tail,
    unasked,
    gap,
    unmet,
    refused_and_made,
]


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_one_thing_wrong_is_found(mutate: Mutation) -> None:
    """In every one of many histories, whatever else is in it."""
    found = 0
    for seed in range(200):
        chance = random.Random(seed)
        log, operations = history_of(chance, 20, chance.choice([1, 30]))
        if len(acked(operations)) < 2:
            continue
        mutated = mutate(chance, log, operations)
        if mutated is None:
            continue
        assert not is_explained(*mutated), (seed, mutated)
        found += 1
    assert found >= 20


# --- the same as a search ---


def search(log: Sequence[Commit], operations: Sequence[Operation]) -> bool:
    """Try every order of the operations that agrees with real time; the definition, and slow."""
    parts = [one for one in operations if not (isinstance(one, Write) and one.answer is None)]
    for commit in log:
        attempts = [one for one in operations if isinstance(one, Write) and one.request_id == commit.request_id]
        made = [one for one in attempts if not isinstance(one.answer, Refused)]
        if not made:
            return False
        begun_ns, ended_ns = min(one.begun_ns for one in made), max(one.ended_ns for one in made)
        parts.append(Write(begun_ns, ended_ns, commit.request_id, list(commit.changes), None))

    def step(left: list[Operation], model_log: list[Commit]) -> bool:
        if not left:
            return model_log == list(log)
        earliest_end = min(one.ended_ns for one in left)
        for place, one in enumerate(left):
            if one.begun_ns > earliest_end:
                continue
            model = Model()
            for commit in model_log:
                model.write(commit.request_id, commit.changes)
            is_right = answers_so(model, one) and model.log == list(log[: len(model.log)])
            if is_right and step(left[:place] + left[place + 1 :], model.log):
                return True
        return False

    return step(parts, [])


def answers_so(model: Model, one: Operation) -> bool:
    """Let a model do an operation; say whether it answers the same."""
    if isinstance(one, Write):
        answer = model.write(one.request_id, one.changes)
        return answer == one.answer if one.answer is not None else isinstance(answer, Acked)
    if isinstance(one, Seen):
        return model.revision == one.revision if one.is_last else model.revision >= one.revision
    if not one.kind:
        return all(model.found(found.id) == found for found in one.found)
    return one.found == [found for found in model.all() if one.through is None or found.id <= one.through]


def disturb(chance: random.Random, one: Operation, revisions: int) -> Operation:
    """Give an operation another time, or another answer that looks possible."""
    if chance.random() < 0.5:
        shift = chance.randint(-25, 25)
        ended = one.ended_ns if one.ended_ns == NEVER else one.ended_ns + shift
        return msgspec.structs.replace(one, begun_ns=one.begun_ns + shift, ended_ns=ended)
    if isinstance(one, Seen):
        return msgspec.structs.replace(one, revision=chance.randint(0, revisions + 1))
    if isinstance(one, Read) and one.found:
        gone = chance.randrange(len(one.found))
        if one.kind:
            return msgspec.structs.replace(one, found=one.found[:gone] + one.found[gone + 1 :])
        found = [Found(KIND, each.id, 0) if place == gone else each for place, each in enumerate(one.found)]
        return msgspec.structs.replace(one, found=found)
    if isinstance(one, Write) and isinstance(one.answer, Refused):
        return msgspec.structs.replace(
            one, answer=msgspec.structs.replace(one.answer, actual_revision=chance.randint(0, 3))
        )
    return one


def test_a_search_over_all_orders_agrees() -> None:
    """Over short histories, many of them disturbed, the checker and the definition come to the same verdict."""
    verdicts: Counter[bool] = Counter()
    for seed in range(1_500):
        chance = random.Random(seed)
        log, operations = history_of(chance, chance.randint(3, 7), chance.choice([5, 15, 40]))
        for _ in range(chance.choice((0, 0, 2, 4))):
            place = chance.randrange(len(operations))
            operations[place] = disturb(chance, operations[place], log[-1].last_revision if log else 0)
        verdict = search(log, operations)
        assert is_explained(log, operations) == verdict, (seed, log, operations)
        verdicts[verdict] += 1
    assert min(verdicts[True], verdicts[False]) > 150, verdicts
