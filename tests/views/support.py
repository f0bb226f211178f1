"""Commits to fold, and what views hold afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lmdb

from stigmer.pb import log_pb2
from stigmer.pb.agentic import agent_pb2, agentexecution_pb2
from stigmer.views import blocks, generations
from stigmer.views.projector import VIEWS, Projector
from stigmer.views.view import Databases, FoldCommit, Transaction, number, prepare

MAP_BYTES = 1 << 20
START_NS = 1_767_225_600_000_000_000

Change = tuple[str, str, bytes | None]
"""Kind, id, and the value; None to delete."""


def fold_commits(commits: Sequence[tuple[list[Change], str]], after: int = 0) -> list[FoldCommit]:
    """Make commits ready to be folded, each a list of changes and a request id, behind a revision."""
    made = []
    for changes, request_id in commits:
        events = [
            log_pb2.Event(op=1, kind=kind, id=id, value=value)
            if value is not None
            else log_pb2.Event(op=2, kind=kind, id=id)
            for kind, id, value in changes
        ]
        commit = log_pb2.Commit(events=events, request_id=request_id)
        made.append(number(prepare(commit), request_id, after + 1, START_NS + after, commit.ByteSize()))
        after += len(events)
    return made


def random_commits(seed: int, commits: int) -> list[tuple[list[Change], str]]:
    """Make commits that save and delete a few resources over and over; nothing is deleted that is not there."""
    source = random.Random(seed)
    there: set[tuple[str, str]] = set()
    made = []
    for _ in range(commits):
        changes: list[Change] = []
        for _ in range(source.randint(1, 4)):
            key = (source.choice(["note", "task", "x", "agent", "agent_execution"]), source.choice("abcdef"))
            if key in there and source.random() < 0.4:
                there.discard(key)
                changes.append((*key, None))
            else:
                there.add(key)
                changes.append((*key, random_value(source, key[0])))
        made.append((changes, source.choice(["", "", f"r{source.randint(0, 12)}"])))
    return made


def random_value(source: random.Random, kind: str) -> bytes:
    """Make a value: for kinds that are indexed a message with few different texts, for others any bytes."""
    if kind not in ("agent", "agent_execution") or source.random() < 0.1:
        return source.randbytes(source.choice([0, 1, 30, 200]))
    message: Any = agent_pb2.Agent() if kind == "agent" else agentexecution_pb2.AgentExecution()
    message.metadata.slug = source.choice(["", "one", "two"])
    message.metadata.org = source.choice(["", "acme", "umbrella"])
    message.metadata.tags.extend(source.sample(["red", "green", "blue"], source.randint(0, 3)))
    message.metadata.labels.update({name: source.choice("xy") for name in source.sample("ab", source.randint(0, 2))})
    if kind == "agent_execution":
        message.spec.session_id = source.choice(["", "ses-1", "ses-2"])
        message.status.phase = source.randint(0, 5)
        message.status.error = source.choice(["", "an error"])
    value: bytes = message.SerializeToString()
    return value


def rows(projector: Projector) -> dict[str, list[tuple[bytes, bytes]]]:
    """Every row of every database of an environment, once all is there."""
    projector.flush()

    def work(transaction: Transaction, databases: Databases) -> dict[str, list[tuple[bytes, bytes]]]:
        return {name: list(transaction.cursor(db=database)) for name, database in databases.items()}

    return projector.environment.read(work)


def data_file(directory: Path) -> Path:
    """The LMDB file of the generation that serves in a data directory."""
    return directory / "views" / str(generations.numbers(str(directory / "views"))[0]) / "data.mdb"


def edit(directory: Path, change: Callable[[dict[str, Any], lmdb.Transaction], object]) -> None:
    """Change the views of a closed store as a bug of ours would: LMDB's file is whole, and marked as before."""
    path = data_file(directory)
    with lmdb.open(str(path.parent), max_dbs=32) as environment:
        opened = {name: environment.open_db(name.encode()) for view in VIEWS for name in view.databases}
        opened["meta"] = environment.open_db(b"meta")
        with environment.begin(write=True) as transaction:
            change(opened, transaction)
    mark(path)


def mark(path: Path) -> None:
    """Have LMDB's file of a generation that was closed clean be taken for what it was then."""
    if (path.parent / "clean").exists():
        (path.parent / "clean").write_bytes(blocks.checksums_of(str(path)))
