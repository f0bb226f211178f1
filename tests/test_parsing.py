"""What callers send is parsed, unless that would take too much memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stigmer import config, fields
from stigmer.errors import InvalidArgument, ResourceExhausted
from stigmer.parsing import parsed
from stigmer.pb import log_pb2, resources_pb2, store_pb2

EVENTS = st.builds(log_pb2.Event, kind=st.text(max_size=5), id=st.text(max_size=5), value=st.binary(max_size=20))


def fields_of(commit: log_pb2.Commit) -> int:
    """Count them as protobuf tells of them."""
    return len(commit.ListFields()) + sum(len(event.ListFields()) for event in commit.events) + len(commit.events) - 1


@given(st.lists(EVENTS, min_size=1, max_size=20), st.integers(-1, 1))
def test_as_many_fields_are_taken_as_are_allowed(events: list[log_pb2.Event], more: int) -> None:
    """Those of messages inside others are counted, whatever the size of what is in them."""
    commit = log_pb2.Commit(events=events)
    data = commit.SerializeToString()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "REQUEST_FIELDS_MAX", fields_of(commit) + more)
        if more < 0 and len(data) > 2 * config.REQUEST_FIELDS_MAX:
            with pytest.raises(ResourceExhausted, match=r"the commit of \d+ bytes has more than") as caught:
                parsed(log_pb2.Commit, data, "commit")
            assert (caught.value.limit, caught.value.limit_value) == ("REQUEST_FIELDS_MAX", fields_of(commit) - 1)
        elif more >= 0:
            assert parsed(log_pb2.Commit, data, "commit") == commit


def test_messages_three_deep_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are not known, and strings that look like messages, count as one."""
    deep = fields.of_bytes(1, fields.of_bytes(1, fields.of_bytes(2, b"\x0a\x00") * 5))
    monkeypatch.setattr(config, "REQUEST_FIELDS_MAX", 7)
    assert parsed(store_pb2.WriteRequest, deep).SerializeToString() != deep  # the last of the five counts
    monkeypatch.setattr(config, "REQUEST_FIELDS_MAX", 6)
    with pytest.raises(ResourceExhausted):
        parsed(store_pb2.WriteRequest, deep)
    unknown = fields.of_bytes(99, fields.of_bytes(1, b"") * 50)
    assert parsed(resources_pb2.FindRequest, unknown).kind == ""


def outcome_of(data: bytes, most: int) -> str:
    """Say what comes of bytes when so many fields are taken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "REQUEST_FIELDS_MAX", most)
        try:
            return repr(parsed(log_pb2.Commit, data))
        except InvalidArgument as error:
            return error.message
        except ResourceExhausted:
            return "too many"


@given(st.binary(max_size=200))
def test_what_is_no_message_is_refused_in_either_way(data: bytes) -> None:
    """Counting says nothing of its own about bytes that cannot be read."""
    assert outcome_of(data, 0) in ("too many", outcome_of(data, 10**6))
