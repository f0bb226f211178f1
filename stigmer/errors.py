"""Every exception of Stigmer.

Owns the tree of errors and the sentence each shows to a person. Imports nothing, so that every other
module may import it. Each class stands for one situation and carries its facts as attributes.

There are two groups. After any error but the `OutcomeUnknown` ones and `StorageFailed`, *nothing was written*.
After one of those, the write may or may not have happened: retry it with the same request id, which applies
it at most once. `BatchFailed` is about many writes and has an error of either group for each that failed.

`hint` is the next thing to do, in words a person can act on; the command line prints it below the message.
"""

from __future__ import annotations

from typing import Self


class StigmerError(Exception):
    """The root of every error that Stigmer raises on purpose.

    You do not get it for a bug in Stigmer: those are ordinary Python exceptions.
    """

    hint: str | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint

    @property
    def message(self) -> str:
        """What happened, to what, in one line."""
        return str(self.args[0])

    def without_frames(self) -> Self:
        """Give the error itself, which has let go of where it came from.

        For one that is kept as a value or handed to others: its frames hold whatever was being worked on, which may be
        many times the size of a request, and often the error itself, so that only a collection would free it.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


# --- what the caller asked for -------------------------------------------------------------------------


class InvalidArgument(StigmerError):
    """An argument is not what it must be. `field` names it."""

    def __init__(self, field: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{field}: {problem}", hint=hint)
        self.field = field
        self.problem = problem


class NotFound(StigmerError):
    """There is no such resource."""

    def __init__(self, kind: str, id: str, *, message: str | None = None, hint: str | None = None) -> None:
        super().__init__(message or f'{kind} "{id}" not found', hint=hint)
        self.kind = kind
        self.id = id


class Conflict(StigmerError):
    """The resource is not at the revision that the caller expected.

    `actual_revision` is 0 where the resource does not exist.
    """

    def __init__(self, kind: str, id: str, expected_revision: int, actual_revision: int) -> None:
        now = f"at revision {actual_revision}" if actual_revision else "not there"
        super().__init__(
            f'{kind} "{id}" is {now}, not at the expected revision {expected_revision}',
            hint="read it again, then repeat the change on what is there now",
        )
        self.kind = kind
        self.id = id
        self.expected_revision = expected_revision
        self.actual_revision = actual_revision


class AlreadyExists(Conflict):
    """The caller expected that the resource does not exist (`expected_revision=0`), but it does."""

    def __init__(self, kind: str, id: str, actual_revision: int, *, message: str | None = None) -> None:
        super().__init__(kind, id, 0, actual_revision)
        self.args = (message or f'{kind} "{id}" already exists, at revision {actual_revision}',)


class ResourceExhausted(StigmerError):
    """A limit was reached. `limit` names the option, `limit_value` is what it is set to."""

    def __init__(self, message: str, *, limit: str = "", limit_value: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.limit = limit
        self.limit_value = limit_value


class DiskFull(ResourceExhausted):
    """The disk under the data directory is full. Reads go on; writes resume when there is room."""

    def __init__(self, path: str) -> None:
        super().__init__(f"disk full: {path}", hint="free some space; writes resume by themselves")
        self.path = path


class BatchFailed(StigmerError):
    """Some of many commits failed; the others stand.

    `failures` has their errors by their places, counted from 0; an `OutcomeUnknown` among them has the request id to
    retry with. `revisions` has the revision of each commit, and None in those places; where they are too many to
    keep, as behind a `writer`, it is None itself, and `failures` has the first of `failure_count`.
    """

    def __init__(
        self,
        failures: dict[int, StigmerError],
        count: int,
        revisions: list[int | None] | None = None,
        failure_count: int | None = None,
    ) -> None:
        place, first = next(iter(failures.items()))
        self.failure_count = len(failures) if failure_count is None else failure_count
        super().__init__(
            f"{self.failure_count} of {count} commits failed; the first, number {place}: {first.message}",
            hint=first.hint,
        )
        self.failures = failures
        self.revisions = revisions


class Unauthenticated(StigmerError):
    """The daemon wants a token, and the call has none, or another one."""

    def __init__(self, message: str) -> None:
        super().__init__(
            f"{message}; send `authorization: Bearer TOKEN`",
            hint="its owner has it in the file `token` of the data directory: set STIGMER_TOKEN_FILE to a copy of it, "
            "STIGMER_TOKEN to the token, or use the Unix socket of the data directory",
        )


# --- the daemon is not there, or did not answer --------------------------------------------------------


class OutcomeUnknown(StigmerError):
    """No answer came. A write may or may not have happened: retry it with the same `request_id`.

    A read is always safe to repeat.
    """

    def __init__(self, message: str, *, request_id: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.request_id = request_id


class Unavailable(OutcomeUnknown):
    """The daemon cannot be reached, or went away in the middle of the call."""


class DeadlineExceeded(OutcomeUnknown):
    """The daemon did not answer in the time that the caller gave."""


# --- the data directory --------------------------------------------------------------------------------


class DataDirectoryError(StigmerError):
    """The data directory cannot be used: missing, not a directory, read-only, not ours."""

    def __init__(self, path: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"data directory {path} {problem}", hint=hint)
        self.path = path


class LogLocked(DataDirectoryError):
    """Another process owns the data directory. `pid`, `since` and `command` say which, where known."""

    def __init__(self, path: str, pid: int | None, since: str | None, command: str | None) -> None:
        who = f"pid {pid}" if pid else "another process"
        when = f" since {since}" if since else ""
        what = f" ({command})" if command else ""
        super().__init__(
            path,
            f"is in use by {who}{when}{what}",
            hint="talk to that process over gRPC (stigmer.connect, STIGMER_ADDR), or stop it: stigmer daemon stop",
        )
        self.pid = pid
        self.since = since
        self.command = command


class NewerFormat(DataDirectoryError):
    """A file was written by a newer Stigmer. Nothing was touched."""

    def __init__(self, path: str, found_version: int, known_version: int) -> None:
        super().__init__(
            path,
            f"was written by a newer stigmer (format {found_version}); this one reads up to {known_version}",
            hint="upgrade stigmer, or point --data-dir at another directory",
        )
        self.found_version = found_version
        self.known_version = known_version


class CorruptLog(StigmerError):
    """The log is damaged where it was durable. Nothing was changed and nothing was guessed.

    You do not get it for an unfinished write at the end (a torn tail), which opening cuts off.
    """

    def __init__(self, path: str, offset: int, revision: int, problem: str, *, hint: str | None = None) -> None:
        super().__init__(
            f"{path}, offset {offset}, revision {revision}: {problem}",
            hint=hint
            or "keep a copy of the data directory, then restore this segment from a backup; see: stigmer log repair",
        )
        self.path = path
        self.offset = offset
        self.revision = revision
        self.problem = problem


class CorruptView(StigmerError):
    """A view's rows or file are damaged. The log is not: replay rebuilds the views from it."""

    def __init__(self, view: str, problem: str) -> None:
        super().__init__(f"view {view}: {problem}", hint="rebuild the views from the log: stigmer replay")
        self.view = view
        self.problem = problem


