"""Secrets, from the client that sends them to the disk, which never has them, and to the end of what they belong to."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from daemon.support import DaemonProcess, DidNotStart

from flows.support import (
    IN_PROGRESS,
    PLATFORM,
    AgentStatus,
    Client,
    WorkflowStatus,
    agent,
    environment,
    execution,
    execution_context,
    instance,
    mcp_server,
    message_class,
    method_of,
    session,
    standing_still,
    workflow,
    workflow_execution,
)
from stigmer.artifacts import Artifacts
from stigmer.client import connect
from stigmer.config import StoreOptions
from stigmer.daemon.commit_queue import CommitQueue
from stigmer.daemon.typed_services import Calls
from stigmer.errors import SecretUnreadable
from stigmer.resources import kinds
from stigmer.resources.options import MASK
from stigmer.resources.verbs import Resources
from stigmer.store import Store
from stigmer.vault import KEY_FILE, KEY_VARIABLE, SECRETS_FILE, Vault

SEALED = re.compile(rb"stigmer-sealed:1:[A-Za-z0-9+/=]+")
SMALL = StoreOptions(segment_bytes=64 * 1024)
"""So that there are sealed segments, too."""


class Secrets:
    """Gives secrets, each another one, and remembers them."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def __call__(self) -> str:
        self.given.append(f"sk-{secrets.token_hex(16)}")
        return self.given[-1]


def forms_of(secret: str) -> Iterator[bytes]:
    """Give what a secret looks like on disk: as it is, and within any base64."""
    plain = secret.encode()
    yield plain
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + plain)
        # What depends on the bytes around it is left out.
        yield encoded[4 if before else 0 : -4]
    yield plain.hex().encode()


def traces(data: bytes, forms: Iterable[bytes]) -> list[bytes]:
    return [form for form in forms if form in data]


def check_nowhere(directory: Path, given: Secrets) -> None:
    """Look for secrets in every file below a directory, and in what the store reads there."""
    assert given.given
    forms = [form for secret in given.given for form in forms_of(secret)]
    for path in directory.rglob("*"):
        if path.is_file():
            assert traces(path.read_bytes(), forms) == [], path
    copy = directory.parent / f"copy-{secrets.token_hex(4)}"
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns(KEY_FILE, "*.sock"))
    with Store.open(copy) as store:
        sealed = 0
        for event in store.tail(0, follow=False):
            assert traces(event.value or b"", forms) == []
            sealed += len(SEALED.findall(event.value or b""))
        assert sealed
        for kind in store.count():
            for resource in store.list(kind).resources:
                assert traces(resource.value, forms) == []
    shutil.rmtree(copy)


def fill(client: Client, secret: Secrets) -> dict[tuple[str, str], list[str]]:
    """Create, configure and apply resources with secrets of every kind that has some.

    Gives for each the secrets that it has in the end.
    """
    there: dict[tuple[str, str], list[str]] = {}
    for kind, make, place in (
        ("environment", environment, lambda message: message.spec.data),
        ("agent", agent, lambda message: message.spec.env_spec.data),
        ("mcp_server", mcp_server, lambda message: message.spec.env_spec.data),
        ("workflow", workflow, lambda message: message.spec.env_spec.data),
        ("execution_context", execution_context, lambda message: message.spec.data),
    ):
        made = client.call(kind, "create", make(f"with-{kind}", {"A": secret(), "B": secret()}))
        id = made.metadata.id
        for verb in ("update", "apply"):
            if verb in methods_of(kind):
                place(made)["A"].value = secret()
                made = client.call(kind, verb, made)
        there[kind, id] = [place(made)[name].value for name in "AB"]
    for kind, wanted, status in (
        ("agent_execution", execution(agent_id=client_id(there, "agent")), AgentStatus(phase=IN_PROGRESS)),
        ("workflow_execution", workflow_execution(workflow_id=client_id(there, "workflow")), WorkflowStatus(phase=2)),
    ):
        # What is given to a run is a secret whatever is said of it.
        wanted.spec.runtime_env["A"].value = secret()
        wanted.spec.runtime_env["B"].value = secret()
        wanted.spec.runtime_env["B"].is_secret = True
        wanted.spec.callback_token = secret().encode()
        made = client.call(kind, "create", wanted)
        client.report(kind, made.metadata.id, status)
        made.spec.runtime_env["A"].value = secret()
        made = client.call(kind, "update", made)
        made = client.report(kind, made.metadata.id, status)
        env = made.spec.runtime_env
        there[kind, made.metadata.id] = [env["A"].value, env["B"].value, made.spec.callback_token.decode()]
    return there


