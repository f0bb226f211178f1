"""What happened in an execution, as entries that come once each: messages, tool calls, tasks, and how it ended.

A `Transcript` is given the states of one execution in their order, some perhaps left out, and says what each has that
was not told before. It goes by the states alone: one that comes twice, as after a reconnect, tells nothing.

- A message that grew tells what was added; `offset` says where that begins. One that was rewritten is told anew.
- A tool call, a sub-agent or a task is told when it is first seen and whenever its status changes.
- Prints nothing and knows no terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from stigmer.cli.phases import FINAL, phase_name
from stigmer.resources import options, present


class Entry(msgspec.Struct, frozen=True):
    """One thing that happened."""

    sort: str
    """"input", "message", "tool_call", "sub_agent", "todo", "task", "output" or "phase"."""
    facts: dict[str, Any]
    """As they are printed in JSON; what is not set is left out."""


class Transcript:
    """Tells of each state what was not told before."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._input: str | None = None
        self._contents: list[str] = []
        """Of the messages, as far as they were told."""
        self._told: dict[tuple[str, str], str] = {}
        """The status of each tool call, sub-agent, todo and task, as it was told last."""
        self._phase = 0
        self.phase = 0
        """Of the last state."""

    @property
    def has_ended(self) -> bool:
        """Whether the execution does not change any more."""
        return self.phase in FINAL

    def entries(self, execution: Any) -> Iterator[Entry]:
        """Give what a state has that was not told before."""
        status = execution.status
        self.phase = status.phase
        yield from self._new_input(execution.spec)
        if not self.has_ended:
            yield from self._new_phase(status)
        if self._kind == "agent_execution":
            yield from self._of_agent(status)
        else:
            yield from self._of_workflow(status)
        # A phase begins before what is done in it, and the last one is the end of all.
        yield from self._new_phase(status)

    def _new_phase(self, status: Any) -> Iterator[Entry]:
        if self.phase != self._phase:
            self._phase = self.phase
            facts = {"phase": phase_name(self._kind, self.phase), "error": status.error}
            times = {"started_at": status.started_at, "completed_at": status.completed_at}
            yield Entry("phase", _set(facts | times))

    def _new_input(self, spec: Any) -> Iterator[Entry]:
        text = spec.message if self._kind == "agent_execution" else spec.trigger_message
        if self._input is None:
            self._input = text
            if text:
                yield Entry("input", {"content": text})

    # --- agents --------------------------------------------------------------------------------------------

    def _of_agent(self, status: Any) -> Iterator[Entry]:
        calls = {call.id: call for call in status.tool_calls if call.id}
        for index, message in enumerate(status.messages):
            yield from self._message(index, message)
            for place, call in enumerate(message.tool_calls):
                # The same call is in the list of all calls, where it may be further.
                further = calls.get(call.id, call)
                call = further if further.status >= call.status else call
                yield from self._step("tool_call", call.id or f"{index}.{place}", call)
        for place, call in enumerate(status.tool_calls):
            yield from self._step("tool_call", call.id or f"of all, {place}", call)
        for place, one in enumerate(status.sub_agent_executions):
            yield from self._step("sub_agent", one.id or str(place), one)
        for key in sorted(status.todos):
            yield from self._step("todo", key, status.todos[key])

    def _message(self, index: int, message: Any) -> Iterator[Entry]:
        content = message.content
        if index == len(self._contents):
            self._contents.append("")
        told = self._contents[index]
        role = _named(message, "type").removeprefix("MESSAGE_").lower()
        if content == told:
            return
        offset = len(told) if content.startswith(told) else 0
        self._contents[index] = content
        if role == "human" and content == self._input:
            return  # told as what the execution was asked
        facts = {"role": role, "timestamp": message.timestamp, "offset": offset, "content": content[offset:]}
        yield Entry("message", {"index": index} | _set(facts) | {"offset": offset})

    # --- workflows -----------------------------------------------------------------------------------------

    def _of_workflow(self, status: Any) -> Iterator[Entry]:
        for place, task in enumerate(status.tasks):
            yield from self._step("task", task.task_id or str(place), task)
        if status.HasField("output") and status.phase in FINAL and ("output", "") not in self._told:
            self._told["output", ""] = ""
            yield Entry("output", {"output": present.as_dict(status)["output"]})

    # --- both ----------------------------------------------------------------------------------------------

    def _step(self, sort: str, key: str, message: Any) -> Iterator[Entry]:
        status = _named(message, "status")
        if self._told.get((sort, key)) != status:
            self._told[sort, key] = status
            yield Entry(sort, present.as_dict(message))


