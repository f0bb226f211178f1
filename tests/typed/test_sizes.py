"""How large messages may be, both ways."""

from __future__ import annotations

import random
from collections.abc import Iterator

import grpc
import pytest
from daemon.support import DaemonProcess

from stigmer.config import MIB, StoreOptions
from typed.support import METHODS, ROOM, Refused, Services, make


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """A daemon whose values may be of any size that a commit may have, and a client that takes them."""
    options = StoreOptions(value_bytes_max=60 * MIB)
    with (
        DaemonProcess(tmp_path_factory.mktemp("sizes") / "data", store=options) as daemon,
        Services(daemon.address, ROOM) as services,
    ):
        yield services


def test_message_of_twenty_megabytes(roomy: Services) -> None:
    """It is created, read and updated; a client with gRPC's own limit can still delete it by its id."""
    text = random.Random(3).randbytes(10 * MIB).hex()
    message = make("mcp_server", "Twenty")
    message.spec.description = text
    made = roomy.mcp_server.create(message)
    assert made.spec.description == text
    assert roomy.mcp_server.get(value=made.metadata.id) == made
    made.spec.description = text[1:]
    assert len(roomy.mcp_server.apply(made).spec.description) == 20 * MIB - 1
    assert roomy.mcp_server.delete(resource_id=made.metadata.id).metadata == made.metadata


def test_message_that_the_daemon_is_not_set_up_for(services: Services) -> None:
    """Above `value_bytes_max` a resource is refused: the limit is named, and what to do."""
    message = make("mcp_server", "Too Large")
    message.spec.description = "x" * (17 * MIB)
    before = services.revision
    with pytest.raises(Refused, match="value_bytes_max") as caught:
        services.mcp_server.create(message)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "--value-max" in caught.value.detail.hint
    assert services.revision == before


@pytest.mark.parametrize("name", ["agent.create", "agent_execution.updateStatus", "session.get", "skill.getArtifact"])
def test_message_above_64_mib(roomy: Services, name: str) -> None:
    """It is refused by every method but `push`, before it is looked at; the daemon goes on."""
    method = next(one for one in METHODS if str(one) == name)
    with pytest.raises(Refused, match="bytes") as caught:
        roomy.send(method, bytes(64 * MIB + 100_000))
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert list(roomy.session.list().entries) == []
