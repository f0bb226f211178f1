"""The verbs: what can be asked of resources, the same for every kind.

`Resources` puts an open store, the vault of its secrets and its artifacts together. A verb that writes gives a `Write`:
what does not depend on the state is done by then, and the rest is an operation for the writer. `run` carries one out
and waits; the daemon does the same without waiting.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message

from stigmer import names
from stigmer.artifacts import Artifacts
from stigmer.errors import (
    Closed,
    Conflict,
    CorruptLog,
    CorruptView,
    DiskFull,
    InvalidArgument,
    KeyRetired,
    NotFound,
    OutcomeUnknown,
    StigmerError,
    StorageFailed,
    Unavailable,
)
from stigmer.fields import Bytes
from stigmer.model import Event, Op, Transacted
from stigmer.resources import creation, identity, kinds, rules, sealing, status, writing
from stigmer.resources.creation import Random
from stigmer.resources.kinds import Kind
from stigmer.resources.reading import Reading
from stigmer.resources.sealing import Sealer
from stigmer.resources.state import ResourceStore, State
from stigmer.resources.writing import Gone, Retire, Written
from stigmer.vault import KeyId, Vault

ATTEMPTS = 5
"""How often a write is prepared anew when what it was prepared for was replaced in between."""


class Stale(Conflict):
    """What a write was prepared for was replaced by another resource of that name. Prepare it again."""

    def __init__(self, kind: Kind, id: str) -> None:
        super().__init__(kind.name, id, 0, 0)
        self.args = (f"{kind.message_name} {id} was replaced by another one again and again; nothing was written",)


RETRIED = (Stale, KeyRetired)
"""What refuses a write that is then prepared anew."""

UNDECIDED = (OutcomeUnknown, StorageFailed, CorruptLog, CorruptView, Closed)
"""After these nobody knows whether a write was made. What was prepared for it stays: the log may have the write, which
needs it. Where it does not, the next start clears it away."""


class Write(NamedTuple):
    """A call that writes, ready to be decided."""

    operation: Callable[[State], Any]
    answer: Callable[[Any, Transacted], Any]
    """Makes the answer of what the operation told, once the commit is done. May take its time, and do I/O."""
    repeat: Callable[[Sequence[Event]], Any]
    """Makes the answer to a repeated request, of the events that the first one made."""
    size: int = 0
    """About how many bytes it writes."""
    is_quick: bool = True
    """Whether making the answer only takes the processor, and not for long."""
    undo: Callable[[], None] | None = None
    """Takes back what was prepared, where certainly nothing was written."""


class Applied(NamedTuple):
    """What became of a resource that was wanted."""

    written: Written
    outcome: str
    """"created", "configured" or "unchanged"."""
    slug: str
    revision: int


class Target(NamedTuple):
    """A resource that is to be deleted."""

    kind: Kind
    ref: str
    """Its id or its slug."""
    org: str = ""
    """Where the slug is looked for; empty: anywhere."""


class Deleted(NamedTuple):
    """What a delete took away."""

    gone: Gone
    revision: int


class Resources(Reading):
    """The resources of a store."""

    def __init__(
        self, store: ResourceStore, vault: Vault, artifacts: Artifacts, random: Random = secrets.token_bytes
    ) -> None:
        super().__init__(store, vault, artifacts)
        self.random = random

    def run(self, prepare: Callable[[], Write], request_id: str = "") -> Any:
        """Carry a write out, and wait for it."""
        for attempt in range(1, ATTEMPTS + 1):
            write = prepare()
            try:
                done = self.store.transact(write.operation, request_id or None)
            except StigmerError as error:
                if write.undo is not None and not isinstance(error, UNDECIDED):
                    write.undo()
                if isinstance(error, RETRIED) and attempt < ATTEMPTS:
                    continue
                raise
            return self.answer(write, done)
        raise AssertionError("unreachable: the last attempt raises")

    def answer(self, write: Write, done: Transacted) -> Any:
        """Give the answer to a write that was carried out."""
        if not done.is_repeat or done.committed is None:
            return write.answer(done.told, done)
        if write.undo is not None:
            write.undo()
        return write.repeat(self.store.events_between(done.committed.first_revision, done.committed.last_revision))

    def clear_away_rests(self) -> None:
        """Destroy keys and remove artifacts that nothing needs: what a crash has left of a delete or a push."""
        self.vault.sweep(self._exists)
        self.artifacts.collect(self.is_needed)

    def _exists(self, kind_name: str, id: str) -> bool:
        try:
            self.store.get(kind_name, id)
        except NotFound:
            return False
        return True

    # --- one resource ------------------------------------------------------------------------------------

    def create(self, kind: Kind, wanted: Message) -> Write:
        """Create a resource. Raises `InvalidArgument`; refused with `AlreadyExists` where its name is taken."""
        rules.require_valid(wanted)
        draft = self._draft(kind, wanted)
        id = draft.metadata.id
        sealer = sealing.prepare(kind.name, id, draft, self.vault)
        return self._write_one(
            kind,
            lambda state: writing.create(state, kind, draft, sealer, self.random),
            size=draft.ByteSize(),
            sealer=sealer,
        )

    def update(self, kind: Kind, wanted: Message) -> Write:
        """Give a resource that is there the spec and the metadata of `wanted`. Raises `NotFound`."""
        rules.require_valid(wanted)
        metadata: Any = kind_metadata(wanted)
        creation.check_identity(metadata)
        if not metadata.id and not metadata.slug:
            raise InvalidArgument("metadata", "names neither id nor slug: one of them says what to update")
        id = metadata.id or self.id_of_slug(kind, metadata.slug, metadata.org)
        sealer = sealing.prepare(kind.name, id, wanted, self.vault)

        def operation(state: State) -> Written:
            if not metadata.id and id not in state.find_ids(kind.name, "slug", metadata.slug):
                raise Stale(kind, id)
            return writing.configure(state, kind, id, wanted, sealer, self.random, only_if_changed=False)

        return self._write_one(kind, operation, size=wanted.ByteSize(), sealer=sealer)

    def apply(self, kind: Kind, wanted: Message) -> Write:
        """Create a resource where its slug is free in its organization, else configure the one that has it."""
        one = self._wanted(kind, wanted)
        return self._write_one(kind, lambda state: self._apply(state, one), size=wanted.ByteSize(), sealer=one.sealer)

    def delete(self, kind: Kind, id: str) -> Write:
        """Delete a resource with what hangs on it; the answer is what was deleted. Raises `NotFound`."""
        check_id(id)

        def answer(gone: list[Gone], _done: Transacted) -> bytes:
            value = sealing.reveal(kind.name, id, gone[-1].value, self.vault)
            self._clear_away(gone)
            return value

        def repeat(events: Sequence[Event]) -> bytes:
            gone = next((one for one in events if (one.op, one.kind, one.id) == (Op.DELETE, kind.name, id)), None)
            if gone is None or gone.expected_revision is None:
                raise used_before()
            # Its secrets stay sealed: their keys were destroyed.
            (last,) = self.store.events_between(gone.expected_revision, gone.expected_revision)
            return last.value

        return Write(lambda state: writing.delete(state, kind, id, self.vault.retire), answer, repeat, is_quick=False)

    def update_status(self, kind: Kind, request: Any, reported: Bytes | None = None) -> Write:
        """Merge what a runner reports into an execution; the answer is all of it.

        `reported` is the request's status as it was sent, where it is at hand.
        """
        rules.require_valid(request)
        id = request.execution_id
        check_id(id, "execution_id")
        sent = request.status.SerializeToString() if reported is None else reported
        return self._write_one(kind, lambda state: status.merge(state, kind, id, sent), size=len(sent))

    # --- many at once ------------------------------------------------------------------------------------

    def apply_all(self, wanted: Sequence[tuple[Kind, Message]], expected_revisions: Sequence[int] = ()) -> Write:
        """Apply many resources as one commit; the answer is a list of `Applied`, in their order.

        Where expected revisions are given, one for each, a resource that is not at its own, unless that is 0, refuses
        all of it with `Conflict`.
        """
        every = [self._wanted(kind, message) for kind, message in wanted]
        for place, expected in enumerate(expected_revisions):
            every[place] = every[place]._replace(expected_revision=expected)

        def operation(state: State) -> list[Written]:
            return [self._apply(state, one) for one in every]

        def answer(written: list[Written], done: Transacted) -> list[Applied]:
            return self._applied(written, done)

        def repeat(events: Sequence[Event]) -> list[Applied]:
            rest = list(events)
            return [self._applied_before(one, rest) for one in every]

        def undo() -> None:
            for one in every:
                one.sealer.discard()

        return Write(
            operation, answer, repeat, sum(message.ByteSize() for _, message in wanted), is_quick=False, undo=undo
        )

    def plan_all(self, wanted: Sequence[tuple[Kind, Message]]) -> list[Applied]:
        """Say what `apply_all` would do, and do nothing."""
        write = self.apply_all(wanted)
        try:
            self.store.transact(_only_planned(write.operation))
        except _Planned as planned:
            return self._applied(planned.told, None)
        finally:
            assert write.undo is not None
            write.undo()
        raise AssertionError("unreachable: a plan is always refused")

    def delete_all(self, targets: Sequence[Target], retire: Retire | None = None) -> Write:
        """Delete many resources, and what hangs on them, as one commit; the answer is a list of `Deleted`.

        Refused with `NotFound`, or `InvalidArgument` where a slug is that of several.
        """
        retire = retire or self.vault.retire
        named: list[tuple[Kind, str]] = []
        refusal: StigmerError | None = None
        for target in targets:
            try:
                named.append((target.kind, self.find_stored(*target).id))
            except (InvalidArgument, NotFound) as error:
                # Told when it is decided: a request that is repeated has deleted it itself.
                refusal = refusal or error

        def operation(state: State) -> list[Gone]:
            if refusal is not None:
                raise refusal.with_traceback(None)
            gone: dict[tuple[str, str], Gone] = {}
            for kind, id in named:
                before = gone.get((kind.name, id))
                if before is not None:  # it went with one that was named before
                    gone[kind.name, id] = before._replace(is_target=True)
                else:
                    gone.update(((one.kind_name, one.id), one) for one in writing.delete(state, kind, id, retire))
            return list(gone.values())

        def answer(gone: list[Gone], done: Transacted) -> list[Deleted]:
            self._clear_away(gone)
            first = done.committed.first_revision if done.committed is not None else 0
            return [Deleted(one, first + place if first else 0) for place, one in enumerate(gone)]

        def repeat(events: Sequence[Event]) -> list[Deleted]:
            return [self._deleted_before(event, targets) for event in events]

        return Write(operation, answer, repeat, is_quick=False)

    def plan_delete(self, targets: Sequence[Target]) -> list[Deleted]:
        """Say what `delete_all` would delete, and delete nothing."""
        try:
            self.store.transact(_only_planned(self.delete_all(targets, _keep_keys).operation))
        except _Planned as planned:
            return [Deleted(one, 0) for one in planned.told]
        raise AssertionError("unreachable: a plan is always refused")

    # --- inside ------------------------------------------------------------------------------------------

    def _write_one(
        self, kind: Kind, operation: Callable[[State], Written], *, size: int, sealer: Sealer | None = None
    ) -> Write:
        """Make the write of one resource, whose answer is its message with readable secrets."""

        def answer(written: Written, _done: Transacted) -> bytes:
            return sealing.reveal(kind.name, written.id, written.value, self.vault)

        def repeat(events: Sequence[Event]) -> bytes:
            for event in reversed(events):
                if event.kind == kind.name and event.op is Op.SAVE:
                    return sealing.reveal(kind.name, event.id, event.value, self.vault)
            raise used_before()

        return Write(
            operation, answer, repeat, size, undo=sealer.discard if sealer is not None and sealer.has_key else None
        )

    def _draft(self, kind: Kind, wanted: Message) -> Any:
        """Give what a caller wants as it may be created: without a status, with slug and id."""
        draft: Any = type(wanted)()
        draft.CopyFrom(wanted)
        draft.ClearField("status")
        metadata = draft.metadata
        creation.check_identity(metadata)
        metadata.slug = identity.slug_of(metadata.name, metadata.slug)
        if not metadata.id:
            metadata.id = identity.mint_id(kind, time.time_ns(), self.random(identity.ULID_RANDOM_BYTES))
        return draft

    def _wanted(self, kind: Kind, wanted: Message) -> _Wanted:
        rules.require_valid(wanted)
        draft = self._draft(kind, wanted)
        metadata: Any = kind_metadata(wanted)
        id = self._stored_id(kind, metadata.id, draft.metadata.slug, draft.metadata.org) or draft.metadata.id
        return _Wanted(kind, wanted, draft, id, sealing.prepare(kind.name, id, wanted, self.vault))

    def _stored_id(self, kind: Kind, id: str, slug: str, org: str) -> str | None:
        if id:
            try:
                return self.store.get(kind.name, id).id
            except NotFound:
                pass
        return next((one.id for one in self.store.find_ids(kind.name, "slug", slug, org)), None)

    def _apply(self, state: State, one: _Wanted) -> Written:
        kind, metadata = one.kind, one.draft.metadata
        given: Any = kind_metadata(one.message)
        id = given.id if given.id and state.get(kind.name, given.id) is not None else None
        id = id or creation.holder_of_slug(state, kind, metadata.slug, metadata.org)
        if one.expected_revision:
            found = state.get(kind.name, id) if id is not None else None
            if found is None or found.revision != one.expected_revision:
                raise Conflict(
                    kind.name, id or one.id, one.expected_revision, found.revision if found is not None else 0
                )
        if id is None:
            if one.sealer.has_key and one.id != metadata.id:
                raise Stale(kind, one.id)  # sealed for one that was there a moment ago
            return writing.create(state, kind, one.draft, one.sealer, self.random)
        if one.sealer.has_key and id != one.id:
            raise Stale(kind, one.id)
        return writing.configure(state, kind, id, one.message, one.sealer, self.random, only_if_changed=True)

    def _applied(self, written: Sequence[Written], done: Transacted | None) -> list[Applied]:
        revisions: dict[tuple[str, str], int] = {}
        if done is not None and done.committed is not None:
            committed = self.store.events_between(done.committed.first_revision, done.committed.last_revision)
            revisions = {(event.kind, event.id): event.revision for event in committed}
        return [
            Applied(
                one,
                "unchanged" if not one.is_changed else "created" if one.before is None else "configured",
                slug_of(one.kind, one.value),
                revisions.get((one.kind.name, one.id), one.revision),
            )
            for one in written
        ]

    def _applied_before(self, one: _Wanted, rest: list[Event]) -> Applied:
        """Say what became of a resource in the first call of a request that is repeated.

        Its event is taken out of `rest`, those of the first call that no resource before it has had.
        """
        kind, given, draft = one.kind, kind_metadata(one.message), one.draft.metadata
        for place, event in enumerate(rest):
            if event.kind != kind.name or event.op is not Op.SAVE:
                continue
            saved: Any = kinds.parsed(kind, event.id, event.value)
            metadata = saved.metadata
            if event.id == given.id or (metadata.slug, metadata.org) == (draft.slug, draft.org):
                del rest[place]
                outcome = "created" if saved.status.audit.spec_audit.event == creation.CREATED else "configured"
                return Applied(Written(kind, event.id, event.value), outcome, metadata.slug, event.revision)
        found = self.store.get(kind.name, one.id)
        written = Written(kind, one.id, found.value, is_changed=False, revision=found.revision)
        return Applied(written, "unchanged", slug_of(kind, found.value), found.revision)

    def _deleted_before(self, event: Event, targets: Sequence[Target]) -> Deleted:
        """Say what an event of the first call of a request that is repeated took away."""
        kind = kinds.find(event.kind)
        if event.op is not Op.DELETE or event.expected_revision is None:
            raise used_before()
        # Nothing, where the log has lost what was deleted.
        saved = self.store.events_between(event.expected_revision, event.expected_revision)
        value = saved[0].value if saved else b""
        refs = (event.id, slug_of(kind, value) if kind is not None else "")
        is_target = any(target.kind == kind and target.ref in refs for target in targets)
        return Deleted(Gone(event.kind, event.id, value, is_target, ()), event.revision)

    def _clear_away(self, gone: Sequence[Gone]) -> None:
        """Destroy the keys of what was deleted, and the artifacts that nothing names any more."""
        keys = [key for one in gone for key in one.keys]
        if keys:
            try:
                self.vault.destroy(keys)
            except DiskFull as error:
                # That would say that nothing was written.
                raise Unavailable(
                    "it is deleted, but there was no room to overwrite the keys of its secrets; the next start does",
                    hint="make room, then start the daemon anew",
                ) from error
        artifacts = [artifact_of(one.value) for one in gone if one.kind_name == "skill_version"]
        if artifacts:
            self.artifacts.collect(self.is_needed, artifacts)


class _Wanted(NamedTuple):
    """A resource that is to be applied."""

    kind: Kind
    message: Message
    draft: Any
    """As it is created, where it is not there."""
    id: str
    """That it has, or gets, as far as could be seen."""
    sealer: Sealer
    expected_revision: int = 0
    """That it must have; 0: any, or none."""


class _Planned(StigmerError):
    """Refuses an operation after it was carried out for the look of it. Never leaves this module."""

    def __init__(self, told: Any) -> None:
        super().__init__("only planned")
        self.told = told


def _only_planned(operation: Callable[[State], Any]) -> Callable[[State], Any]:
    def plan(state: State) -> Any:
        raise _Planned(operation(state))

    return plan


def _keep_keys(_kind_name: str, _id: str) -> tuple[KeyId, ...]:
    """Retire nothing: for a delete that is only planned."""
    return ()


def used_before() -> InvalidArgument:
    """Make the error for a request id that somebody used for another request."""
    return InvalidArgument("request_id", "was used before, for something else", hint="make a new one for each request")


def kind_metadata(message: Message) -> Any:
    """Give the metadata of a resource."""
    resource: Any = message
    return resource.metadata


def slug_of(kind: Kind, value: bytes) -> str:
    """Give the slug in a stored value; empty where it is none of its kind."""
    message: Any = kinds.decode(kind, value)
    return str(message.metadata.slug) if message is not None else ""


def artifact_of(value: bytes) -> str:
    """Give the key of the artifact that a version of a skill names."""
    message: Any = kinds.decode("skill", value)
    return str(message.status.artifact_storage_key) if message is not None else ""


def check_id(id: str, field: str = "value") -> None:
    """Raise `InvalidArgument` where a text cannot be an id."""
    names.check_id(id, field)
