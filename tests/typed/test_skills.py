"""Skills: versions, tags, artifacts, and what of them is left when a skill is deleted."""

from __future__ import annotations

import hashlib
import random
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from daemon.support import DaemonProcess

from typed.support import (
    ORGANIZATION,
    PLATFORM,
    ROOM,
    Refused,
    Services,
    names_of,
    skill_zip,
    zip_of,
)

SKILL = 43


def stored(data_dir: Path) -> set[str]:
    """Give the names of the files below DATA/artifacts, whatever they are."""
    return {path.name for path in (data_dir / "artifacts").rglob("*") if path.is_file()}


def hash_of(artifact: bytes) -> str:
    """Give the SHA-256 of an artifact in hexadecimal."""
    return hashlib.sha256(artifact).hexdigest()


@pytest.fixture
def only(services: Services, data_dir: Path) -> Iterator[None]:
    """Nothing is stored after a test that was not stored before: what it has pushed, it deletes."""
    before = stored(data_dir)
    yield
    assert stored(data_dir) == before


def test_push_makes_a_skill(services: Services, only: None) -> None:
    """Named, slugged and scoped as asked for; its text, its hash, where its artifact is, READY, with an audit."""
    artifact = skill_zip("# Search\n\nLook for it.")
    made = services.skill.push(name="Web Search", org="acme", artifact=artifact, tag="stable")
    metadata = made.metadata
    assert (made.api_version, made.kind) == ("agentic.stigmer.ai/v1", "Skill")
    assert (metadata.name, metadata.slug, metadata.org) == ("Web Search", "web-search", "acme")
    assert metadata.id.startswith("skl-")
    assert (metadata.owner_scope, metadata.version.id) == (ORGANIZATION, hash_of(artifact))
    assert (made.spec.skill_md, made.spec.tag) == ("# Search\n\nLook for it.", "stable")
    assert (made.status.version_hash, made.status.state) == (hash_of(artifact), 2)
    assert made.status.artifact_storage_key == f"sha256-{hash_of(artifact)}"
    for info in (made.status.audit.spec_audit, made.status.audit.status_audit):
        assert (info.created_by.id, info.updated_by.id, info.event) == ("system", "system", "created")
    assert services.skill.get(value=metadata.id) == made
    assert services.skill.getArtifact(artifact_storage_key=made.status.artifact_storage_key).artifact == artifact
    assert services.skill.delete(value=metadata.id) == made


@pytest.mark.parametrize(
    ("request_scope", "org", "scope"), [(0, "", PLATFORM), (0, "acme", ORGANIZATION), (1, "acme", 1), (2, "acme", 2)]
)
def test_scope_of_a_skill(services: Services, only: None, request_scope: int, org: str, scope: int) -> None:
    """The one that is asked for, else that of the organization, else the platform's."""
    made = services.skill.push(name="Scoped", scope=request_scope, org=org, artifact=skill_zip())
    assert (made.metadata.owner_scope, made.metadata.org) == (scope, org)
    services.skill.delete(value=made.metadata.id)


def test_the_same_bytes_twice_are_one_version(services: Services, data_dir: Path, only: None) -> None:
    """Nothing is written the second time, and the answer is the same; a new tag for them is no new version."""
    artifact = skill_zip()
    first = services.skill.push(name="Twice", artifact=artifact, tag="a")
    before = services.revision
    assert services.skill.push(name="Twice", artifact=artifact, tag="a") == first
    assert services.revision == before
    tagged = services.skill.push(name="Twice", artifact=artifact, tag="b")
    id = first.metadata.id
    assert (tagged.metadata.id, tagged.status.version_hash) == (id, first.status.version_hash)
    (commit,) = services.commits(before)
    assert names_of(commit) == [("save", "skill_tag", f"{id}.b"), ("save", "skill", id)]
    for tag in ("a", "b"):
        found = services.skill.getByReference(slug="twice", version=tag)
        assert (found.status.version_hash, found.spec.tag) == (hash_of(artifact), tag)
    assert stored(data_dir) == {hash_of(artifact)}
    services.skill.delete(value=id)


