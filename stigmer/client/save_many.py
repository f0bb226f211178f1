"""`save_many` of the blocking client: many commits on one stream, a few megabytes at a time.

Each part is a call with a deadline of its own. A stream that breaks is replaced by another one with the commits that
have no answer yet, under their request ids.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import grpc

from stigmer import config
from stigmer.client import answers, attempts, requests
from stigmer.errors import OutcomeUnknown, StigmerError
from stigmer.model import Committed, Delete, Save

Attempt = Callable[[Callable[[list[bytes]], Iterable[bytes]]], None]
"""Sends what is unanswered; it is given the function that begins a stream of messages and gives its answers."""


class _Unanswered(NamedTuple):
    place: int
    payload: bytes
    request_id: str


class SaveMany:
    """One call of `save_many`."""

    def __init__(
        self,
        request_ids: requests.RequestIds,
        write: Callable[[Attempt], None],
        commit_alone: Callable[[bytes, str], bytes],
    ) -> None:
        """`write` runs attempts until one succeeds; `commit_alone` makes a call for one commit."""
        self._request_ids = request_ids
        self._write = write
        self._commit_alone = commit_alone
        self._results: list[Committed | StigmerError | None] = []
        self._unanswered: deque[_Unanswered] = deque()
        self._alone: list[_Unanswered] = []
        self._gone: OutcomeUnknown | None = None
        """Why the daemon does not answer: then nothing more is sent."""

    def run(self, changes: Iterable[Save | Delete]) -> list[Committed | StigmerError | None]:
        """Make all changes; give an answer for each."""
        size = 0
        for place, change in enumerate(changes):
            self._results.append(self._gone)
            if self._gone is not None:
                continue
            request_id = self._request_ids.next()
            try:
                payload = requests.commit([change], request_id)
            except StigmerError as error:
                self._results[place] = error
                continue
            self._unanswered.append(_Unanswered(place, payload, request_id))
            size += len(payload) + config.COMMIT_OVERHEAD_BYTES
            if size >= config.WRITE_CALL_BYTES:
                self._send()
                size = 0
        self._send()
        return self._results

    def _send(self) -> None:
        if not self._unanswered:
            return
        try:
            self._write(self._attempt)
        except StigmerError as error:
            if isinstance(error, OutcomeUnknown):
                self._gone = error
            for one in self._unanswered:
                self._results[one.place] = attempts.of_request(error, one.request_id)
            self._unanswered.clear()
        alone, self._alone = self._alone, []
        for one in alone:
            try:
                self._results[one.place] = answers.committed(self._commit_alone(one.payload, one.request_id))
            except StigmerError as error:
                self._results[one.place] = error

    def _attempt(self, begin: Callable[[list[bytes]], Iterable[bytes]]) -> None:
        answered = 0
        try:
            for message in begin(list(requests.write_messages(one.payload for one in self._unanswered))):
                for answer in answers.write(message, answered, itertools.repeat(1, len(self._unanswered))):
                    answered += 1
                    one = self._unanswered.popleft()
                    if isinstance(answer, OutcomeUnknown):
                        self._alone.append(one)  # perhaps gone in a moment: it is tried again by itself
                    self._results[one.place] = answer
        except grpc.RpcError as error:
            if not attempts.is_unimplemented(error):
                raise
        self._alone += self._unanswered  # of an older daemon, which has no such stream
        self._unanswered.clear()
