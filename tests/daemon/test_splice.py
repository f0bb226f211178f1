"""Messages written by hand are what the generated classes would have written."""

from __future__ import annotations

import pytest

from stigmer.daemon import splice
from stigmer.errors import InvalidArgument
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


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16384, 2_000_000])
def test_get_many_response(size: int) -> None:
    """Rows and errors of any size, in their order."""
    row = store_pb2.Resource(revision=7, kind="k", id="i", value=bytes(size))
    detail = store_pb2.ErrorDetail(name="NotFound", message="m" * size)
    results = [store_pb2.GetResult(resource=row), store_pb2.GetResult(error=detail), store_pb2.GetResult(resource=row)]
    body, error = (row.SerializeToString(), False), (detail.SerializeToString(), True)
    answer = splice.get_many_response([body, error, body])
    assert answer == store_pb2.GetManyResponse(results=results).SerializeToString()
    assert splice.get_many_response([]) == b""


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16384, 2_000_000])
def test_commits_of(size: int) -> None:
    """The commits of a message come out as the bytes that they are in it."""
    commits = [log_pb2.Commit(request_id="i" * size), log_pb2.Commit(), log_pb2.Commit(request_id="last")]
    request = store_pb2.WriteRequest(commits=commits).SerializeToString()
    assert splice.commits_of(request) == [commit.SerializeToString() for commit in commits]
    assert splice.commits_of(b"") == []


@pytest.mark.parametrize(
    "tail",
    [
        *(
            b"\x0a",
            b"\x0a\x80",
            b"\x0a\x01",
            b"\x0a\x05abcd",
            b"\x0a\xff\xff\xff\xff\x0f",
            b"\x0a" + b"\x80" * 5 + b"\x00",
        ),
        *(b"\x00", b"\x08\x01", b"\x0b\x0c", b"\x12\x00", b"\x8a\x00\x00", b"\xff"),
    ],
)
def test_what_is_no_write_request(tail: bytes) -> None:
    """Anything but whole commits is refused, wherever in a message it comes, saying where."""
    for before in (
        b"",
        b"\x0a\x00",
        store_pb2.WriteRequest(commits=[log_pb2.Commit(request_id="r")]).SerializeToString(),
    ):
        with pytest.raises(InvalidArgument, match=f"byte {len(before)} ") as caught:
            splice.commits_of(before + tail)
        assert caught.value.field == "request"


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
