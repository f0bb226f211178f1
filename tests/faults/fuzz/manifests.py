"""Target: manifests in YAML and JSON, up to messages that were checked, and back to text.

The first byte of the input says which of the two the rest is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import Message

from stigmer.resources import documents, kinds, manifests, present, rules
from stigmer.resources.documents import DEPTH_MAX, EXPANDED_BYTES_MAX, DocumentError, Node, Shape
from stigmer.resources.manifests import Manifest, ManifestError

READERS = ("stigmer.resources", "ruamel.yaml")
TOKENS = (
    b"---\n",
    b"...\n",
    b"%YAML 1.1\n",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!str ",
    b"!!binary ",
    b"!!int ",
    b"? ",
    b"|-\n",
    b">+2\n",
    b"- ",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b'"\\u0000"',
    b"1e999",
    b"0x1F",
    b".nan",
    b"null",
    b"kind: Agent\n",
    b"status: ",
    b"items: ",
    b"spec: ",
    b"metadata: ",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"\t",
    b"{",
    b"}",
    b"[",
    b"]",
)

_ROOT = Path(__file__).parents[3]
_SOURCES = ("m.yaml", "m.json")
_YAML_BYTES_MAX = 8 << 10
"""A reader of YAML in Python takes a second for a few hundred KiB, and several times that where it is watched."""


def one(data: bytes) -> None:
    """Read bytes as manifests; what is taken is read again from what is shown of it, and is the same."""
    if not data:
        return
    source = _SOURCES[data[0] % len(_SOURCES)]
    content = data[1:] if source == "m.json" else data[1 : 1 + _YAML_BYTES_MAX]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    else:
        _check_documents(text, json_only=source == "m.json")
    try:
        found = manifests.parse(content, source)
    except ManifestError as error:
        _check_problems(error, content, source)
        return
    for manifest in found:
        _check_manifest(manifest, content)


def seeds() -> Iterator[bytes]:
    """Give manifests that are good, and one with everything that can be wrong."""
    paths = [
        *sorted((_ROOT / "examples").glob("*.yaml")),
        *sorted((_ROOT / "stigmer/resources/examples").glob("*.yaml")),
        _ROOT / "tests/data/manifests/broken.yaml",
    ]
    for path in paths:
        content = path.read_bytes()
        yield b"\0" + content
        if path.parent.name == "examples" and path.name != "broken.yaml":
            shown = [present.as_dict(one.message) for one in manifests.parse(content, str(path))]
            yield b"\1" + json.dumps(shown, indent=1).encode()
            yield b"\0" + present.json_text(shown[0], indent=None).encode()
    yield b"\0a: &a [1, 2]\nb: *a\n? c\n: |\n  text\n  more\n--- # next\n- !!str 1\n- 'it''s'\n...\n"
    yield b'\0- "\\x41\\u00e9"\n- >+\n  folded\n  text\n\n- .inf\n- 0o17\n'
    yield b'\1{"a": [1, 2.5e3, true, null, "\\u00e9\\n"], "b": {}} [] "x" 7'


def _check_problems(error: ManifestError, content: bytes, source: str) -> None:
    assert error.problems
    lines = content.decode(errors="replace").count("\n") + content.count(b"\r") + 2
    for problem in error.problems:
        assert problem.source == source
        assert 0 <= problem.line <= lines + content.count(b"\xc2\x85") + content.count(b"\xe2\x80")
        assert problem.problem
        str(problem).encode()
    str(error).encode()


def _check_manifest(manifest: Manifest, content: bytes) -> None:
    message = manifest.message
    assert manifest.slug
    assert rules.check(message) == []
    assert kinds.find(manifest.kind.name) is manifest.kind
    serialized = message.SerializeToString(deterministic=True)
    assert type(message).FromString(serialized) == message
    shown = present.as_dict(message, show_secrets=True)
    for text, source in ((present.json_text(shown), "m.json"), (present.yaml_text(shown), "m.yaml")):
        assert _again(text, source) == message, f"what is shown as {source} is another message"
    present.as_dict(message)
    present.summary(message)


def _again(text: str, source: str) -> Message:
    (found,) = manifests.parse(text, source)
    return found.message


# --- syntax ------------------------------------------------------------------------------------------------


def _check_documents(text: str, *, json_only: bool) -> None:
    """A text is documents within their bounds, or a problem with a line; JSON is what Python reads in it."""
    known: list[Any] | None = None
    if json_only:
        known = _known(text)
    try:
        found = list(documents.documents(text, json_only=json_only))
    except DocumentError as error:
        assert error.line >= 0
        assert error.problem
        return
    for node in found:
        assert node.depth <= DEPTH_MAX
        assert node.size <= EXPANDED_BYTES_MAX
        assert node.line >= 1
        assert _depth(node) == node.depth
    if json_only:
        assert known is not None, "what is no JSON was taken"
        assert [_plain(node) for node in found] == [value for value in known if value is not None]


def _known(text: str) -> list[Any] | None:
    """Give the JSON values of a text, maps as lists of pairs and numbers as they are written; None where it is none."""
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs, parse_int=_Number, parse_float=_Number)
    values = []
    at = 0
    while True:
        while at < len(text) and (text[at].isspace() or text[at] == "\ufeff"):
            at += 1
        if at == len(text):
            return values
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        values.append(value)


class _Pairs(list[tuple[str, Any]]):
    """A map."""


class _Number(NamedTuple):
    """A number as it is written."""

    text: str


def _plain(node: Node) -> Any:
    match node.shape:
        case Shape.MAP:
            return _Pairs((key.text, _plain(value)) for key, value in node.fields)
        case Shape.LIST:
            return [_plain(entry) for entry in node.entries]
        case Shape.NULL:
            return None
        case Shape.BOOL:
            return node.text == "true"
        case Shape.NUMBER:
            return _Number(node.text)
        case Shape.STRING:
            return node.text


def _depth(node: Node) -> int:
    inside = [*node.entries, *(value for _, value in node.fields)]
    return 1 + max(map(_depth, inside), default=0) if node.shape in (Shape.LIST, Shape.MAP) else 0