class CorruptArtifact(StigmerError):
    """A stored artifact is not what its key says. The log is whole, and no other artifact is concerned."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(
            f"artifact {path}: {problem}",
            hint="push the same skill again, which writes the file anew, or restore it from a backup",
        )
        self.path = path
        self.problem = problem


class BackupDirectoryError(StigmerError):
    """The directory of a backup cannot be used: not one, another store's, in use. Nothing in it was changed."""

    def __init__(self, path: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"backup directory {path} {problem}", hint=hint)
        self.path = path


class CorruptBackup(StigmerError):
    """A file of a backup is damaged or missing. The store that was backed up is not concerned."""

    def __init__(self, path: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(
            f"backup {path}: {problem}",
            hint=hint or "make a new one: stigmer backup DIR, which also mends what the store still has",
        )
        self.path = path
        self.problem = problem


class SecretUnreadable(StigmerError):
    """A sealed secret cannot be opened: its key is gone or damaged, or its text is not what was sealed."""

    def __init__(self, kind: str, id: str, problem: str) -> None:
        super().__init__(
            f'a secret of {kind} "{id}" cannot be read: {problem}', hint="set the secret again: stigmer apply -f FILE"
        )
        self.kind = kind
        self.id = id
        self.problem = problem


class KeyRetired(StigmerError):
    """A secret was to be sealed with a key that is no longer used, because its resource was deleted meanwhile.

    Whoever prepared the save prepares it again, with a new key.
    """

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f'{kind} "{id}" was deleted while its secrets were being saved', hint="try again")
        self.kind = kind
        self.id = id


class StorageFailed(StigmerError):
    """A write or fsync failed. The store has stopped to protect the data; whatever waited is unknown."""

    def __init__(self, path: str, operation: str, cause: str) -> None:
        super().__init__(
            f"storage failed: {operation} {path}: {cause}; stopped to protect the data",
            hint="check the disk (dmesg), then start again; what was acknowledged is on disk",
        )
        self.path = path
        self.operation = operation


class Closed(StigmerError):
    """The store or the client was closed."""

    def __init__(self, what: str = "store") -> None:
        super().__init__(f"the {what} is closed")


class AddressInUse(StigmerError):
    """The address to listen on is taken."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"cannot listen on {address}: the address is in use",
            hint="another daemon may have it (stigmer daemon status), or choose one: stigmer daemon --listen HOST:PORT",
        )
        self.address = address