def test_versions_and_tags_are_found(services: Services, only: None) -> None:
    """ "" and "latest" are the newest push, 64 hex digits that version, anything else the newest with that tag."""
    pushed = [("one", "stable"), ("two", ""), ("three", "beta"), ("four", "stable"), ("five", "")]
    hashes = {}
    for text, tag in pushed:
        made = services.skill.push(name="Versions", org="acme", artifact=skill_zip(text), tag=tag)
        hashes[text] = made.status.version_hash
    assert len(set(hashes.values())) == 5

    def found(version: str) -> Any:
        return services.skill.getByReference(slug="versions", org="acme", kind=SKILL, version=version)

    for version in ("", "latest"):
        assert found(version).spec.skill_md == "five"
    for tag, text in (("stable", "four"), ("beta", "three")):
        assert (found(tag).spec.skill_md, found(tag).spec.tag) == (text, tag)
    for text, hash in hashes.items():
        assert (found(hash).spec.skill_md, found(hash).status.version_hash) == (text, hash)
    assert found(hashes["five"]).metadata.version.previous_version_id == hashes["four"]
    assert found(hashes["one"]).metadata.version.previous_version_id == ""
    for version in ("none", "Stable", "0" * 64, hashes["one"].upper(), "v" * 300, ".."):
        with pytest.raises(Refused) as caught:
            found(version)
        assert caught.value.code is grpc.StatusCode.NOT_FOUND, version
        assert caught.value.message == f"Skill not found: versions {version}"
    # An older version that is pushed again is the newest, and no version more.
    again = services.skill.push(name="Versions", org="acme", artifact=skill_zip("one"))
    assert (found("").spec.skill_md, again.metadata.version.previous_version_id) == ("one", hashes["five"])
    assert found("stable").spec.skill_md == "four"
    services.skill.delete(value=again.metadata.id)


def test_push_is_one_commit(services: Services, only: None) -> None:
    """The version, what the tag points at and the skill: all of a push, or nothing, is there to be read."""
    before = services.revision
    made = services.skill.push(name="One Commit", artifact=skill_zip(), tag="t")
    (commit,) = services.commits(before)
    id = made.metadata.id
    assert names_of(commit) == [
        ("save", "skill_version", f"{id}.{made.status.version_hash}"),
        ("save", "skill_tag", f"{id}.t"),
        ("save", "skill", id),
    ]
    services.skill.delete(value=id)


def test_slug_of_a_skill_is_its_organization_s(services: Services, only: None) -> None:
    """The same name in another organization is another skill; in the same, however it is written, a push to it."""
    one = services.skill.push(name="Shared Name", org="one", artifact=skill_zip("1"))
    two = services.skill.push(name="Shared Name", org="two", artifact=skill_zip("2"))
    again = services.skill.push(name="shared name", org="one", artifact=skill_zip("3"))
    assert one.metadata.id != two.metadata.id
    assert (again.metadata.id, again.metadata.name) == (one.metadata.id, "shared name")
    assert again.status.audit.spec_audit.created_at == one.status.audit.spec_audit.created_at
    assert again.status.audit.spec_audit.event == "updated"
    assert services.skill.getByReference(slug="shared-name", org="two") == two
    for made in (one, two):
        services.skill.delete(value=made.metadata.id)


