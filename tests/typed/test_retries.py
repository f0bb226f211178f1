"""The same request id again: applied once, answered as the first time, also by a daemon that was started anew."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from daemon.support import DaemonProcess

from typed.support import (
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    Refused,
    Services,
    execution_of,
    make,
    skill_zip,
    workflow_execution_of,
)

Request = Callable[[Services, str], Any]
"""Makes one request with a request id."""


def _requests(services: Services) -> dict[str, Request]:
    """Prepare a request of each verb that writes, and give them in the order in which they can be made."""
    agent = services.agent.create(make("agent", "Retried Agent"))
    doomed = services.agent.create(make("agent", "Doomed Agent"))
    services.agent_execution.create(execution_of("doomed", agent=doomed.metadata.id))
    server = services.mcp_server.create(make("mcp_server", "Retried Server"))
    changed = make("mcp_server", "Changed Server", id=server.metadata.id)
    flow = services.workflow.create(make("workflow", "Retried Flow"))
    run = services.agent_execution.create(execution_of("run", agent=agent.metadata.id))
    of_flow = services.workflow_execution.create(workflow_execution_of("run", workflow=flow.metadata.id))
    skill = services.skill.push(name="Deleted Skill", artifact=skill_zip("deleted"))
    return {
        "create": lambda to, id: to.agent.create(make("agent", "Created"), request_id=id),
        "create of an execution": lambda to, id: to.agent_execution.create(
            execution_of("again", agent=agent.metadata.id), request_id=id
        ),
        "update": lambda to, id: to.mcp_server.update(changed, request_id=id),
        "apply that creates": lambda to, id: to.workflow.apply(make("workflow", "Applied"), request_id=id),
        "apply that updates": lambda to, id: to.mcp_server.apply(
            make("mcp_server", "Retried Server", labels={"a": "b"}), request_id=id
        ),
        "updateStatus": lambda to, id: to.agent_execution.updateStatus(
            execution_id=run.metadata.id, status={"phase": IN_PROGRESS, "messages": [{"content": "hi"}]}, request_id=id
        ),
        "updateStatus that fails it": lambda to, id: to.agent_execution.updateStatus(
            execution_id=run.metadata.id, status={"phase": FAILED, "error": "no"}, request_id=id
        ),
        "updateStatus that ends it": lambda to, id: to.workflow_execution.updateStatus(
            execution_id=of_flow.metadata.id, status={"phase": COMPLETED}, request_id=id
        ),
        "push": lambda to, id: to.skill.push(name="Pushed", artifact=skill_zip("pushed"), tag="t", request_id=id),
        "delete": lambda to, id: to.agent.delete(value=doomed.metadata.id, request_id=id),
        "delete by its input": lambda to, id: to.mcp_server.delete(resource_id=server.metadata.id, request_id=id),
        "delete of a skill": lambda to, id: to.skill.delete(value=skill.metadata.id, request_id=id),
    }


def test_same_request_id_is_applied_once(tmp_path: Path) -> None:
    """The second answer is the first one's, message for message, and nothing is written; so it is after a restart."""
    answers: dict[str, Any] = {}
    with DaemonProcess(tmp_path / "data") as daemon, Services(daemon.address) as services:
        requests = _requests(services)
        for name, request in requests.items():
            before = services.revision
            answers[name] = request(services, name.replace(" ", "-"))
            assert len(services.commits(before)) == 1, name
        last = services.revision
        for name, request in requests.items():
            assert request(services, name.replace(" ", "-")) == answers[name], name
        assert services.revision == last
        daemon.kill()
    with DaemonProcess(tmp_path / "data") as daemon, Services(daemon.address) as services:
        for name, request in requests.items():
            assert request(services, name.replace(" ", "-")) == answers[name], name
        assert services.revision == last
        # Without an id, the same requests find what was done.
        for name in ("create", "updateStatus", "delete"):
            with pytest.raises(Refused):
                requests[name](services, "")
        assert daemon.stop() == 0
    assert "Traceback" not in (tmp_path / "data" / "daemon.log").read_text(encoding="utf-8")


def test_same_request_id_at_the_same_time(services: Services) -> None:
    """Of many callers with one id, one is carried out, and all get its answer."""
    before = services.revision
    with ThreadPoolExecutor(16) as threads:
        made = list(
            threads.map(
                lambda _: services.agent.create(make("agent", "Twins"), request_id="twins").SerializeToString(
                    deterministic=True
                ),
                range(32),
            )
        )
    assert len(set(made)) == 1
    assert len(services.commits(before)) == 1


def test_request_id_of_another_request(services: Services, data_dir: Path) -> None:
    """What was used for one thing is not an answer to another: INVALID_ARGUMENT, and nothing is written or kept."""
    made = services.agent.create(make("agent", "First Use"), request_id="first-use")
    server = services.mcp_server.create(make("mcp_server", "Second Use"))
    before = services.revision
    for again in (
        lambda: services.mcp_server.create(make("mcp_server", "Third Use"), request_id="first-use"),
        lambda: services.agent.delete(value=made.metadata.id, request_id="first-use"),
        lambda: services.mcp_server.delete(resource_id=server.metadata.id, request_id="first-use"),
        lambda: services.skill.push(name="Fourth Use", artifact=skill_zip(), request_id="first-use"),
    ):
        with pytest.raises(Refused, match="INVALID_ARGUMENT: request_id: was used before"):
            again()
    assert services.revision == before
    assert [path for path in (data_dir / "artifacts").rglob("*") if path.is_file()] == []


def test_request_that_was_refused_can_be_made_again(services: Services) -> None:
    """A refusal uses up no request id."""
    with pytest.raises(Refused, match="NOT_FOUND"):
        services.agent_execution.create(execution_of("early", agent="agt-later"), request_id="early")
    services.agent.create(make("agent", "Later", id="agt-later"))
    made = services.agent_execution.create(execution_of("early", agent="agt-later"), request_id="early")
    assert made.spec.agent_id == "agt-later"
