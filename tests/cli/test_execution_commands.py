"""run, logs and wait: executions that a fake runner reports, followed by real commands."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from daemon.support import own_address

import stigmer
from cli.runner import COMPLETED, FAILED, IN_PROGRESS, next_execution, recorded, report
from cli.support import Daemon, Process, Shell
from stigmer.client.sync import Client
from stigmer.pb.agentic.agentexecution_pb2 import AgentExecutionStatus

AGENT = (
    "api_version: agentic.stigmer.ai/v1\nkind: Agent\nmetadata: {name: bot, owner_scope: platform}\n"
    "spec: {instructions: long enough to pass}\n"
)
WORKFLOW = (
    "api_version: agentic.stigmer.ai/v1\nkind: Workflow\nmetadata: {name: flow, owner_scope: platform}\n"
    "spec: {document: {dsl: 1.0.0, namespace: n, name: flow, version: 1.0.0}, "
    "tasks: [{name: t, kind: WORKFLOW_TASK_KIND_SET, task_config: {variables: {a: b}}}]}\n"
)
ESCAPE = "\x1b[2J\u202e\x07"


@pytest.fixture
def client(shared: Shell) -> Iterator[Client]:
    """Connect to the daemon of the module, which has an agent and a workflow."""
    from stigmer.daemon.info import read_daemon_info

    info = read_daemon_info(str(shared.data))
    assert info is not None
    shared.run("apply", "-f", "-", stdin=(AGENT + "---\n" + WORKFLOW).encode())
    with stigmer.connect(info.listen[0]) as connected:
        yield connected


def created(shell: Shell, *arguments: str) -> str:
    """Create an execution of the agent and give its id."""
    return shell.run("run", "bot", "--detach", "-o", "name", *arguments).stdout.strip().removeprefix("agent_execution/")


def entries(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Parse what a command printed with `-o jsonl`."""
    return [json.loads(line) for line in lines]


def contents(found: Iterable[dict[str, Any]]) -> dict[int, str]:
    """Put the contents of messages together again; what is printed twice, or left out, is seen here."""
    texts: dict[int, str] = {}
    for entry in found:
        if entry["entry"] == "message":
            text = texts.setdefault(entry["index"], "")
            assert entry["offset"] == len(text), entry
            texts[entry["index"]] = text + entry.get("content", "")
    return texts


def check_told_once(found: list[dict[str, Any]], last: Any) -> None:
    """Check that what was printed is what the last status has, each once."""
    assert contents(found) == {index: one.content for index, one in enumerate(last.messages) if one.content}
    calls = Counter((entry["id"], entry["status"]) for entry in found if entry["entry"] == "tool_call")
    assert set(calls.values()) == {1}  # seen while it ran, a call is told then and when it is done
    assert {id for id, status in calls if status == "TOOL_CALL_COMPLETED"} == {call.id for call in last.tool_calls}
    assert [entry["phase"] for entry in found if entry["entry"] == "phase"][-1] == "COMPLETED"


def finish(process: Process, code: int) -> tuple[str, str]:
    """Wait for a command's end, check its exit code, and give what it wrote and was not read yet."""
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        out, err = process.stdout.read(), process.stderr.read()
    assert process.wait(60) == code, err.decode()
    assert b"Traceback" not in err
    return out.decode(), err.decode()


# --- logs ---


def test_logs_print_what_is_there(shared: Shell, client: Client) -> None:
    """What was asked, messages, calls with shortened results, how it ended; all of it with --full or -v."""
    id = created(shared, "-m", "read them all")
    statuses = recorded("tools")
    report(client, id, statuses)
    text = shared.run("logs", id).stdout
    assert text.splitlines()[0] == "human    read them all"
    assert text.count('read_file(path="copyreg.py")  completed') == 1
    assert "in all; --full shows it" in text
    assert text.splitlines()[-1] == "phase    completed"
    last = statuses[-1]
    deepest = last.tool_calls[0].result.splitlines()[-1].strip()
    assert deepest not in text
    for option in ("--full", "-v"):
        assert deepest in shared.run("logs", id, option).stdout
    found = entries(shared.run("logs", id, "-o", "json").stdout.splitlines())
    check_told_once(found, last)
    assert (found[0]["entry"], found[0]["content"]) == ("input", "read them all")
    by_name = shared.run("logs", f"aex/{id}", "-o", "name").stdout
    assert by_name == f"agent_execution/{id}\n"


