"""A daemon on a disk that is slow, that fails, or under which the process dies at a chosen moment."""

from __future__ import annotations

import asyncio
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from typed.support import Refused, Services, make, skill_zip

import stigmer.aio
from daemon.support import DaemonProcess
from stigmer import wire
from stigmer.client import connect
from stigmer.errors import StorageFailed
from stigmer.pb import store_pb2
from stigmer.store import Store


def with_strace(data_dir: Path, injected: str) -> tuple[str, ...]:
    """Give a wrapper for a daemon in which each fdatasync of the log's only segment meets a fault."""
    with Store.open(data_dir) as store:
        store.save("k", "before", b"v")
    (segment,) = (data_dir / "log").iterdir()
    return faults_of(segment, "fdatasync", injected)


def faults_of(file: Path, calls: str, injected: str) -> tuple[str, ...]:
    """Give a wrapper for a daemon in which each of some system calls on a file meets a fault."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("faults of the disk are made with strace")
    fault = f"inject={calls}:{injected}:when=1+"
    return (strace, "-f", "-o", "/dev/null", "-e", f"trace={calls}", "-e", fault, "-P", str(file))


def test_a_slow_disk_holds_up_nobody_else(tmp_path: Path) -> None:
    """While an fsync takes long, reads are answered; a save that nobody waits for any more is still made."""
    # A machine that is busy may need more than the first for what a free one does in a tenth of it.
    assert any(reads_are_answered_during_a_sync(tmp_path / delay, delay) for delay in ("2s", "10s", "60s"))


def reads_are_answered_during_a_sync(data_dir: Path, delay: str) -> bool:
    """Read while an fsync takes so long; say whether that was over before it."""
    wrapper = with_strace(data_dir, f"delay_enter={delay}")
    with (
        DaemonProcess(data_dir, wrapper=wrapper) as process,
        grpc.insecure_channel(process.address) as channel,
    ):
        methods = wire.methods(wire.STORE_SERVICE)
        request = store_pb2.SaveRequest(kind="k", id="after", value=b"v").SerializeToString()
        saving = channel.unary_unary(methods["save"].path).future(request)
        get = channel.unary_unary(methods["get"].path)
        # On the same connection behind the save, so the save is in the daemon's hands when these are answered.
        for _ in range(20):
            get(store_pb2.GetRequest(kind="k", id="before").SerializeToString())
        if saving.done():
            return False
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGINT)
        assert process.wait(200) == 0
        gone = saving.exception() is not None
        assert not gone or saving.exception().code() is grpc.StatusCode.UNAVAILABLE
        assert process.read_stderr() == ""
    with Store.open(data_dir) as store:
        assert store.status().recovery == []
        assert store.get("k", "after").value == b"v"
    return gone


def test_a_save_that_is_cancelled_does_not_hold_up_its_group(tmp_path: Path) -> None:
    """Of commits that are synced together each gets its answer, whoever else has gone."""
    wrapper = with_strace(tmp_path / "data", "delay_enter=1s")

    async def run(address: str) -> None:
        async with stigmer.aio.connect(address, timeout=20) as client:
            saves = []
            for number in range(4):
                saves.append(asyncio.ensure_future(client.save("k", f"{number}", b"v")))
                # Answered behind the save on the same connection: the save is queued now.
                await asyncio.sleep(0)
                await client.get("k", "before")
            saves[1].cancel()
            await client.get("k", "before")
            assert [await save for save in (saves[0], *saves[2:])] == [2, 4, 5]
            assert (await client.get("k", "1")).revision == 3

    with DaemonProcess(tmp_path / "data", wrapper=wrapper) as process:
        asyncio.run(run(process.address))
        process.kill()


def test_a_daemon_that_dies_between_writing_and_answering(tmp_path: Path) -> None:
    """The client's own repetition of a save that is in the log already does not save it again."""
    address = f"unix:{tmp_path}/s"
    wrapper = with_strace(tmp_path / "data", "signal=KILL")
    revisions: list[int] = []

    def save() -> None:
        with connect(address, timeout=60) as client:
            attached.set()
            revisions.append(client.save("k", "after", b"v"))

    attached = threading.Event()
    saving = threading.Thread(target=save)
    with DaemonProcess(tmp_path / "data", address, wrapper=wrapper) as first:
        saving.start()
        assert attached.wait(30)
        assert first.wait() != 0
    with DaemonProcess(tmp_path / "data", address):
        saving.join()
        with connect(address) as client:
            assert [(event.revision, event.id) for event in client.tail(follow=False)] == [(1, "before"), (2, "after")]
    assert revisions == [2]


