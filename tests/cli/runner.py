"""A runner for the tests: it does no work, and reports what a recording has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stigmer.cli import recordings
from stigmer.client.sync import Client
from stigmer.pb.agentic.agentexecution_pb2 import (
    AgentExecution,
    AgentExecutionStatus,
    AgentExecutionUpdateStatusInput,
)

TRAFFIC = Path(__file__).parents[1] / "data" / "traffic"
SERVICE = "/ai.stigmer.agentic.agentexecution.v1.AgentExecutionCommandController"
IN_PROGRESS, COMPLETED, FAILED = 2, 3, 4


def recorded(name: str) -> list[AgentExecutionStatus]:
    """Give the statuses that a recording has, in their order."""
    path = str(TRAFFIC / f"agent-run-{name}.binpb.zst")
    updates = (recordings.update_of(frame, path, number) for number, frame in enumerate(recordings.frames(path), 1))
    return [update.status for update in updates]


def report(client: Client, id: str, statuses: Sequence[Any]) -> AgentExecution:
    """Report statuses of an execution, one after the other, and give what it is then."""
    answer = b""
    for status in statuses:
        update = AgentExecutionUpdateStatusInput(execution_id=id, status=status)
        answer = client.call(f"{SERVICE}/updateStatus", update.SerializeToString())
    return AgentExecution.FromString(answer)


def next_execution(client: Client, after: int) -> str:
    """Wait for an execution to be created behind a revision, as a runner does, and give its id."""
    event = next(iter(client.tail(after, kinds=["agent_execution"])))
    return event.id