def _named(message: Any, field_name: str) -> str:
    """Give the name of an enum's value."""
    number = getattr(message, field_name)
    value = options.enum_of(message.DESCRIPTOR.fields_by_name[field_name]).values_by_number.get(number)
    return value.name if value is not None else str(number)


def _set(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value}


# --- text ------------------------------------------------------------------------------------------------

LABEL_WIDTH = 9
LINES_MAX = 6
CHARACTERS_MAX = 600
"""So much is shown of a result, unless all of it is asked for."""


class Printer:
    """Writes entries for a person: a label, then text, whose further lines are indented.

    A message that grows goes on where it stopped, unless something else was written in between.
    """

    def __init__(self, write: Callable[[str], object], *, full: bool, colour: bool) -> None:
        self._write = write
        self._full = full
        self._dim, self._bold, self._plain = ("\x1b[2m", "\x1b[1m", "\x1b[0m") if colour else ("", "", "")
        self._open: int | None = None
        """The message whose text ends the last line, which has no end yet."""
        self._held = ""
        """Line feeds at the end of that text: they are written when something follows them."""

    def print(self, entry: Entry) -> None:
        """Write one entry."""
        facts = entry.facts
        match entry.sort:
            case "message":
                self._print_message(facts)
            case "input":
                self._print("human", facts["content"])
            case "tool_call":
                self._print_step("tool", _call(facts), "TOOL_CALL_STATUS_", facts, facts.get("result", ""))
            case "sub_agent":
                self._print_step("agent", facts.get("name", ""), "SUB_AGENT_", facts, facts.get("output", ""))
            case "todo":
                self._print_step("todo", facts.get("content", ""), "TODO_", facts, "")
            case "task":
                name = facts.get("task_name") or facts.get("task_id", "")
                output = present.json_text(facts["output"]) if "output" in facts else ""
                self._print_step("task", name, "WORKFLOW_TASK_", facts, output)
            case "output":
                self._print("output", present.json_text(facts["output"]))
            case _:
                self._print("phase", facts["phase"].lower().replace("_", " "))
                if "error" in facts:
                    self._print("error", facts["error"])

    def end(self) -> None:
        """End the last line."""
        if self._open is not None:
            self._write("\n")
            self._open = None
            self._held = ""

    def _print_message(self, facts: dict[str, Any]) -> None:
        index, offset = facts["index"], facts["offset"]
        text = facts.get("content", "")
        if self._open != index or not offset:
            self._begin(facts.get("role") or "message")
            text = ("... " if offset else "") + text
        shown = (self._held + text).rstrip("\n")
        self._write(_indented(shown))
        self._held = (self._held + text)[len(shown) :]
        self._open = index

    def _print_step(self, label: str, what: str, prefix: str, facts: dict[str, Any], result: str) -> None:
        status = facts.get("status", "")
        state = status.removeprefix(prefix).removeprefix("TOOL_CALL_").lower().replace("_", " ")
        self._print(label, f"{what}  {state}" if state else what)
        if facts.get("error"):
            self._print("", facts["error"])
        if result:
            self._print("", result if self._full else shortened(result), dim=True)

    def _print(self, label: str, text: str, *, dim: bool = False) -> None:
        self._begin(label)
        shown = _indented(text.rstrip("\n"))
        self._write(f"{self._dim}{shown}{self._plain}\n" if dim and shown else f"{shown}\n")

    def _begin(self, label: str) -> None:
        self.end()
        self._write(f"{self._bold}{label:<{LABEL_WIDTH}}{self._plain}" if label else " " * LABEL_WIDTH)


def shortened(text: str) -> str:
    """Give the beginning of a long text, and say how long it is."""
    kept = "\n".join(text[:CHARACTERS_MAX].split("\n")[:LINES_MAX])
    if len(kept) == len(text.rstrip("\n")) or len(kept) == len(text):
        return text
    from stigmer.cli.units import size

    return f"{kept.rstrip()}\n... {size(len(text.encode()))} in all; --full shows it"


def _call(facts: dict[str, Any]) -> str:
    arguments = ", ".join(f"{name}={shortened_argument(value)}" for name, value in dict(facts.get("args", {})).items())
    return f"{facts.get('name', '')}({arguments})"


def shortened_argument(value: object) -> str:
    """Give the value of an argument on one line, and not all of a long one."""
    text = present.json_text(value, indent=None)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _indented(text: str) -> str:
    """Escape what could steer a terminal, and indent every line but the first."""
    from stigmer.cli.units import visible

    first, *more = text.replace("\r\n", "\n").replace("\t", "    ").split("\n")
    return visible(first) + "".join(f"\n{' ' * LABEL_WIDTH}{visible(line)}" if line else "\n" for line in more)
