"""Messages written by hand are what the generated classes would have written."""

from __future__ import annotations

import pytest

from stigmer.daemon import splice
from stigmer.pb import log_pb2, store_pb2

NUMBERS = [0, 1, 127, 128, 300, 16383, 16384, 2**32, 2**63, 2**64 - 1]


@pytest.mark.parametrize("number", NUMBERS)
def test_through_revision(number: int) -> None:
    """Any revision survives."""
    assert store_pb2.TailResponse.FromString(splice.tail_response([], number)).through_revision == number


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16384, 2_000_000])
def test_list_response(size: int) -> None:
    """Rows of any size, with and without a token."""
    rows = [store_pb2.Resource(revision=7, kind="k", id=str(n), value=bytes(size)) for n in range(3)]
    for token in ("", "token"):
        answer = splice.list_response([row.SerializeToString() for row in rows], token)
        assert answer == store_pb2.ListResponse(resources=rows, next_page_token=token).SerializeToString()
    assert splice.list_response([], "") == b""


@pytest.mark.parametrize("revisions", [[], [5], [1, 2**40, 300]])
@pytest.mark.parametrize("time_ns", [1, -1, 2**62])
def test_committed_events(revisions: list[int], time_ns: int) -> None:
    """A commit's payload is passed on as it is, with what the frame's header says."""
    commit = log_pb2.Commit(events=[log_pb2.Event(op=log_pb2.Event.OP_SAVE, kind="k", id="i", value=b"v")])
    wanted = store_pb2.CommittedEvents(first_revision=300, time_ns=time_ns, commit=commit, revisions=revisions)
    written = splice.committed_events(300, time_ns, commit.SerializeToString(), revisions)
    assert written == wanted.SerializeToString()
    response = splice.tail_response([written, written], 301)
    assert response == store_pb2.TailResponse(commits=[wanted, wanted], through_revision=301).SerializeToString()
