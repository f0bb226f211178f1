"""`skill`: folders with a SKILL.md, pushed as versions of skills and pulled again."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from stigmer.cli.complete import complete_skill
from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, Group, org_option, pass_invocation
from stigmer.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from stigmer.model import Resource
    from stigmer.resources.kinds import Kind

HASH_SHOWN = 12
"""So many digits of a version's hash are shown in a table."""


@click.group("skill", cls=Group)
def skill_command() -> None:
    """Push, list and pull the versions of skills."""


@skill_command.command("push", cls=Command)
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("--name", metavar="NAME", help="The skill's name; else that in SKILL.md, else the folder's.")
@click.option(
    "--org", default="", metavar="ORG", help="The organization that the skill belongs to; else it is everybody's."
)
@click.option(
    "--tag", default="", metavar="TAG", help="A name that this version gets, and an earlier one with it loses."
)
@pass_invocation
def skill_push(invocation: Invocation, directory: str, name: str | None, org: str, tag: str) -> None:
    """Push a folder with a SKILL.md, or a zip of one, as the newest version of a skill.

    The same content is the same version. What begins with a dot stays at home.
    """
    from stigmer import config
    from stigmer.cli import backend
    from stigmer.cli.commands.save import read_bytes
    from stigmer.resources import archives, kinds, methods
    from stigmer.resources.identity import slug_of

    artifact = (
        read_bytes(directory, config.ARTIFACT_BYTES_MAX) if os.path.isfile(directory) else archives.pack(directory)
    )
    archive = archives.inspect(artifact)
    chosen = name if name is not None else _name_of(archive.skill_md, directory)
    kind = _skill_kind()
    method = methods.method_of(kind, "push")
    request = method.request(name=chosen, org=org, tag=tag, artifact=artifact)
    with backend.daemon(invocation) as client:
        try:
            before: Any = kinds.decode(kind, client.resources.find("skill", slug_of(chosen), org).value)
        except (NotFound, InvalidArgument):
            before = None
        skill: Any = kind.message_class.FromString(client.call(method.path, request.SerializeToString()))
    is_same = (
        before is not None
        and before.metadata.id == skill.metadata.id
        and (before.status.version_hash, before.spec.tag) == (skill.status.version_hash, skill.spec.tag)
    )
    _write_pushed(invocation, skill, "unchanged" if is_same else "pushed")


def _skill_kind() -> Kind:
    from stigmer.resources import kinds

    kind = kinds.find("skill")
    assert kind is not None
    return kind


def _name_of(skill_md: str, directory: str) -> str:
    """Give the name in the head of a SKILL.md; where it has none, that of its folder."""
    head, fence, _ = skill_md.removeprefix("---\n").partition("\n---")
    if skill_md.startswith("---\n") and fence:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        try:
            facts = YAML(typ="safe", pure=True).load(head)
        except (YAMLError, ValueError, OverflowError, RecursionError):
            facts = None
        if isinstance(facts, dict) and isinstance(facts.get("name"), str) and facts["name"].strip():
            return str(facts["name"]).strip()
    return os.path.basename(os.path.abspath(directory)).removesuffix(".zip")


def _write_pushed(invocation: Invocation, skill: Any, outcome: str) -> None:
    from stigmer.cli.output import write_record
    from stigmer.cli.units import visible

    facts = {
        "kind": "skill",
        "id": skill.metadata.id,
        "slug": skill.metadata.slug,
        "outcome": outcome,
        "version": skill.status.version_hash,
        "tag": skill.spec.tag,
    }
    if invocation.output in ("yaml", "json", "jsonl"):
        write_record({name: value for name, value in facts.items() if value}, invocation.output)
    elif invocation.output == "name":
        print(visible(f"skill/{skill.metadata.id}"))
    elif not invocation.quiet:
        tag = f", tag {skill.spec.tag}" if skill.spec.tag else ""
        print(visible(f"skill/{skill.metadata.slug} {outcome} (version {skill.status.version_hash[:HASH_SHOWN]}{tag})"))


