"""Manifests: what a person writes about resources, as files of YAML or JSON, into checked messages.

    api_version: agentic.stigmer.ai/v1
    kind: Agent
    metadata: {name: support-bot, owner_scope: organization, org: acme}
    spec: {...}

- A file may hold several documents; also a list of manifests, or `items:` with such a list, as `stigmer list`
  prints them. Empty documents are skipped.
- `status` is the system's: it may be there, so that what `stigmer get` printed can be applied again, and is
  dropped without a look.
- All problems of all files are reported together, each with its file and line, the broken rules among them.
- In a directory every *.yaml, *.yml and *.json is a manifest, those of its directories too, in the order of their
  paths; what begins with a dot is left out, and links to directories are not followed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import msgspec
from google.protobuf.message import DecodeError, Message

from stigmer import names
from stigmer.errors import InvalidArgument
from stigmer.resources import identity, kinds, messages, paths, rules
from stigmer.resources.documents import TEXT_BYTES_MAX, DocumentError, Node, Shape, documents
from stigmer.resources.kinds import Kind
from stigmer.resources.messages import Problems

SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "-"
_PROBLEMS_SHOWN_MAX = 50
# One more than is allowed shows that there is more, and no more than that is read.
_READ_BYTES_MAX = TEXT_BYTES_MAX + 1


class Manifest(msgspec.Struct, frozen=True):
    """One resource as a person wants it."""

    kind: Kind
    message: Message
    """Valid, with a name; its slug may be empty (identity.slug_of), its status is never there."""
    source: str = ""
    """The file, as it was named."""
    line: int = 0
    """Of the manifest's beginning in the file, from 1."""

    @property
    def metadata(self) -> Any:
        """The message's ApiResourceMetadata."""
        return cast("Any", self.message).metadata

    @property
    def slug(self) -> str:
        """The slug that the resource has or will get."""
        return identity.slug_of(self.metadata.name, self.metadata.slug)

    @property
    def where(self) -> str:
        """File and line, as far as they are known."""
        return _place(self.source, self.line)


class ManifestProblem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a manifest."""

    source: str
    line: int
    """From 1; 0 where the problem has no line."""
    path: str
    """Such as `spec.mcp_servers[0]`; empty where the problem is with the file or the whole document."""
    problem: str
    kind: Kind | None = None
    """The manifest's, where it has one."""

    def __str__(self) -> str:
        return ": ".join(part for part in (_place(self.source, self.line), self.path, self.problem) if part)


class ManifestError(InvalidArgument):
    """Manifests cannot be used. `problems` has everything that is wrong with them; nothing was written."""

    def __init__(self, problems: Sequence[ManifestProblem]) -> None:
        super().__init__(problems[0].path or problems[0].source, problems[0].problem, hint=_hint(problems))
        lines = [str(problem) for problem in problems[:_PROBLEMS_SHOWN_MAX]]
        if len(problems) > len(lines):
            lines.append(f"... and {len(problems) - len(lines)} more")
        self.args = ("\n".join(lines),)
        self.problems = tuple(problems)


def _place(source: str, line: int) -> str:
    return f"{source}:{line}" if line else source


def _hint(problems: Sequence[ManifestProblem]) -> str | None:
    """Give the command that explains the first problem's field, or what is around it."""
    from stigmer.resources import explain

    for problem in problems:
        if problem.kind is None:
            continue
        # Without the place in a list of manifests, without indexes and keys.
        steps = re.sub(r"^(items)?\[\d+\]\.?|\[.*?\]", "", problem.path).split(".")
        for length in range(len(steps), 0, -1):
            field = ".".join(steps[:length])
            try:
                explain.explain(problem.kind, field)
            except InvalidArgument:
                continue
            return f"see what there is: stigmer explain {problem.kind.name}.{field}".rstrip(".")
    return "see what there is: stigmer kinds" if any(problem.path for problem in problems) else None