def test_storage_that_fails_is_told_to_every_caller(tmp_path: Path) -> None:
    """Saves that travelled together each get the failure, and are not tried again."""

    async def run(address: str) -> None:
        async with stigmer.aio.connect(address, timeout=60) as client:
            saves = (client.save("k", f"{number}", b"v") for number in range(50))
            found = await asyncio.wait_for(asyncio.gather(*saves, return_exceptions=True), 30)
            assert {type(error) for error in found} == {StorageFailed}

    wrapper = with_strace(tmp_path / "data", "error=EIO")
    with DaemonProcess(tmp_path / "data", wrapper=wrapper) as process:
        asyncio.run(run(process.address))
        assert process.wait() == 1


def test_storage_that_fails_ends_the_daemon(tmp_path: Path) -> None:
    """After a failed fsync nothing is acknowledged any more, the daemon says why and ends with status 1."""
    wrapper = with_strace(tmp_path / "data", "error=EIO")
    with DaemonProcess(tmp_path / "data", wrapper=wrapper) as process:
        with connect(process.address, timeout=20) as client:
            with pytest.raises(StorageFailed) as caught:
                client.save("k", "after", b"v")
            assert "Input/output error" in caught.value.message
        assert process.wait() == 1
        assert "StorageFailed" in process.read_stderr()
    assert "storage failed" in (tmp_path / "data" / "daemon.log").read_text()
    assert not (tmp_path / "data" / "daemon.json").exists()
    with Store.open(tmp_path / "data") as store:
        assert store.get("k", "before").value == b"v"


def secret() -> Any:
    """Make an environment with a secret."""
    wanted = make("environment", "Secret", owner_scope=2, org="acme")
    wanted.spec.data["TOKEN"].value = "hidden"
    wanted.spec.data["TOKEN"].is_secret = True
    return wanted


def test_a_delete_whose_keys_find_no_room_is_not_told_to_have_done_nothing(tmp_path: Path) -> None:
    """It is in the log; the next start destroys the keys. RESOURCE_EXHAUSTED would say that nothing was written."""
    keys = tmp_path / "data" / "secrets.keys"
    with DaemonProcess(tmp_path / "data") as process, Services(process.address) as services:
        id = services.environment.create(secret()).metadata.id
    wrapper = faults_of(keys, "pwrite64,pwritev", "error=ENOSPC")
    with DaemonProcess(tmp_path / "data", wrapper=wrapper) as process, Services(process.address) as services:
        with pytest.raises(Refused, match="UNAVAILABLE: it is deleted") as caught:
            services.environment.delete(resource_id=id, request_id="once")
        assert "the next start" in str(caught.value)
        # As every client does that is told so.
        assert services.environment.delete(resource_id=id, request_id="once").metadata.id == id
        process.kill()
    assert keys.read_bytes().count(f"environment/{id}".encode()) == 1
    with DaemonProcess(tmp_path / "data") as process:
        assert process.stop() == 0
    assert keys.read_bytes().count(f"environment/{id}".encode()) == 0


def test_what_a_write_of_unknown_outcome_needs_is_kept(tmp_path: Path) -> None:
    """The log may have a save whose sync failed; then its secret opens and its artifact is there."""
    wanted = secret()
    artifact = skill_zip("pushed")
    for name in ("environment", "skill"):
        wrapper = with_strace(tmp_path / name, "error=EIO")
        with DaemonProcess(tmp_path / name, wrapper=wrapper) as process, Services(process.address) as services:
            save = {
                "environment": lambda to: to.environment.create(wanted),
                "skill": lambda to: to.skill.push(name="Pushed", artifact=artifact),
            }
            with pytest.raises(Refused, match="storage failed"):
                save[name](services)
            assert process.wait() == 1
    with DaemonProcess(tmp_path / "environment") as process, connect(process.address) as client:
        (saved,) = client.resources.list("environment").resources
        assert type(wanted).FromString(saved.value).spec.data["TOKEN"].value == "hidden"
    with DaemonProcess(tmp_path / "skill") as process, Services(process.address) as services:
        with connect(process.address) as client:
            (version,) = client.list("skill_version")
        key = f"sha256-{version.id.partition('.')[2]}"
        assert services.skill.getArtifact(artifact_storage_key=key).artifact == artifact