def client_id(there: dict[tuple[str, str], list[str]], kind: str) -> str:
    return next(id for its_kind, id in there if its_kind == kind)


def texts_in(store: Store) -> list[tuple[str, str, str]]:
    """Give each sealed text that the log has, with whose it is."""
    return [
        (event.kind, event.id, text.decode())
        for event in store.tail(0, follow=False)
        for text in SEALED.findall(event.value or b"")
    ]


def opens(vault: Vault, kind: str, id: str, text: str) -> bool:
    try:
        vault.open_sealed(kind, id, text)
    except SecretUnreadable:
        return False
    return True


def opened_of(directory: Path) -> dict[tuple[str, str], list[bool]]:
    """Give for each resource that the log of a stopped daemon has sealed texts of, which of them can be opened."""
    found: dict[tuple[str, str], list[bool]] = {}
    with Store.open(directory) as store, closing(Vault.open(str(directory), None, {})) as vault:
        for kind, id, text in texts_in(store):
            found.setdefault((kind, id), []).append(opens(vault, kind, id, text))
            # Neither does a text open as that of any other resource.
            assert not opens(vault, kind, f"{id}x", text)
    return found


# --- what the disk has -----------------------------------------------------------------------------------


def test_no_secret_is_on_disk(tmp_path: Path) -> None:
    """After every verb, a crash and a clean end, no file below the data directory holds a secret in any form."""
    given = Secrets()
    data = tmp_path / "data"
    with DaemonProcess(data, store=SMALL) as process, Client(process.address) as client:
        there = fill(client, given)
        broken(client, given)
        process.kill()
        assert_silent(process, given)
    check_nowhere(data, given)
    with DaemonProcess(data, store=SMALL) as process, Client(process.address) as client:
        for (kind, id), values in there.items():
            shown = client.get(kind, id).SerializeToString()
            assert all(value.encode() in shown for value in values)
        process.stop()
        assert_silent(process, given)
    check_nowhere(data, given)


def assert_silent(process: DaemonProcess, given: Secrets) -> None:
    said = process.read_stderr()
    assert [secret for secret in given.given if secret in said] == []


def broken(client: Client, given: Secrets) -> None:
    """Send requests with secrets that break rules; no answer may tell a secret."""
    bad_agent = agent("bad", {"A": given()})
    bad_agent.spec.instructions = "short"
    bad_scope = environment("bad", {"A": given()})
    bad_scope.metadata.owner_scope = PLATFORM
    empty = execution_context("bad", {"A": given(), "B": ""})
    without_message = execution(agent_id="agt-of-nobody")
    without_message.spec.message = ""
    without_message.spec.callback_token = given().encode()
    of_nobody = execution(agent_id="agt-of-nobody")
    of_nobody.spec.runtime_env["A"].value = given()
    masked = environment("bad", {"A": given(), "B": MASK})
    taken = environment("with-environment", {"A": given()})
    gone = environment("gone", {"A": given()})
    gone.metadata.id = "env-gone"
    odd = environment("odd", {"A": given(), given(): "x"})
    odd.metadata.id = "no\nid"
    cut = environment("cut", {"A": given()}).SerializeToString()[:-1]
    calls = [
        client.begin("agent", "create", bad_agent),
        client.begin("agent", "apply", bad_agent),
        client.begin("environment", "create", bad_scope),
        client.begin("execution_context", "create", empty),
        client.begin("agent_execution", "create", without_message),
        client.begin("agent_execution", "create", of_nobody),
        client.begin("environment", "apply", masked),
        client.begin("environment", "create", taken),
        client.begin("environment", "update", gone),
        client.begin("environment", "create", odd),
        client.begin_raw("environment", "create", cut),
        client.begin("environment", "create", environment("again", {"A": given()}), "x" * 2000),
    ]
    for place, call in enumerate(calls):
        assert call.code() is not grpc.StatusCode.OK, place
        told = [call.details(), *(str(value) for _, value in (*call.initial_metadata(), *call.trailing_metadata()))]
        for secret in given.given:
            assert not any(secret in text for text in told), place


