"""push: a skill's artifact becomes a version.

The artifact is checked and durable before the operation; the operation makes, in one commit, the skill as it is now,
its version where these bytes were not pushed before, and what the tag points at.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from stigmer import artifacts, codec
from stigmer.errors import InvalidArgument
from stigmer.model import Event, Op, Transacted
from stigmer.resources import archives, creation, identity, kinds, rules
from stigmer.resources.archives import Archive
from stigmer.resources.creation import Random
from stigmer.resources.kinds import Kind
from stigmer.resources.special.instances import ORGANIZATION
from stigmer.resources.special.skill import TAG, VERSION, version_id
from stigmer.resources.state import State
from stigmer.resources.verbs import Resources, Write, used_before
from stigmer.resources.writing import Written

PLATFORM = 1
READY = 2
TAG_LENGTH_MAX = 128
"""Of what is part of an id, together with that of the skill."""


def push(resources: Resources, kind: Kind, request: Any) -> Write:
    """Make a version of a skill; the answer is the skill. Raises `InvalidArgument` for what is no artifact of one."""
    rules.require_valid(request)
    if len(request.tag) > TAG_LENGTH_MAX:
        raise InvalidArgument("tag", f"has {len(request.tag)} characters; at most {TAG_LENGTH_MAX} are allowed")
    archive = archives.inspect(request.artifact)
    wanted = _wanted(kind, request, archive)
    rules.require_valid(wanted)
    creation.check_identity(wanted.metadata)
    # Held, so that nobody collects it before the commit that names it.
    key = artifacts.key_of(request.artifact)
    held = ExitStack()
    held.enter_context(resources.artifacts.hold(key))
    try:
        resources.artifacts.put(request.artifact)
    except BaseException:
        held.close()
        raise
    wanted.status.artifact_storage_key = key

    def answer(written: Written, _done: Transacted) -> bytes:
        held.close()
        return written.value

    def repeat(events: Sequence[Event]) -> bytes:
        held.close()
        for event in reversed(events):
            if event.kind == kind.name and event.op is Op.SAVE:
                return event.value
        raise used_before()

    def undo() -> None:
        held.close()
        resources.artifacts.collect(resources.is_needed, [key])

    return Write(lambda state: _push(state, kind, wanted, resources.random), answer, repeat, undo=undo, is_quick=False)


def _wanted(kind: Kind, request: Any, archive: Archive) -> Any:
    skill: Any = kind.message_class(api_version=creation.API_VERSION, kind=kind.message_name)
    metadata = skill.metadata
    metadata.name = request.name
    metadata.slug = identity.slug_of(request.name)
    metadata.owner_scope = request.scope or (ORGANIZATION if request.org else PLATFORM)
    metadata.org = request.org
    metadata.version.id = archive.version_hash
    skill.spec.skill_md = archive.skill_md
    skill.spec.tag = request.tag
    skill.status.version_hash = archive.version_hash
    skill.status.state = READY
    return skill


def _push(state: State, kind: Kind, wanted: Any, random: Random) -> Written:
    skill: Any = type(wanted)()
    skill.CopyFrom(wanted)
    metadata, hash, tag = skill.metadata, skill.status.version_hash, skill.spec.tag
    id = creation.holder_of_slug(state, kind, metadata.slug, metadata.org)
    if id is None:
        metadata.id = identity.mint_id(kind, time.time_ns(), random(identity.ULID_RANDOM_BYTES))
        creation.mark_created(skill, state.time_ns)
        return _save(state, kind, skill, None)
    found = state.get(kind.name, id)
    assert found is not None, "the index names it"
    current: Any = kinds.parsed(kind, id, found.value)
    same = current.status.version_hash == hash
    if same and current.spec.tag == tag:
        return Written(kind, id, found.value, is_changed=False, revision=found.revision, before=found.value)
    metadata.id = id
    metadata.version.previous_version_id = (
        current.metadata.version.previous_version_id if same else current.status.version_hash
    )
    for name in ("labels", "annotations", "tags"):
        getattr(metadata, name).MergeFrom(getattr(current.metadata, name))
    skill.status.audit.CopyFrom(current.status.audit)
    for info in (skill.status.audit.spec_audit, skill.status.audit.status_audit):
        creation.mark_updated(info, state.time_ns)
    return _save(state, kind, skill, found.value)


def _save(state: State, kind: Kind, skill: Any, before: bytes | None) -> Written:
    id, hash, tag = skill.metadata.id, skill.status.version_hash, skill.spec.tag
    value = codec.value_bytes(skill)
    if state.get(VERSION, version_id(id, hash)) is None:
        state.save(VERSION, version_id(id, hash), value)
    if tag:
        state.save(TAG, version_id(id, tag), value)
    state.save(kind.name, id, value)
    return Written(kind, id, value, before=before)