def load(locations: Iterable[str], read_stdin: Callable[[int], bytes] | None = None) -> list[Manifest]:
    """Read manifests from files and directories, in the order given; "-" is what `read_stdin` gives.

    `read_stdin` is called with the most bytes to give, as a file's `read` is.
    Raises `ManifestError` with everything that is wrong in all of them.
    """
    found: list[Manifest] = []
    problems: list[ManifestProblem] = []
    for source, content in _contents(locations, read_stdin, problems):
        found += _parse(content, source, problems)
    return _checked(found, problems)


def parse(text: str | bytes, source: str, *, masks: bool = True) -> list[Manifest]:
    """Read manifests from a text; `source` is what problems call it. Raises `ManifestError`.

    Where `masks` are no problem, the text that stands for a secret is taken as it is, for `sealing.unmask`.
    """
    problems: list[ManifestProblem] = []
    content = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    return _checked(list(_parse(content, source, problems, masks=masks)), problems)


def duplicates(manifests: Iterable[Manifest]) -> Iterator[ManifestProblem]:
    """Give a problem for every manifest of a resource that an earlier manifest is of already."""
    first: dict[tuple[str, ...], Manifest] = {}
    for manifest in manifests:
        metadata = manifest.metadata
        named: list[tuple[str, ...]] = [("slug", manifest.kind.name, metadata.org, manifest.slug)]
        if metadata.id:
            named.append(("id", manifest.kind.name, metadata.id))
        for key in named:
            earlier = first.setdefault(key, manifest)
            if earlier is not manifest:
                what = f"{manifest.kind.name} with the {key[0]} {names.shown(key[-1])}"
                organization = f" in organization {names.shown(key[2])}" if key[0] == "slug" and key[2] else ""
                other = f" by {earlier.where}" if earlier.where else ""
                problem = f"the {what}{organization} is given already{other}"
                yield ManifestProblem(manifest.source, manifest.line, f"metadata.{key[0]}", problem, manifest.kind)
                break


def _checked(found: list[Manifest], problems: list[ManifestProblem]) -> list[Manifest]:
    problems += duplicates(found)
    if problems:
        raise ManifestError(problems)
    return found


# --- files ---------------------------------------------------------------------------------------------


def _contents(
    locations: Iterable[str], read_stdin: Callable[[int], bytes] | None, problems: list[ManifestProblem]
) -> Iterator[tuple[str, bytes]]:
    for location in locations:
        try:
            if location == STDIN and read_stdin is not None:
                yield "stdin", read_stdin(_READ_BYTES_MAX)
            elif os.path.isdir(location):
                files = sorted(_files_below(location))
                if not files:
                    problem = f"has no manifest in it (*{', *'.join(SUFFIXES)})"
                    problems.append(ManifestProblem(location, 0, "", problem))
                for file in files:
                    yield file, _read(file)
            else:
                yield location, _read(location)
        except OSError as error:
            source = error.filename if isinstance(error.filename, str) else location
            problems.append(ManifestProblem(source, 0, "", f"cannot be read: {error.strerror or error}"))


def _files_below(directory: str) -> Iterator[str]:
    for parent, directories, files in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in files:
            if name.endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(parent, name)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_READ_BYTES_MAX)


# --- documents -----------------------------------------------------------------------------------------


def _parse(content: bytes, source: str, problems: list[ManifestProblem], *, masks: bool = True) -> Iterator[Manifest]:
    """Give the manifests of one text; what is wrong with the others is added to `problems`."""
    if len(content) > TEXT_BYTES_MAX:
        problem = f"is larger than {TEXT_BYTES_MAX // (1024 * 1024)} MiB"
        problems.append(ManifestProblem(source, 0, "", problem))
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"not UTF-8 text: byte 0x{content[error.start]:02x}; save the file as UTF-8"
        problems.append(ManifestProblem(source, line, "", problem))
        return
    try:
        for document in documents(text, json_only=source.endswith(".json")):
            for path, node in _manifest_nodes(document):
                noted = Problems(masks=masks)
                manifest = _manifest(node, path, source, noted)
                kind = manifest.kind if manifest is not None else None
                problems += (
                    ManifestProblem(source, one.line, paths.text(one.path), one.text, kind)
                    for one in sorted(noted.found, key=lambda one: one.line)
                )
                if manifest is not None and not noted.found:
                    yield manifest
    except DocumentError as error:
        problems.append(ManifestProblem(source, error.line, "", error.problem))