@skill_command.command("versions", cls=Command)
@click.argument("ref", shell_complete=complete_skill)
@org_option
@pass_invocation
def skill_versions(invocation: Invocation, ref: str, org: str) -> None:
    """List the versions of a skill, newest first, with the tags that name them."""
    from stigmer.cli import sources
    from stigmer.cli.output import rfc3339, table, write_records
    from stigmer.cli.references import Reference
    from stigmer.cli.shown import ABSENT, find
    from stigmer.cli.units import age
    from stigmer.resources import kinds
    from stigmer.resources.special.skill import TAG, VERSION

    with sources.reader(invocation) as source:
        found = find(source, Reference("skill", ref, org))
        versions = list(source.store.list(VERSION, f"{found.id}."))
        tagged = list(source.store.list(TAG, f"{found.id}."))
    versions.sort(key=lambda one: one.created_revision, reverse=True)
    tags: dict[str, list[str]] = {}
    for one in tagged:
        message: Any = kinds.decode("skill", one.value)
        if message is not None:
            tags.setdefault(message.status.version_hash, []).append(one.id.removeprefix(f"{found.id}."))
    rows = [(one, one.id.removeprefix(f"{found.id}.")) for one in versions]
    match invocation.output:
        case "name":
            for _, hash in rows:
                print(hash)
        case "table" | "wide" as output:
            now = time.time()
            shown = HASH_SHOWN if output == "table" else None
            table(
                ("VERSION", "TAGS", "AGE"),
                [
                    (hash[:shown], ", ".join(tags.get(hash, ())) or ABSENT, age(now - one.created_at_ns / 1e9))
                    for one, hash in rows
                ],
            )
        case output:
            records: list[dict[str, object]] = [
                {"version": hash, "tags": tags.get(hash, []), "created_at": rfc3339(one.created_at_ns)}
                for one, hash in rows
            ]
            write_records(iter(records), output)


@skill_command.command("pull", cls=Command)
@click.argument("ref", shell_complete=complete_skill)
@org_option
@click.option("--version", "version", default="", metavar="VERSION", help="By its hash or its tag; else the newest.")
@click.option("--to", "target", required=True, metavar="DIR|FILE.zip", type=click.Path(), help="Where to write it.")
@pass_invocation
def skill_pull(invocation: Invocation, ref: str, org: str, version: str, target: str) -> None:
    """Write a version of a skill into a new folder, or into a zip."""
    from stigmer import fields
    from stigmer.cli import backend, sources
    from stigmer.cli.commands.get import version_of
    from stigmer.cli.references import Reference
    from stigmer.cli.shown import find
    from stigmer.cli.units import visible
    from stigmer.resources import kinds, methods

    if os.path.lexists(target):
        raise InvalidArgument("--to", f"{target} is there already", hint="name a folder or a file that is not there")
    kind = _skill_kind()
    with backend.daemon(invocation) as client, sources.of_store(invocation, client) as source:
        found: Resource = find(source, Reference("skill", ref, org))
        if version:
            found = version_of(source, found, version)
        skill: Any = kinds.parsed(kind, found.id, found.value)
        key = skill.status.artifact_storage_key
        if not key:
            raise NotFound("artifact of skill", ref, hint="push it: stigmer skill push DIR")
        method = methods.method_of(kind, "getArtifact")
        request = method.request(artifact_storage_key=key)
        answer = client.call(method.path, request.SerializeToString())
    artifact = bytes(fields.content(fields.split(answer), method.response.fields_by_name["artifact"].number))
    count = _write_artifact(artifact, target)
    if not invocation.quiet:
        print(
            visible(
                f"skill/{skill.metadata.slug} version {skill.status.version_hash[:HASH_SHOWN]} in {target} ({count})"
            )
        )


def _write_artifact(artifact: bytes, target: str) -> str:
    """Write the files of an artifact into a new folder, or itself into a file that ends with .zip."""
    import io
    import zipfile

    from stigmer.cli.units import counted
    from stigmer.resources import archives

    if target.endswith(".zip"):
        with open(target, "xb") as file:
            file.write(artifact)
        return counted(len(artifact), "byte")
    # No name in it leads out of the folder: that is looked at before anything is written.
    archive = archives.inspect(artifact)
    os.makedirs(target)
    with zipfile.ZipFile(io.BytesIO(artifact)) as content:
        content.extractall(target)
    return counted(archive.files, "file")