# --- what clients get ------------------------------------------------------------------------------------


def test_clients_read_secrets_and_followers_do_not(client: Client, daemon: DaemonProcess) -> None:
    """Typed answers, lists and subscriptions have the secrets; the store's own methods give them sealed."""
    given = Secrets()
    there = fill(client, given)
    for (kind, id), values in there.items():
        message = client.get(kind, id)
        shown = message.SerializeToString()
        assert all(value.encode() in shown for value in values), kind
        if any(method == "getByReference" for method in methods_of(kind)):
            reference = message_class("ai.stigmer.commons.apiresource.ApiResourceReference")(slug=message.metadata.slug)
            assert client.call(kind, "getByReference", reference) == message
        if kind.endswith("execution"):
            assert next(iter(client.subscribe(kind, id))) == message
            listed = client.call(kind, "list", method_of(kind, "list").request())
            assert [entry for entry in listed.entries if entry.metadata.id == id] == [message]
    with connect(daemon.address) as store:
        values = [store.get(kind, id).value for kind, id in there]
        values += [event.value for event in store.tail(0, follow=False) if (event.kind, event.id) in there]
        values += [one.value for kind, _ in there for one in store.list(kind).resources]
    for value in values:
        assert SEALED.search(value)
        assert not any(secret.encode() in value for secret in given.given)
    for kind, id in there:
        assert len(SEALED.findall(store_value(daemon, kind, id))) == len(there[kind, id])


def methods_of(kind: str) -> list[str]:
    from stigmer.resources.methods import all_methods

    return [method.name for method in all_methods() if method.kind.name == kind]


def store_value(daemon: DaemonProcess, kind: str, id: str) -> bytes:
    with connect(daemon.address) as store:
        return bytes(store.get(kind, id).value)


def test_an_unchanged_manifest_with_secrets_changes_nothing(client: Client, daemon: DaemonProcess) -> None:
    """Applied again it appends no event; with one other secret, that one's sealed text changes alone."""
    given = Secrets()
    values = {name: given() for name in "ABC"}
    made = client.call("environment", "apply", environment("unchanged", values))
    before = store_value(daemon, "environment", made.metadata.id)
    with connect(daemon.address) as store:
        revision = store.status().revision
        for _ in range(3):
            assert client.call("environment", "apply", environment("unchanged", values)) == made
            assert client.call("environment", "apply", made) == made
        assert store.status().revision == revision
    values["B"] = given()
    client.call("environment", "apply", environment("unchanged", values))
    after = store_value(daemon, "environment", made.metadata.id)
    texts = [sealed_variables(value) for value in (before, after)]
    assert {name for name in values if texts[0][name] != texts[1][name]} == {"B"}


def sealed_variables(value: bytes) -> dict[str, str]:
    message: Any = kinds.decode("environment", value)
    assert all(SEALED.fullmatch(entry.value.encode()) for entry in message.spec.data.values())
    return {name: entry.value for name, entry in message.spec.data.items()}


# --- the master key --------------------------------------------------------------------------------------


