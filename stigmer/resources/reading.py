"""The reading verbs: one resource by id or by reference, lists from the indexes, artifacts; and what subscribers see.

Every value that goes out passes `sealing.reveal`, which leaves it as it is where it holds no secret. No list looks at
resources that it does not give out.
"""

from __future__ import annotations

import builtins
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from stigmer import config, names
from stigmer.artifacts import Artifacts, check_key
from stigmer.codec import resource_of
from stigmer.errors import InvalidArgument, NotFound
from stigmer.model import Resource
from stigmer.resources import creation, kinds, rules, sealing, special, status
from stigmer.resources.kinds import Kind
from stigmer.resources.state import IndexedPage, ResourceStore, Where
from stigmer.vault import Vault

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1_000
PAGE_BYTES_MAX = 4 * config.MIB - 64 * config.KIB
"""The platform's clients take messages of 4 MiB, and a page has an envelope."""

PAGE_ENDS_KEPT = 1_000
PAGE_ENDS_SECONDS = 60.0
"""What was the end of a page so long ago says little of where it ends now."""


class Listed(NamedTuple):
    """A part of a list, newest first."""

    resources: Sequence[Resource]
    """With readable secrets."""
    next_page_token: str
    total: int


class _PageEnds:
    """Where pages that were read lately ended, so that whoever reads them by number, one after the other, reads on."""

    def __init__(self) -> None:
        # Guards what is below; nothing else is taken while it is held.
        self._lock = threading.Lock()
        self._begins: OrderedDict[tuple[Hashable, int], tuple[float, str, int]] = OrderedDict()

    def note(self, question: Hashable, page: int, token: str, seen: int) -> None:
        """Note where a page begins, and how many resources are on those before it."""
        with self._lock:
            self._begins[question, page] = time.monotonic(), token, seen
            self._begins.move_to_end((question, page))
            if len(self._begins) > PAGE_ENDS_KEPT:
                self._begins.popitem(last=False)

    def nearest(self, question: Hashable, page: int) -> tuple[int, str, int]:
        """Give a page, this one where it is known, with the token at which it begins and what is before it."""
        with self._lock:
            noted = self._begins.get((question, page))
        if noted is None or time.monotonic() - noted[0] > PAGE_ENDS_SECONDS:
            return 1, "", 0
        _, token, seen = noted
        return page, token, seen


