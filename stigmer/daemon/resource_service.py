"""The service `stigmer.resources.v1.Resources`: resources of any kind, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from stigmer import config, names, parsing
from stigmer.daemon.handlers import Context
from stigmer.daemon.typed_services import Calls
from stigmer.errors import InvalidArgument, ResourceExhausted
from stigmer.model import Resource
from stigmer.pb import resources_pb2, store_pb2
from stigmer.resources import kinds, sealing
from stigmer.resources.kinds import Kind
from stigmer.resources.verbs import Applied, Deleted, Target


class ResourceService:
    """Answers the calls of `stigmer.resources.v1.Resources`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._resources = calls.resources

    async def apply(self, request: bytes, context: Context) -> bytes:
        """Apply resources as one commit, or say what that would do."""
        asked = await self._calls.do(lambda: parsing.parsed(resources_pb2.ApplyRequest, request), is_quick=False)
        _check_count("wanted", len(asked.wanted))
        wanted = [_message(place, one.kind, one.value) for place, one in enumerate(asked.wanted)]
        expected = [one.expected_revision for one in asked.wanted]
        if asked.dry_run:
            applied = await self._calls.do(lambda: self._resources.plan_all(wanted), is_quick=False)
        else:
            applied = await self._calls.write(
                lambda: self._resources.apply_all(wanted, expected), context, asked.request_id, is_quick=False
            )
        return resources_pb2.ApplyResponse(
            applied=[self._applied(one, with_values=asked.dry_run) for one in applied]
        ).SerializeToString()

    async def find(self, request: bytes, context: Context) -> bytes:
        """Give one resource."""
        asked = parsing.parsed(resources_pb2.FindRequest, request)
        found = self._resources.find(_kind(asked.kind), asked.ref, asked.org)
        return _resource(found).SerializeToString()

    async def list(self, request: bytes, context: Context) -> bytes:
        """Give the resources of a kind that pass a filter."""
        asked = parsing.parsed(resources_pb2.ListRequest, request)
        kind = _kind(asked.kind)
        where = self._resources.conditions(asked.labels, asked.tags, asked.phase)
        listed = await self._calls.do(
            lambda: self._resources.list(kind, where, asked.limit or config.GET_KEYS_MAX, asked.page_token),
            is_quick=False,
        )
        return resources_pb2.ListResponse(
            resources=map(_resource, listed.resources), next_page_token=listed.next_page_token, total=listed.total
        ).SerializeToString()

    async def delete(self, request: bytes, context: Context) -> bytes:
        """Delete resources, and what hangs on them, as one commit."""
        asked = parsing.parsed(resources_pb2.DeleteRequest, request)
        _check_count("targets", len(asked.targets))
        targets = [Target(_kind(one.kind), one.ref, one.org) for one in asked.targets]
        if asked.dry_run:
            deleted = await self._calls.do(lambda: self._resources.plan_delete(targets), is_quick=False)
        else:
            deleted = await self._calls.write(
                lambda: self._resources.delete_all(targets), context, asked.request_id, is_quick=False
            )
        return resources_pb2.DeleteResponse(deleted=map(_deleted, deleted)).SerializeToString()

    async def reveal(self, request: bytes, context: Context) -> bytes:
        """Give stored values with readable secrets."""
        asked = parsing.parsed(resources_pb2.RevealRequest, request)

        def reveal(values: Sequence[resources_pb2.Stored]) -> bytes:
            revealed = (sealing.reveal(one.kind, one.id, one.value, self._resources.vault) for one in values)
            return resources_pb2.RevealResponse(values=revealed).SerializeToString()

        return await self._calls.do(lambda: reveal(asked.values), is_quick=False)

    def _applied(self, one: Applied, *, with_values: bool) -> resources_pb2.Applied:
        written = one.written
        answer = resources_pb2.Applied(
            kind=written.kind.name, id=written.id, slug=one.slug, outcome=one.outcome, revision=one.revision
        )
        if with_values:
            vault = self._resources.vault
            if written.before is not None:
                answer.before = sealing.reveal(written.kind.name, written.id, written.before, vault)
            answer.after = sealing.reveal(written.kind.name, written.id, written.value, vault)
        return answer


def _check_count(field: str, count: int) -> None:
    if not count:
        raise InvalidArgument(field, "must not be empty")
    if count > config.COMMIT_EVENTS_MAX:
        raise ResourceExhausted(
            f"{field} has {count} entries; COMMIT_EVENTS_MAX is {config.COMMIT_EVENTS_MAX}",
            limit="COMMIT_EVENTS_MAX",
            limit_value=config.COMMIT_EVENTS_MAX,
            hint="send fewer at a time",
        )


def _kind(text: str) -> Kind:
    kind = kinds.find(text)
    if kind is None:
        raise InvalidArgument("kind", f"{names.shown(text)} is no kind of the platform", hint="see them: stigmer kinds")
    return kind


def _message(place: int, kind_name: str, value: bytes) -> tuple[Kind, Message]:
    kind = _kind(kind_name)
    message = kinds.decode(kind, value)
    if message is None:
        raise InvalidArgument(f"wanted[{place}].value", f"is no serialized {kind.message_name}")
    return kind, message


def _resource(resource: Resource) -> store_pb2.Resource:
    return store_pb2.Resource(
        revision=resource.revision,
        created_revision=resource.created_revision,
        created_at_ns=resource.created_at_ns,
        updated_at_ns=resource.updated_at_ns,
        kind=resource.kind,
        id=resource.id,
        value=resource.value,
    )


def _deleted(one: Deleted) -> resources_pb2.Deleted:
    message: Any = kinds.decode(one.gone.kind_name, one.gone.value)
    return resources_pb2.Deleted(
        kind=one.gone.kind_name,
        id=one.gone.id,
        slug=message.metadata.slug if message is not None else "",
        revision=one.revision,
        is_target=one.gone.is_target,
    )
