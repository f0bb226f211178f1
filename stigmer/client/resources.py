"""The service `stigmer.resources.v1.Resources` through a client: resources of the platform's kinds, by id or slug.

Kinds are names and values are bytes here: a program that embeds the client has its own generated code for the
platform's messages. Secrets in the values that go in and out are readable; the daemon seals them.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from stigmer import codec
from stigmer.client.requests import RequestIds
from stigmer.model import Resource
from stigmer.pb import resources_pb2

Call = Callable[[str, bytes, str | None], bytes]
"""Makes a call of the service: a method's lower-case name, the request, and the request id where it writes."""

REVEAL_BYTES = 16 << 20
"""Values are revealed in calls of about this many bytes."""


class Wanted(NamedTuple):
    """A resource as it should be."""

    kind: str
    value: bytes
    expected_revision: int = 0
    """Only where it is there, at this revision; 0: whatever there is."""


class Applied(NamedTuple):
    """What became of one resource that was wanted."""

    kind: str
    id: str
    slug: str
    outcome: str
    """"created", "configured" or "unchanged"."""
    revision: int
    """Of the event that was made; of the last one where nothing changed; 0 for one that would be created."""
    before: bytes
    """Of a dry run only: the value that there is; empty where there is none."""
    after: bytes
    """Of a dry run only: the value that there would be."""


class Deleted(NamedTuple):
    """A resource that was deleted."""

    kind: str
    id: str
    slug: str
    revision: int
    """Of its event; 0 in a dry run."""
    is_target: bool
    """Whether it was named, and not a child of one that was."""


class Listed(NamedTuple):
    """A part of a list, newest first."""

    resources: Sequence[Resource]
    next_page_token: str
    """Where to go on; empty at the end."""
    total: int
    """How many there are in all."""


class RemoteResources:
    """The resources of the daemon that a client is connected to: `client.resources`."""

    def __init__(self, call: Call, request_ids: RequestIds) -> None:
        self._call = call
        self._request_ids = request_ids

    def apply(
        self, wanted: Iterable[Wanted], *, dry_run: bool = False, request_id: str | None = None
    ) -> builtins.list[Applied]:
        """Create or configure resources, all of them as one commit; give what became of each, in their order.

        Raises `InvalidArgument`, `Conflict` where an expected revision is not so, and what else refuses one of them.
        """
        chosen = request_id or self._request_ids.next()
        request = resources_pb2.ApplyRequest(dry_run=dry_run, request_id=chosen)
        for one in wanted:
            request.wanted.add(kind=one.kind, value=one.value, expected_revision=one.expected_revision)
        answer = resources_pb2.ApplyResponse.FromString(self._call("apply", request.SerializeToString(), chosen))
        return [
            Applied(one.kind, one.id, one.slug, one.outcome, one.revision, one.before, one.after)
            for one in answer.applied
        ]

    def find(self, kind: str, ref: str, org: str = "") -> Resource:
        """Give the resource that has an id or a slug, in an organization where that is given.

        Raises `NotFound`, and `InvalidArgument` where several organizations have the slug.
        """
        request = resources_pb2.FindRequest(kind=kind, ref=ref, org=org)
        return codec.resource_of(self._call("find", request.SerializeToString(), None))

    def list(
        self,
        kind: str,
        *,
        labels: Iterable[str] = (),
        tags: Iterable[str] = (),
        phase: int = 0,
        limit: int = 0,
        page_token: str = "",
    ) -> Listed:
        """Give the resources of a kind that have every label ("key=value"), every tag and the phase, newest first.

        At most `limit`, and not more than one answer holds; 0: as many as that.
        """
        request = resources_pb2.ListRequest(
            kind=kind, labels=labels, tags=tags, phase=phase, limit=limit, page_token=page_token
        )
        answer = resources_pb2.ListResponse.FromString(self._call("list", request.SerializeToString(), None))
        found = [codec.resource_from(one) for one in answer.resources]
        return Listed(found, answer.next_page_token, answer.total)

    def delete(
        self, targets: Iterable[tuple[str, str]], *, dry_run: bool = False, request_id: str | None = None
    ) -> builtins.list[Deleted]:
        """Delete resources, each a kind and an id or slug, and what hangs on them, as one commit; raises `NotFound`.

        Gives all that went, or in a dry run would go: a resource behind its children.
        """
        chosen = request_id or self._request_ids.next()
        request = resources_pb2.DeleteRequest(dry_run=dry_run, request_id=chosen)
        for kind, ref in targets:
            request.targets.add(kind=kind, ref=ref)
        answer = resources_pb2.DeleteResponse.FromString(self._call("delete", request.SerializeToString(), chosen))
        return [Deleted(one.kind, one.id, one.slug, one.revision, one.is_target) for one in answer.deleted]

    def reveal(self, values: Sequence[tuple[str, str, bytes]]) -> builtins.list[bytes]:
        """Give stored values, each with its kind and id, with their secrets readable.

        A secret whose key was destroyed stays as it is stored.
        """
        revealed: builtins.list[bytes] = []
        while len(revealed) < len(values):
            request = resources_pb2.RevealRequest()
            size = 0
            for kind, id, value in values[len(revealed) :]:
                size += len(value)
                if request.values and size > REVEAL_BYTES:
                    break
                request.values.add(kind=kind, id=id, value=value)
            answer = resources_pb2.RevealResponse.FromString(self._call("reveal", request.SerializeToString(), None))
            assert len(answer.values) == len(request.values), "each value has an answer"
            revealed += answer.values
        return revealed