def test_the_secrets_need_their_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the key file a copy is refused, saying what is missing; with it in another place, or given, it opens."""
    data, copy, elsewhere = tmp_path / "data", tmp_path / "copy", tmp_path / "elsewhere"
    given = Secrets()
    with DaemonProcess(data) as process, Client(process.address) as client:
        id = client.call("environment", "create", environment("e", {"A": given()})).metadata.id
        process.stop()
    shutil.copytree(data, copy, ignore=shutil.ignore_patterns(KEY_FILE))
    shutil.copy2(data / KEY_FILE, elsewhere)
    with pytest.raises(DidNotStart) as caught:
        DaemonProcess(copy)
    assert caught.value.returncode == 1
    assert f"their key file is missing: {copy / KEY_FILE}" in caught.value.stderr
    assert not (copy / KEY_FILE).exists()
    with DaemonProcess(copy, key_file=elsewhere) as process, Client(process.address) as client:
        assert client.get("environment", id).spec.data["A"].value == given.given[0]
        process.stop()
    key = next(line for line in elsewhere.read_text().splitlines() if not line.startswith("#"))
    monkeypatch.setenv(KEY_VARIABLE, key)
    with DaemonProcess(copy) as process, Client(process.address) as client:
        assert client.get("environment", id).spec.data["A"].value == given.given[0]
        assert key.encode() not in b"".join(path.read_bytes() for path in copy.rglob("*") if path.is_file())
        process.stop()
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(bytes(32)).decode())
    with pytest.raises(DidNotStart) as caught:
        DaemonProcess(copy)
    assert "another master key" in caught.value.stderr


# --- the end of a secret ---------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where a daemon has its data."""
    return tmp_path / "data"


def test_what_is_deleted_cannot_be_opened(data: Path) -> None:
    """Once a resource is deleted no sealed text of it that the log has opens any more; those of others do."""
    given = Secrets()
    with DaemonProcess(data, store=SMALL) as process, Client(process.address) as client:
        there = fill(client, given)
        kept = client.call("environment", "create", environment("kept", {"A": given()})).metadata.id
        process.stop()
    assert all(all(texts) for texts in opened_of(data).values())
    with DaemonProcess(data, store=SMALL) as process, Client(process.address) as client:
        for kind in ("environment", "agent", "mcp_server", "workflow", "execution_context"):
            deleted = client.delete(kind, client_id(there, kind))
            # The answer is what was deleted, with its secrets.
            assert all(value.encode() in deleted.SerializeToString() for value in there[kind, deleted.metadata.id])
        process.stop()
    found = opened_of(data)
    assert found.pop(("environment", kept)) == [True]
    assert {kind for kind, _ in found} == {kind for kind, _ in there}
    assert not any(any(texts) for texts in found.values())


def test_a_cascade_takes_the_keys_along(data: Path) -> None:
    """With a session go the secrets of its executions, with an agent those of all below it, and no others."""
    given = Secrets()
    with DaemonProcess(data) as process, Client(process.address) as client:
        parent = client.call("agent", "create", agent("parent", {"A": given()})).metadata.id
        child = client.call("agent_instance", "create", instance("child", parent)).metadata.id
        sessions = [client.call("session", "create", session(name, child)).metadata.id for name in "ab"]
        runs = []
        for id in sessions:
            wanted = execution(session_id=id)
            wanted.spec.runtime_env["A"].value = given()
            runs.append(client.call("agent_execution", "create", wanted).metadata.id)
        client.delete("session", sessions[0])
        process.stop()
    found = opened_of(data)
    assert found == {
        ("agent", parent): [True],
        ("agent_execution", runs[0]): [False],
        ("agent_execution", runs[1]): [True],
    }
    with DaemonProcess(data) as process, Client(process.address) as client:
        client.delete("agent", parent)
        process.stop()
    assert not any(any(texts) for texts in opened_of(data).values())


