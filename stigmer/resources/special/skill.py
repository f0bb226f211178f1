"""Skills: each version is kept under its hash, the newest of each tag under the tag; both go with the skill.

Versions and tags are resources of kinds of their own, whose values are whole `Skill` messages.
"""

from __future__ import annotations

import re

from stigmer.resources.special import Special

VERSION, TAG = "skill_version", "skill_tag"

_is_hash = re.compile(r"[0-9a-f]{64}").fullmatch


def version_id(skill_id: str, hash: str) -> str:
    """Give the id of a version of a skill, or of one of its tags."""
    return f"{skill_id}.{hash}"


def _version_of(id: str, version: str) -> tuple[str, str] | None:
    if version in ("", "latest"):
        return None
    return VERSION if _is_hash(version) else TAG, version_id(id, version)


SPECIAL = Special(children=((VERSION, "skill"), (TAG, "skill")), version_of=_version_of)