def test_logs_follow_tells_each_thing_once_as_it_comes(shared: Shell, client: Client) -> None:
    """A message that grows is printed as it grows; the command ends with the execution."""
    id = created(shared)
    statuses = recorded("tools")
    logs = shared.start("logs", "-f", id, "-o", "jsonl")
    assert logs.stdout is not None
    first = logs.stdout.readline().decode()
    report(client, id, statuses)
    rest, _ = finish(logs, 0)
    found = entries([first, *rest.splitlines()])
    check_told_once(found, statuses[-1])
    # Followed once more, it is there as a whole, and the command ends at once.
    check_told_once(entries(shared.run("logs", "-f", id, "-o", "jsonl").stdout.splitlines()), statuses[-1])


def test_a_growing_message_is_one_text_on_the_terminal(shared: Shell, client: Client) -> None:
    """However many pieces it came in."""
    id = created(shared)
    statuses = recorded("chat")
    logs = shared.start("logs", "-f", id)
    assert logs.stdout is not None
    logs.stdout.readline()
    report(client, id, statuses)
    out, _ = finish(logs, 0)
    shown = out[out.index("ai       ") : out.index("\nphase    completed")]
    text = "\n".join(line[9:] for line in shown.split("\n"))
    assert text.rstrip() == statuses[-1].messages[0].content.replace("\t", "    ").rstrip()


def test_following_survives_a_daemon_that_is_killed(shell: Shell) -> None:
    """kill -9 and a new start on the same address: nothing is lost and nothing comes twice."""
    daemon = Daemon(shell, where=("--listen", own_address()))
    shell.run("apply", "-f", "-", stdin=AGENT.encode())
    id = created(shell)
    statuses = recorded("tools")
    logs = shell.start("logs", "-f", id, "-o", "jsonl", "--addr", daemon.address)
    assert logs.stdout is not None
    lines = []
    with stigmer.connect(daemon.address) as client:
        report(client, id, statuses[:60])
    while not any('"tool_call"' in line for line in lines):
        lines.append(logs.stdout.readline().decode())
        assert lines[-1]
    daemon.stop(signal.SIGKILL)
    again = Daemon(shell, where=("--listen", daemon.address))
    with stigmer.connect(again.address) as client:
        report(client, id, statuses[60:])
    rest, said = finish(logs, 0)
    again.stop()
    check_told_once(entries([*lines, *rest.splitlines()]), statuses[-1])
    assert said.splitlines() == [
        "lost the daemon; following goes on when it is there again",
        "the daemon is there again; following goes on",
    ]


def test_what_an_agent_says_does_not_steer_the_terminal(shared: Shell, client: Client) -> None:
    """Messages, names, arguments, results and errors, in every format."""
    id = created(shared, "-m", f"asked {ESCAPE}")
    status = AgentExecutionStatus(phase=FAILED, error=f"wrong {ESCAPE}")
    status.messages.add(type=2, content=f"said {ESCAPE}\r\x1b]0;title\x07\nnext")
    call = status.tool_calls.add(id=f"c{ESCAPE}", name=f"tool{ESCAPE}", status=3, result=f"got {ESCAPE}")
    call.args["a"] = ESCAPE
    status.sub_agent_executions.add(id="s", name=f"sub{ESCAPE}", status=4, error=ESCAPE)
    status.todos["t"].content = ESCAPE
    report(client, id, [status])
    for output in ("table", "json", "yaml"):
        text = shared.run("logs", id, "-o", output, "--full").stdout
        assert all(c == "\n" or c.isprintable() for c in text), output
        for part in ("said", "got", "wrong", "next"):
            assert part in text, (output, part)


def test_tool_calls_sub_agents_and_todos_are_told_when_their_status_changes(shared: Shell, client: Client) -> None:
    """A state that comes again tells nothing."""
    id = created(shared)
    status = AgentExecutionStatus(phase=IN_PROGRESS)
    status.tool_calls.add(id="c1", name="search", status=2)
    status.sub_agent_executions.add(id="s1", name="reader", status=2)
    status.todos["a"].content = "look"
    status.todos["a"].status = 1
    logs = shared.start("logs", "-f", id, "-o", "jsonl")
    assert logs.stdout is not None
    lines = [logs.stdout.readline().decode() for _ in range(2)]
    report(client, id, [status, status])
    while len(lines) < 6:
        lines.append(logs.stdout.readline().decode())
    status.tool_calls[0].status, status.tool_calls[0].result = 3, "found"
    status.todos["a"].status = 3
    status.phase = COMPLETED
    report(client, id, [status])
    rest, _ = finish(logs, 0)
    found = [(one["entry"], one.get("status", one.get("phase"))) for one in entries([*lines, *rest.splitlines()])]
    assert found == [
        ("input", None),
        ("phase", "PENDING"),
        ("phase", "IN_PROGRESS"),
        ("tool_call", "TOOL_CALL_RUNNING"),
        ("sub_agent", "SUB_AGENT_IN_PROGRESS"),
        ("todo", "TODO_PENDING"),
        ("tool_call", "TOOL_CALL_COMPLETED"),
        ("todo", "TODO_COMPLETED"),
        ("phase", "COMPLETED"),
    ]


