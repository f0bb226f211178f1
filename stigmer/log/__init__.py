"""The append log: segment files of checksummed frames, and cursors that read them.

Owns the directory `log/` and every byte in it, as docs/FORMAT.md specifies. A payload is opaque here: a frame
says how many events its payload holds and which revision the first has, no more.

Invariants: revisions are dense and in file order; a frame never spans two segments; only the last segment is
written to, by one thread; what was durable is never cut off, overwritten or guessed.
"""