class Reading:
    """What can be read of the resources of a store."""

    def __init__(self, store: ResourceStore, vault: Vault, stored_artifacts: Artifacts) -> None:
        self.store = store
        self.vault = vault
        self.artifacts = stored_artifacts
        self._ends = _PageEnds()

    def get(self, kind: Kind, id: str) -> bytes:
        """Give a resource's message. Raises `NotFound`."""
        names.check_id(id, "value")
        return sealing.reveal(kind.name, id, self._stored(kind, id).value, self.vault)

    def get_by_reference(self, kind: Kind, reference: Any) -> bytes:
        """Give the message of the resource that a reference names; of a skill, the version it names."""
        rules.require_valid(reference)
        if not reference.slug:
            raise InvalidArgument("slug", "is missing: a reference names a resource by its slug")
        if reference.kind not in (0, kind.number):
            raise InvalidArgument("kind", f"is {reference.kind}, but this service has {kind.name} ({kind.number}) only")
        id = self.id_of_slug(kind, reference.slug, reference.org)
        at = special.of(kind.name).version_of
        if at is not None and (other := at(id, reference.version)) is not None:
            other_kind, other_id = other
            try:
                return self.store.get(other_kind, other_id).value
            except (NotFound, InvalidArgument) as error:  # a tag that is too long to be part of an id is none
                raise creation.not_found(kind, f"{reference.slug} {reference.version}") from error
        return sealing.reveal(kind.name, id, self._stored(kind, id).value, self.vault)

    def find(self, kind: Kind, ref: str, org: str = "") -> Resource:
        """Give the resource that has an id or a slug, with readable secrets, as `find_stored` does."""
        return self.revealed(self.find_stored(kind, ref, org))

    def find_stored(self, kind: Kind, ref: str, org: str = "") -> Resource:
        """Give the resource that has an id or a slug, as it is stored; only one of an organization where that is given.

        Raises `NotFound`, and `InvalidArgument` where several organizations have the slug.
        """
        names.check_id(ref, "ref")
        try:
            found = self.store.get(kind.name, ref)
        except NotFound:
            pass
        else:
            if not org or _organization(kind, found) == org:
                return found
        return self.store.get(kind.name, self.id_of_slug(kind, ref, org))

    def id_of_slug(self, kind: Kind, slug: str, org: str) -> str:
        """Give the id of the resource with a slug; of any organization where none is given. Raises `NotFound`.

        Where several organizations have the slug, the one that belongs to none is meant, if there is one; else it is
        `InvalidArgument`. Of executions, which may share a slug, the newest is meant.
        """
        found = self.store.find_ids(kind.name, "slug", slug, org or None)
        if not found:
            raise creation.not_found(kind, slug, hint=f"see what is there: stigmer list {kind.plural}")
        if len(found) == 1 or not special.of(kind.name).slug_is_unique:
            return found[-1].id
        without = [one for one in found if not one.qualifier]
        if len(without) == 1:
            return without[0].id
        where = ", ".join(f"{names.shown(one.qualifier) if one.qualifier else 'none'} ({one.id})" for one in found)
        raise InvalidArgument(
            "org",
            f"several organizations have {kind.name} {names.shown(slug)}: {where}",
            hint="give the organization, or the id",
        )

    def list(self, kind: Kind, where: Sequence[Where], page_size: int = 0, page_token: str = "") -> Listed:
        """Give the resources of a kind for which every condition holds, newest first.

        A page ends early where its values would not fit into one message; one value is given in any case.
        """
        found = self._page(kind, where, size_of_page(page_size), page_token)
        resources = [self.revealed(resource_of(row)) for row in found.rows]
        return Listed(resources, found.next_page_token, found.total)

    def list_numbered(self, kind: Kind, where: Sequence[Where], page_size: int, page: int) -> tuple[Listed, int]:
        """Do the same for a page by its number, counted from 1; give with it how many pages there are.

        A page begins where the one before ended, so that none of them leaves out what did not fit. Where they end early
        there are more of them than was said at first, and each says so anew.
        """
        size = size_of_page(page_size)
        question = (kind.name, tuple(where), size)
        number, token, seen = self._ends.nearest(question, page)
        while number < page:
            found = self._page(kind, where, size, token)
            seen += len(found.rows)
            token = found.next_page_token
            if not token:
                return Listed([], "", found.total), -(-found.total // size)
            number += 1
        listed = self.list(kind, where, size, token)
        seen += len(listed.resources)
        if listed.next_page_token:
            self._ends.note(question, page + 1, listed.next_page_token, seen)
        left = max(0, listed.total - seen)
        return listed, (page if listed.resources else 0) + -(-left // size)

    @staticmethod
    def conditions(labels: Iterable[str], tags: Iterable[str], phase: int) -> builtins.list[Where]:
        """Give the conditions that a resource has every label ("key=value"), every tag, and a phase unless it is 0."""
        where: list[Where] = [("label", (label,)) for label in dict.fromkeys(labels)]
        where += (("tag", (tag,)) for tag in dict.fromkeys(tags))
        if phase:
            where.append(("phase", (str(phase),)))
        return where

    def list_for(self, kind: Kind, method: str, request: Any) -> tuple[Listed, int]:
        """Answer a typed list: give what is found, and how many pages it has.

        A request has a token, or the number of a page, which may also stand in the token's place.
        """
        rules.require_valid(request)
        condition = special.of(kind.name).lists.get(method)
        where: list[Where] = list(condition(self.store, request)) if condition is not None else []
        where += self.conditions((), getattr(request, "tags", ()), getattr(request, "phase", 0))
        size, token, page = _paging(request)
        if not token or (token.isascii() and token.isdigit() and len(token) < 10):
            return self.list_numbered(kind, where, size, max(page, int(token or 0), 1))
        listed = self.list(kind, where, size, token)
        return listed, -(-listed.total // size_of_page(size))

    def _page(self, kind: Kind, where: Sequence[Where], size: int, page_token: str) -> IndexedPage:
        return self.store.list_indexed(kind.name, where, size, page_token, bytes_max=PAGE_BYTES_MAX)

    def revealed(self, resource: Resource) -> Resource:
        """Give a stored resource with readable secrets."""
        value = sealing.reveal(resource.kind, resource.id, resource.value, self.vault)
        if value is resource.value:
            return resource
        return Resource(
            resource.kind,
            resource.id,
            value,
            resource.revision,
            resource.created_revision,
            resource.created_at_ns,
            resource.updated_at_ns,
        )

    def artifact(self, request: Any) -> bytes:
        """Give the artifact of a version of a skill. Raises `NotFound`."""
        rules.require_valid(request)
        key = request.artifact_storage_key
        check_key(key)
        if not self.is_needed(key):
            raise NotFound("artifact", key)
        return self.artifacts.get(key)

    def is_needed(self, key: str) -> bool:
        """Say whether a version of a skill names an artifact."""
        return bool(self.store.find_ids("skill_version", "artifact", key))

    def seen_by_subscribers(self, resource: Resource) -> tuple[bytes, bool]:
        """Give what subscribers of an execution are sent of a state, and whether it has ended with it."""
        return self.revealed(resource).value, status.phase_of(resource.kind, resource.value) in status.FINAL

    def _stored(self, kind: Kind, id: str) -> Resource:
        try:
            return self.store.get(kind.name, id)
        except NotFound as error:
            raise creation.not_found(kind, id) from error


def size_of_page(asked: int) -> int:
    """Give how many resources a page has at the most, for what a request says."""
    return PAGE_SIZE_DEFAULT if asked <= 0 else min(asked, PAGE_SIZE_MAX)


def _paging(request: Any) -> tuple[int, str, int]:
    """Give page size, page token and page number of a list's request."""
    info = getattr(request, "page_info", None)
    if info is not None:
        return info.size, "", info.num
    return request.page_size, request.page_token, 0


def _organization(kind: Kind, resource: Resource) -> str | None:
    message: Any = kinds.decode(kind, resource.value)
    return message.metadata.org if message is not None else None