def test_the_tasks_of_a_workflow_are_told(shared: Shell, client: Client) -> None:
    """Each when its status changes; then what the workflow gives."""
    from stigmer.pb.agentic.workflowexecution_pb2 import WorkflowExecutionUpdateStatusInput

    ref = shared.run("run", "workflow/flow", "--detach", "-o", "name", "-m", "go").stdout.strip()
    id = ref.removeprefix("workflow_execution/")
    path = "/ai.stigmer.agentic.workflowexecution.v1.WorkflowExecutionCommandController/updateStatus"
    update = WorkflowExecutionUpdateStatusInput(execution_id=id)
    update.status.phase = COMPLETED
    task = update.status.tasks.add(task_id="t1", task_name="fetch", status=3)
    task.output["size"] = 7
    update.status.output["total"] = 8
    client.call(path, update.SerializeToString())
    text = shared.run("logs", id).stdout
    assert text.splitlines()[:2] == ["human    go", "task     fetch  completed"]
    assert '"total": 8' in text
    assert shared.run("wait", ref, "--for", "phase=completed").stdout == f"{ref} COMPLETED\n"


def test_logs_of_what_is_not_there_or_is_deleted_meanwhile_are_exit_code_3(shared: Shell, client: Client) -> None:
    """Ctrl-C says how to go on; without a daemon what lies in the data directory is printed."""
    assert shared.run("logs", "aex-none", code=3).stderr.startswith('Error: execution "aex-none" not found\n')
    assert shared.run("logs", "agent/bot", code=2).stdout == ""
    id = created(shared)
    for ended in ("deleted", "interrupted"):
        logs = shared.start("logs", "-f", id if ended == "deleted" else created(shared))
        assert logs.stdout is not None
        logs.stdout.readline()
        if ended == "deleted":
            client.resources.delete([("agent_execution", id)])
            assert finish(logs, 3)[1] == f"Error: agent_execution/{id} was deleted\n"
        else:
            logs.send_signal(signal.SIGINT)
            assert "resume with: stigmer logs -f aex-" in finish(logs, 130)[1]


def test_logs_read_the_data_directory_where_no_daemon_runs(shell: Shell) -> None:
    """Following needs one."""
    daemon = Daemon(shell)
    shell.run("apply", "-f", "-", stdin=AGENT.encode())
    id = created(shell, "-m", "kept")
    daemon.stop()
    assert shell.run("logs", id).stdout.splitlines() == ["human    kept", "phase    pending"]
    shell.run("logs", "-f", id, code=5)


# --- run ---


@pytest.mark.parametrize(("phase", "code"), [(COMPLETED, 0), (FAILED, 1), (5, 1)])
def test_run_follows_what_it_created_to_its_end(shared: Shell, client: Client, phase: int, code: int) -> None:
    """The exit code says whether it was completed."""
    revision = client.status().revision
    run = shared.start("run", "bot", "--message", "hi", "-o", "jsonl")
    id = next_execution(client, revision)
    statuses = recorded("chat")
    statuses[-1].phase = phase
    report(client, id, statuses)
    out, said = finish(run, code)
    assert said == f"agent_execution/{id} created\n"
    found = entries(out.splitlines())
    assert found[0] == {"entry": "input", "content": "hi"}
    assert contents(found) == {0: statuses[-1].messages[0].content}