def test_a_crash_before_the_keys_are_destroyed(data: Path) -> None:
    """What a daemon is killed over, between the commit of a delete and its keys, the next start finishes."""
    given = Secrets()
    with DaemonProcess(data) as process, Client(process.address) as client:
        deleted, kept = (
            client.call("environment", "create", environment(name, {"A": given()})).metadata.id for name in "ab"
        )
        keys = (data / SECRETS_FILE).read_bytes()
        client.delete("environment", deleted)
        process.kill()
    assert (data / SECRETS_FILE).read_bytes() != keys
    # As it would be, had the kill come before the slot was overwritten.
    (data / SECRETS_FILE).write_bytes(keys)
    assert opened_of(data) == {("environment", deleted): [True], ("environment", kept): [True]}
    with DaemonProcess(data) as process:
        process.stop()
    assert opened_of(data) == {("environment", deleted): [False], ("environment", kept): [True]}


def test_keys_of_what_was_never_created_do_not_stay(data: Path) -> None:
    """A create that is refused leaves no key behind."""
    given = Secrets()
    with DaemonProcess(data) as process, Client(process.address) as client:
        client.call("environment", "create", environment("a", {"A": given()}))
        keys = (data / SECRETS_FILE).read_bytes()
        for _ in range(10):
            call = client.begin("environment", "create", environment("a", {"A": given()}))
            assert call.code() is grpc.StatusCode.ALREADY_EXISTS
        process.stop()
    assert (data / SECRETS_FILE).read_bytes() == keys


def artifact(text: str) -> bytes:
    """Give the zip of a skill, the same for the same text."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("SKILL.md"), f"---\nname: a-skill\ndescription: d\n---\n{text}\n")
    return packed.getvalue()


def push(client: Client, name: str, content: bytes) -> Any:
    return client.call("skill", "push", method_of("skill", "push").request(name=name, scope=1, artifact=content))


def test_artifacts_go_with_the_last_skill_that_has_them(data: Path) -> None:
    """A deleted skill's artifacts are removed unless another one has the same; after a crash, by the next start."""
    with DaemonProcess(data) as process, Client(process.address) as client:
        one = push(client, "one", artifact("shared"))
        push(client, "one", artifact("own"))
        push(client, "two", artifact("shared"))
        files = {path: path.read_bytes() for path in artifacts_in(data)}
        assert len(files) == 2
        found = client.call("skill", "getByReference", reference("one"))
        client.delete("skill", found.metadata.id)
        left = artifacts_in(data)
        assert [path.name for path in left] == [one.status.version_hash]
        process.kill()
    for path, content in files.items():
        path.write_bytes(content)
    with DaemonProcess(data) as process, Client(process.address) as client:
        two = client.call("skill", "getByReference", reference("two"))
        key = two.status.artifact_storage_key
        request = method_of("skill", "getArtifact").request(artifact_storage_key=key)
        assert client.call("skill", "getArtifact", request).artifact == artifact("shared")
        process.stop()
    assert artifacts_in(data) == left


def artifacts_in(data: Path) -> list[Path]:
    return [path for path in (data / "artifacts").rglob("*") if path.is_file()]


def reference(slug: str) -> Any:
    return message_class("ai.stigmer.commons.apiresource.ApiResourceReference")(slug=slug)


# --- callers that go away --------------------------------------------------------------------------------


def test_a_delete_whose_caller_goes_away_destroys_the_keys(tmp_path: Path) -> None:
    """A caller that is cancelled while its delete is decided does not keep the keys of what is deleted."""
    with (
        Store.open(tmp_path) as store,
        closing(Vault.open(str(tmp_path), None, {})) as vault,
    ):
        resources = Resources(store, vault, Artifacts(str(tmp_path / "artifacts")))
        kind = kinds.find("environment")
        assert kind is not None
        resources.run(lambda: resources.create(kind, environment("e", {"A": "secret"})))
        (resource,) = store.list("environment").resources

        async def run() -> None:
            calls = Calls(resources, CommitQueue(store))
            deleting = asyncio.create_task(
                calls.write(lambda: resources.delete(kind, resource.id), None, "request", is_quick=True)  # type: ignore[arg-type]
            )
            with standing_still(store):
                while not store._writer._queue:
                    await asyncio.sleep(0)
                deleting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await deleting
            await calls.close()

        asyncio.run(run())
        assert store.list("environment").resources == []
        assert vault.keys_of("environment", resource.id) == ()