def test_delete_takes_versions_tags_and_artifacts(services: Services, data_dir: Path, only: None) -> None:
    """In one commit, the skill last; but an artifact that another skill has as well stays until that one goes."""
    shared, own = skill_zip("shared"), skill_zip("own")
    kept = services.skill.push(name="Kept", artifact=shared)
    gone = services.skill.push(name="Gone", artifact=own, tag="t")
    services.skill.push(name="Gone", artifact=shared, tag="t")
    assert stored(data_dir) == {hash_of(shared), hash_of(own)}
    id = gone.metadata.id
    before = services.revision
    services.skill.delete(value=id)
    (commit,) = services.commits(before)
    assert names_of(commit) == [
        ("delete", "skill_version", f"{id}.{hash_of(own)}"),
        ("delete", "skill_version", f"{id}.{hash_of(shared)}"),
        ("delete", "skill_tag", f"{id}.t"),
        ("delete", "skill", id),
    ]
    assert stored(data_dir) == {hash_of(shared)}
    for version in ("", "t", hash_of(own)):
        with pytest.raises(Refused) as caught:
            services.skill.getByReference(slug="gone", version=version)
        assert caught.value.code is grpc.StatusCode.NOT_FOUND
    with pytest.raises(Refused) as caught:
        services.skill.getArtifact(artifact_storage_key=f"sha256-{hash_of(own)}")
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert services.skill.getArtifact(artifact_storage_key=f"sha256-{hash_of(shared)}").artifact == shared
    services.skill.delete(value=kept.metadata.id)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "../../secret.key",
        "/etc/passwd",
        "sha256-../../../etc/passwd",
        "sha256-" + "a" * 62 + "/a",
        "sha256-" + "A" * 64,
        "sha256-" + "a" * 63,
        "sha256-" + "a" * 65,
        "SHA256-" + "a" * 64,
        "sha256-" + "a" * 64 + "\n",
        "sha256-" + "a" * 64 + "\0",
        "a" * 64,
        "aa/" + "a" * 64,
        "sha256-" + "\u0660" * 64,
        "x" * 10_000,
    ],
)
def test_artifacts_are_found_by_keys_never_by_paths(services: Services, key: str) -> None:
    """A text that is no key is refused before anything is looked for."""
    with pytest.raises(Refused, match="INVALID_ARGUMENT: artifact_storage_key: "):
        services.skill.getArtifact(artifact_storage_key=key)


def test_artifact_that_was_not_handed_out(services: Services, daemon: DaemonProcess, data_dir: Path) -> None:
    """A key of which no version tells is NOT_FOUND, even where a file has that name."""
    content = b"not a skill's"
    path = data_dir / "artifacts" / hash_of(content)[:2] / hash_of(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        for hash in (hash_of(content), "0" * 64):
            with pytest.raises(Refused) as caught:
                services.skill.getArtifact(artifact_storage_key=f"sha256-{hash}")
            assert caught.value.code is grpc.StatusCode.NOT_FOUND
    finally:
        path.unlink()


# --- what is refused -------------------------------------------------------------------------------------


def _entries(count: int) -> bytes:
    return zip_of({"SKILL.md": "# S", **{f"f{number}": b"" for number in range(count)}}, zipfile.ZIP_STORED)


REFUSED = {
    "no zip": b"PK\x03\x04 no zip at all",
    "text": b"# Skill",
    "an empty zip": zip_of({}),
    "cut off": skill_zip()[:-10],
    "something behind": skill_zip() + b"more",
    "something before": b"#!/bin/sh\n" + skill_zip(),
    "no SKILL.md": zip_of({"README.md": b"# Skill"}),
    "SKILL.md in a folder": zip_of({"skill/SKILL.md": b"# Skill"}),
    "another case": zip_of({"skill.md": b"# Skill"}),
    "an empty SKILL.md": zip_of({"SKILL.md": b""}),
    "a SKILL.md of spaces": zip_of({"SKILL.md": b" \n\t "}),
    "a SKILL.md that is no text": zip_of({"SKILL.md": b"\xff\xfe\x00"}),
    "a SKILL.md above 1 MB": zip_of({"SKILL.md": random.Random(1).randbytes(600_000).hex().encode()}),
    "out of the folder": skill_zip(**{"../evil": b"x"}),
    "out of the folder, further inside": skill_zip(**{"a/../../evil": b"x"}),
    "an absolute path": skill_zip(**{"/etc/evil": b"x"}),
    "a backslash": skill_zip(**{"..\\evil": b"x"}),
    "a drive": skill_zip(**{"C:evil": b"x"}),
    "a control character": skill_zip(**{"e\x07vil": b"x"}),
    "a bomb": skill_zip(zeros=bytes(30_000_000)),
    "too many files": _entries(10_000),
}


@pytest.mark.parametrize("artifact", REFUSED.values(), ids=REFUSED.keys())
def test_refused_artifact_leaves_nothing(services: Services, data_dir: Path, only: None, artifact: bytes) -> None:
    """It is INVALID_ARGUMENT that names the artifact; no file is left of it, and no event."""
    before = services.revision
    with pytest.raises(Refused, match=r"INVALID_ARGUMENT: artifact") as caught:
        services.skill.push(name="Refused", artifact=artifact)
    assert caught.value.detail.field.startswith("artifact")
    assert services.revision == before
    assert stored(data_dir) == set()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "🤖"}, "metadata.name"),
        ({"artifact": b""}, "artifact"),
        ({"tag": "a b"}, "tag"),
        ({"tag": "../x"}, "tag"),
        ({"tag": "t" * 300}, "tag"),
        ({"scope": 3}, "metadata.owner_scope"),
        ({"scope": 9}, "scope"),
    ],
)
def test_refused_push_leaves_nothing(
    services: Services, data_dir: Path, only: None, fields: dict[str, Any], field: str
) -> None:
    """What is wrong beside the artifact is named, and the artifact is not kept."""
    before = services.revision
    with pytest.raises(Refused, match=f"INVALID_ARGUMENT: {field}: "):
        services.skill.push(**{"name": "Refused", "artifact": skill_zip(), **fields})
    assert services.revision == before
    assert stored(data_dir) == set()


