"""The store against a plain dict, over clean ends, crashes, torn tails, lost views and replays."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from checks import check_store, copy_as_a_crash_leaves
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from stigmer.config import StoreOptions
from stigmer.errors import Conflict, NotFound
from stigmer.model import Committed, Delete, Event, Op, Save
from stigmer.store import Store

OPTIONS = StoreOptions(segment_bytes=4096, map_bytes=1 << 20)
STEPS = 40

kinds = st.sampled_from(["note", "task", "agent"])
ids = st.sampled_from(["a", "b", "a-b", "ä"])
agents = st.builds(
    lambda slug, tags: b"\x1a%c\x12\x01%b%b" % (3 + 3 * len(tags), slug, b"".join(b"\x42\x01" + tag for tag in tags)),
    st.sampled_from([b"s", b"t"]),
    st.lists(st.sampled_from([b"x", b"y", b"z"]), max_size=3),
)
values = st.one_of(st.binary(max_size=20), st.integers(0, 3000).map(bytes), agents)
expected = st.sampled_from([None, None, None, "none", "right", "wrong"])
request_ids = st.one_of(st.none(), st.sampled_from(["r1", "r2", "r3"]), st.uuids(version=4).map(str))
changes = st.lists(st.tuples(st.booleans(), kinds, ids, values, expected), min_size=1, max_size=5)


class Model(RuleBasedStateMachine):
    """Each rule does the same to the store and to the dict, then compares."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="stigmer-model-"))
        self.directory = self.place / "0"
        self.state: dict[tuple[str, str], tuple[bytes, int]] = {}
        self.events: list[tuple[Op, str, str, bytes]] = []
        self.answers: dict[str, Committed] = {}
        self.opened = 0

    @initialize()
    def start(self) -> None:
        self.store = Store.open(self.directory, OPTIONS)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            with contextlib.closing(self.store):
                check_store(self.store)
        shutil.rmtree(self.place)

    # --- writes and reads --------------------------------------------------------------------------------

    def make(self, wanted: list[tuple[bool, str, str, bytes, str | None]]) -> list[Save | Delete]:
        """Make changes whose conditions are right or wrong for the moment before the commit."""
        made: list[Save | Delete] = []
        for is_save, kind, id, value, how in wanted:
            now = self.state.get((kind, id), (b"", 0))[1]
            revision = {None: None, "none": 0, "right": now, "wrong": now + 1}[how]
            made.append(Save(kind, id, value, revision) if is_save else Delete(kind, id, revision))
        return made

    def predict(self, made: list[Save | Delete]) -> type[Exception] | None:
        """Apply changes to the dict, or give the error that the first bad one must raise, having changed nothing."""
        state, events = dict(self.state), list(self.events)
        for change in made:
            key = (change.kind, change.id)
            now = state.get(key, (b"", 0))[1]
            if change.expected_revision is not None and change.expected_revision != now:
                return Conflict
            if isinstance(change, Save):
                assert isinstance(change.value, bytes)
                events.append((Op.SAVE, *key, change.value))
                state[key] = (change.value, len(events))
            else:
                if key not in state:
                    return NotFound
                events.append((Op.DELETE, *key, b""))
                del state[key]
        self.state, self.events = state, events
        return None

    @rule(wanted=changes, request_id=request_ids)
    def commit(self, wanted: list[tuple[bool, str, str, bytes, str | None]], request_id: str | None) -> None:
        made = self.make(wanted)
        if request_id in self.answers:
            assert self.store.commit(made, request_id) == self.answers[request_id]
            return
        first = len(self.events) + 1
        error = self.predict(made)
        if error is not None:
            with pytest.raises(error):
                self.store.commit(made, request_id)
            return
        committed = self.store.commit(made, request_id)
        assert committed == Committed(first, len(self.events))
        if request_id is not None:
            self.answers[request_id] = committed

    @rule(kind=kinds, id=ids, value=values)
    def save(self, kind: str, id: str, value: bytes) -> None:
        self.predict([Save(kind, id, value)])
        assert self.store.save(kind, id, value) == len(self.events)

    @rule(kind=kinds, id=ids)
    def delete(self, kind: str, id: str) -> None:
        if self.predict([Delete(kind, id)]) is None:
            assert self.store.delete(kind, id) == len(self.events)
        else:
            with pytest.raises(NotFound):
                self.store.delete(kind, id)

    @rule(kind=kinds, id=ids)
    def get(self, kind: str, id: str) -> None:
        if (kind, id) in self.state:
            resource = self.store.get(kind, id)
            assert (resource.value, resource.revision) == self.state[kind, id]
        else:
            with pytest.raises(NotFound):
                self.store.get(kind, id)

    @rule(kind=kinds, prefix=st.sampled_from(["", "a", "a-", "z"]), limit=st.integers(1, 3))
    def list(self, kind: str, prefix: str, limit: int) -> None:
        found, token = {}, None
        while True:
            page = self.store.list(kind, prefix, limit, token)
            found.update({resource.id: (resource.value, resource.revision) for resource in page})
            token = page.next_page_token
            if token is None:
                break
        assert found == {id: now for (of, id), now in self.state.items() if of == kind and id.startswith(prefix)}

    @rule(back=st.integers(0, 10))
    def tail(self, back: int) -> None:
        after = max(0, len(self.events) - back)
        self.compare(list(self.store.tail(after, follow=False)), after)

    def compare(self, events: list[Event], after: int) -> None:
        assert [(event.op, event.kind, event.id, event.value) for event in events] == self.events[after:]
        assert [event.revision for event in events] == list(range(after + 1, len(self.events) + 1))

    @invariant()
    def revision_is_the_number_of_events(self) -> None:
        if hasattr(self, "store"):
            assert self.store.status().revision == len(self.events)

    # --- ends and damage ---------------------------------------------------------------------------------

    def reopen(self, crash: bool, damage: Callable[[Path], None] | None = None) -> None:
        """End the store cleanly, or go on with a copy of its files as a crash at this moment would leave them."""
        self.opened += 1
        following = self.place / str(self.opened)
        if crash:
            copy_as_a_crash_leaves(self.store, following)
        self.store.close()
        if not crash:
            self.directory.rename(following)
        if damage is not None:
            damage(following)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory = following
        self.store = Store.open(following, OPTIONS)
        self.compare(check_store(self.store), 0)

    @rule(crash=st.booleans())
    def end(self, crash: bool) -> None:
        self.reopen(crash)

    @rule(crash=st.booleans())
    def lose_views(self, crash: bool) -> None:
        self.reopen(crash, lambda directory: shutil.rmtree(directory / "views"))

    @rule(crash=st.booleans(), garbage=st.one_of(st.binary(min_size=1, max_size=100), st.integers(1, 9000).map(bytes)))
    def tear(self, crash: bool, garbage: bytes) -> None:
        def damage(directory: Path) -> None:
            with max((directory / "log").glob("*.log")).open("ab") as file:
                file.write(garbage)

        self.reopen(crash, damage)
        assert any("cut off" in note for note in self.store.recovery)

    @rule()
    def replay(self) -> None:
        report = self.store.replay()
        assert (report.differences, report.revision) == (0, len(self.events))


def test_store_does_what_a_dict_does() -> None:
    """Any sequence of writes, reads, ends, crashes and damage leaves the store equal to a plain dict and list."""
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=40,
            stateful_step_count=STEPS,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