def test_run_gives_values_and_secrets_that_nobody_is_shown(shared: Shell, client: Client) -> None:
    """A secret may come from the environment; it is in no output, no tail and no error without --show-secrets."""
    revision = client.status().revision
    given = ["-e", "REGION=north", "--secret", "TOKEN=t0psecret", "--secret", "FROM_ENV"]
    ref = shared.run("run", "bot", "--detach", "-o", "name", *given, FROM_ENV="3nvsecret").stdout.strip()
    id = ref.removeprefix("agent_execution/")
    shown = shared.run("get", "aex", id).stdout
    masked = [
        shown,
        shared.run("logs", id, "-o", "json").stdout,
        shared.run("tail", "--no-follow", "--from", str(revision + 1), "--values", "-o", "json").stdout,
        shared.run("list", "aex", "-o", "json").stdout,
        shared.run("get", "aex", id, "--raw").stdout,
        shared.run("run", "bot", "--secret", "=t0psecret", code=2).stderr,
    ]
    for text in masked:
        assert "t0psecret" not in text
        assert "3nvsecret" not in text
    open_text = shared.run("get", "aex", id, "--show-secrets").stdout
    tail = shared.run("tail", "--no-follow", "--from", str(revision + 1), "--values", "-o", "json", "--show-secrets")
    for text in (open_text, tail.stdout):
        assert "t0psecret" in text
        assert "3nvsecret" in text
    for wrong, problem in (
        (["--env", "REGION"], '--env: "REGION" is not KEY=VALUE'),
        (["--secret", "NOT_THERE"], "--secret: the environment has no NOT_THERE"),
    ):
        assert shared.run("run", "bot", *wrong, code=2).stderr.startswith(f"Error: {problem}")


def test_run_goes_on_in_a_session_or_makes_one(shared: Shell, client: Client) -> None:
    """A session that is not there is exit code 3; so is an agent, and a workflow of that name is pointed out."""
    first = json.loads(shared.run("run", "agent/bot", "-d", "-o", "json").stdout)
    second = json.loads(shared.run("run", "bot", "-d", "-o", "json", "--session", first["session_id"]).stdout)
    assert first["session_id"] == second["session_id"]
    assert first["id"] != second["id"]
    assert shared.run("run", "bot", "--session", "ses-none", code=3).stdout == ""
    assert shared.run("run", "flow", code=3).stderr.splitlines()[1] == (
        "Hint: there is such a workflow: stigmer run workflow/flow"
    )
    assert shared.run("run", "nobody", code=3).stderr.startswith('Error: agent "nobody" not found\n')
    assert shared.run("run", "environment/x", code=2).stdout == ""
    assert shared.run("run", "workflow/flow", "--session", "ses-1", code=2).stdout == ""
    told = shared.run("run", "bot", "--detach")
    assert told.stdout.endswith(" created\n")
    assert told.stderr.startswith("follow it: stigmer logs -f aex-")


# --- wait ---


def test_wait_is_for_a_phase(shared: Shell, client: Client) -> None:
    """0: it came; 1: it ended otherwise; 5: the time was up; 2: there is no such phase."""
    id = created(shared)
    assert shared.run("wait", "aex", id, "--for", "phase=pending").stdout == f"agent_execution/{id} PENDING\n"
    late = shared.run("wait", "aex", id, "--for", "phase=completed", "--timeout", "200ms", code=5)
    assert late.stderr == f"Error: agent_execution/{id} is PENDING, not COMPLETED, after 0.2 s\n"
    waiting = [shared.start("wait", "aex", id, "--for", f"phase={phase}") for phase in ("FAILED", "completed")]
    report(client, id, [AgentExecutionStatus(phase=FAILED, error="no luck")])
    assert finish(waiting[0], 0)[0] == f"agent_execution/{id} FAILED\n"
    assert finish(waiting[1], 1)[1].splitlines() == [
        f"Error: agent_execution/{id} has ended FAILED, not COMPLETED: no luck",
        f"Hint: see what happened: stigmer logs {id}",
    ]
    for condition in ("phase=done", "phase", "phase=", "gone"):
        assert shared.run("wait", "aex", id, "--for", condition, code=2).stdout == ""
    assert shared.run("wait", "agent", "bot", "--for", "phase=completed", code=2).stdout == ""
    shared.run("wait", "aex", "aex-none", "--for", "phase=completed", code=3)


def test_wait_is_for_a_deletion_of_anything(shared: Shell, client: Client) -> None:
    """What is not there is deleted; what stays is exit code 5."""
    client.save("note", "n1", b"x")
    client.save("note", "n10", b"x")
    late = shared.run("wait", "note", "n1", "--for", "deleted", "--timeout", "200ms", code=5)
    assert late.stderr == "Error: note/n1 is still there after 0.2 s\n"
    waiting = shared.start("wait", "note/n1", "--for", "deleted")
    client.delete("note", "n10")
    client.delete("note", "n1")
    assert finish(waiting, 0)[0] in ("note/n1 deleted\n", "note/n1 is not there\n")
    assert shared.run("wait", "note/n1", "--for", "deleted").stdout == "note/n1 is not there\n"