def _manifest_nodes(document: Node) -> Iterator[tuple[paths.Path, Node]]:
    """Give the nodes of a document that are one manifest each: itself, or those in its list or `items`."""
    items = document if document.shape is Shape.LIST else None
    path: paths.Path = ()
    fields = {key.text: value for key, value in document.fields}
    if "items" in fields and "metadata" not in fields:
        items, path = fields["items"], ("items",)
    if items is None or items.shape is not Shape.LIST:
        yield (), document
        return
    for index, entry in enumerate(items.entries):
        yield (*path, index), entry


def _manifest(node: Node, path: paths.Path, source: str, problems: Problems) -> Manifest | None:
    """Make one manifest from its node; None where not even its kind is known."""
    problems.see(path, node.line)
    kind = _kind(node, path, problems)
    if kind is None:
        return None
    message = kind.message_class()
    wanted = tuple((key, value) for key, value in node.fields if key.text != "status")
    messages.fill(message, msgspec.structs.replace(node, fields=wanted), path, problems)
    manifest = Manifest(kind, message, source, node.line)
    wrong = {problem.path for problem in problems.found}
    _check_name(manifest, (*path, "metadata"), problems)
    for violation in rules.check(message):
        here = (*path, *violation.parts)
        # What could not be read is unset in the message, and that it is missing needs no second word.
        if not any(here[:length] in wrong for length in range(len(path) + 1, len(here) + 1)):
            problems.add(here, problems.line_of(here), violation.problem)
    if not problems.found:
        _check_parses(message, path, problems)
    return manifest


def _kind(node: Node, path: paths.Path, problems: Problems) -> Kind | None:
    every = ", ".join(kind.message_name for kind in kinds.all_kinds())
    if node.shape is not Shape.MAP:
        problem = f"expected a manifest (api_version, kind, metadata, spec), got {messages.got(node)}"
        problems.add(path, node.line, problem)
        return None
    for key, value in node.fields:
        if key.text == "kind":
            found = kinds.find(value.text) if value.shape is Shape.STRING else None
            if found is not None and value.text == found.message_name:
                return found
            hint = f"; did you mean {found.message_name}?" if found is not None else f"; there is: {every}"
            problems.add((*path, "kind"), key.line, f"{messages.got(value)} is not a kind{hint}")
            return None
    problems.add((*path, "kind"), node.line, f"is missing; there is: {every}")
    return None


def _check_name(manifest: Manifest, path: paths.Path, problems: Problems) -> None:
    there = manifest.message.HasField("metadata")
    # A metadata that is missing is the rules' to say; a name of the wrong type was said already.
    if not there or any(problem.path in (path, (*path, "name")) for problem in problems.found):
        return
    try:
        identity.slug_of(manifest.metadata.name, manifest.metadata.slug)
        if manifest.metadata.id:
            names.check_id(manifest.metadata.id, "metadata.id")
    except InvalidArgument as error:
        here = (*path, error.field.rpartition(".")[2])
        problems.add(here, problems.line_of(here), error.problem)


def _check_parses(message: Message, path: paths.Path, problems: Problems) -> None:
    """Check that the message can be read again: protobuf has a limit to how deep messages are in each other."""
    try:
        type(message).FromString(message.SerializeToString())
    except DecodeError:
        problem = "lists and maps in spec are too deep in each other to be kept"
        problems.add((*path, "spec"), problems.line_of((*path, "spec")), problem)
