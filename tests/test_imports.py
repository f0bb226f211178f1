"""Imports go downwards only, as docs/ARCHITECTURE.md ("The house") says."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "stigmer"

BASE = {"errors", "config", "version", "names", "model"}
# What each room may import of stigmer, beside itself.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "config": {"errors"},
    "names": {"errors"},
    "model": {"errors"},
    "pb": set(),
    "codec": BASE | {"pb"},
    "fields": BASE | {"pb", "codec"},
    "parsing": BASE | {"pb", "codec", "fields"},
    "log": BASE,
    "artifacts": BASE | {"log"},
    "lock": BASE,
    "horizon": BASE,
    "unfinished": BASE | {"log"},
    "backup": BASE | {"log", "lock", "artifacts", "unfinished"},
    "views": BASE | {"pb", "codec", "log"},
    "commits": BASE | {"pb", "codec", "fields", "parsing", "views"},
    "decision": BASE | {"codec", "commits", "views"},
    "page_tokens": BASE | {"log"},
    "query": BASE | {"views", "page_tokens"},
    "repair": BASE | {"pb", "log", "views", "lock", "unfinished"},
    "writer": BASE | {"pb", "horizon", "log", "views", "commits", "decision"},
    "rebuild": BASE | {"log", "views", "writer"},
    "opening": BASE | {"log", "views", "unfinished"},
    "store": BASE
    | {"pb", "codec", "lock", "horizon", "log", "views", "commits", "decision", "writer", "rebuild"}
    | {"page_tokens", "query", "opening"},
    "credentials": BASE,
    "doctor": BASE | {"log", "views", "lock", "unfinished", "vault", "daemon", "credentials"},
    "wire": BASE | {"pb", "codec"},
    "vault": BASE | {"log"},
    "client": BASE | {"pb", "codec", "wire", "credentials"},
    "aio": BASE | {"client", "credentials"},
    "resources": BASE | {"pb", "codec", "fields", "parsing", "vault", "artifacts"},
    "daemon": BASE
    | {"pb", "codec", "lock", "horizon", "log", "views", "decision", "store", "wire", "resources"}
    | {"vault", "artifacts", "credentials", "parsing"},
}
# These are above everything.
FREE = {"__init__", "__main__", "cli"}


def room_of(path: Path) -> str:
    """Give the room that a source file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    """Give every source file that was not generated."""
    return sorted(path for path in PACKAGE.rglob("*.py") if "pb" not in path.relative_to(PACKAGE).parts)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Give line and full name of everything that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            module = node.module or ""
            for name in node.names:
                yield node.lineno, f"{module}.{name.name}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    """Each file imports only what the table above allows to its room."""
    room = room_of(path)
    if room in FREE:
        return
    assert room in ALLOWED, f"{room} is a new room: enter it in the table, and in docs/ARCHITECTURE.md"
    for line, name in imports_of(path):
        if name == "stigmer" or not name.startswith("stigmer."):
            continue
        imported = name.split(".")[1]
        assert imported == room or imported in ALLOWED[room], f"{path}:{line}: {room} must not import {name}"


@pytest.mark.parametrize(
    ("room", "foreign"),
    [("resources", "grpc"), ("store", "grpc"), ("log", "lmdb"), ("views", "grpc"), ("client", "lmdb")],
)
def test_a_room_leaves_a_package_to_others(room: str, foreign: str) -> None:
    """Resources and store know no gRPC, the log no LMDB, the clients no storage."""
    for path in sources():
        if room_of(path) == room:
            for line, name in imports_of(path):
                assert name.split(".")[0] != foreign, f"{path}:{line}: {room} must not import {foreign}"


def test_only_resources_and_those_above_import_the_platforms_messages() -> None:
    """A program with its own generated code for the platform's messages can embed the store and the clients."""
    for path in sources():
        if room_of(path) not in {"resources", "daemon", "cli"}:
            for line, name in imports_of(path):
                assert not name.startswith(("stigmer.pb.agentic", "stigmer.pb.rules")), f"{path}:{line}: {name}"


def test_every_dependency_is_named_with_its_reason() -> None:
    """Each package of pyproject.toml has a row in docs/ARCHITECTURE.md, and the code imports no other."""
    project = (ROOT / "pyproject.toml").read_text()
    declared = re.findall(r'^  "([A-Za-z0-9.\-]+)[>=;]', project.partition("[project.optional")[0], re.MULTILINE)
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    table = page.partition("## Dependencies")[2]
    for name in declared:
        assert name in table, f"{name} is not in docs/ARCHITECTURE.md, Dependencies"
    modules = {
        "backports",
        "click",
        "compression",
        "cryptography",
        "google",
        "google_crc32c",
        "grpc",
        "grpc_health",
        "grpc_reflection",
    }
    modules |= {"lmdb", "msgspec", "rich", "ruamel", "uvloop", "stigmer"}
    for path in sources():
        for line, name in imports_of(path):
            top = name.split(".")[0]
            assert top in modules or top in sys.stdlib_module_names, f"{path}:{line}: {top} is not declared"