def test_ten_thousand_files_are_taken(services: Services, only: None) -> None:
    """As many as the limit says, the SKILL.md among them."""
    made = services.skill.push(name="Many Files", artifact=_entries(9_999))
    services.skill.delete(value=made.metadata.id)


def test_many_push_at_once(services: Services, data_dir: Path, only: None) -> None:
    """Each gets the version of its own bytes, all of them are of one skill, and every artifact can be fetched."""
    artifacts = [skill_zip(f"text {number % 4}") for number in range(24)]

    def push(artifact: bytes) -> Any:
        return services.skill.push(name="Rush", artifact=artifact, tag="t")

    with ThreadPoolExecutor(12) as threads:
        made = list(threads.map(push, artifacts))
    assert [one.status.version_hash for one in made] == [hash_of(artifact) for artifact in artifacts]
    (id,) = {one.metadata.id for one in made}
    assert stored(data_dir) == {hash_of(artifact) for artifact in artifacts}
    for artifact in artifacts[:4]:
        key = f"sha256-{hash_of(artifact)}"
        assert services.skill.getArtifact(artifact_storage_key=key).artifact == artifact
    services.skill.delete(value=id)


def test_large_artifact_goes_in_and_out(daemon: DaemonProcess, only: None) -> None:
    """Ninety megabytes, of a client whose limits are raised; above the limit of 100 MB a push is refused."""
    noise = random.Random(7).randbytes(1_000_000)
    artifact = zip_of({"SKILL.md": b"# Large", **{f"part{n}": noise for n in range(90)}}, zipfile.ZIP_STORED)
    assert len(artifact) > 90_000_000
    with Services(daemon.address, ROOM) as roomy:
        made = roomy.skill.push(name="Large", artifact=artifact)
        key = made.status.artifact_storage_key
        assert key == f"sha256-{hash_of(artifact)}"
        assert roomy.skill.getArtifact(artifact_storage_key=key).artifact == artifact
        roomy.skill.delete(value=made.metadata.id)
        too_large = zip_of({"SKILL.md": b"# Large", **{f"part{n}": noise for n in range(105)}}, zipfile.ZIP_STORED)
        with pytest.raises(Refused) as caught:
            roomy.skill.push(name="Large", artifact=too_large)
        assert caught.value.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
