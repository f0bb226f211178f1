"""Views: state folded from the log, in LMDB.

Owns the directory `views/`, one generation of all views in each of its folders (docs/FORMAT.md, "Views"). Values are
opaque bytes here. Everything in a view can be folded from the log again; nothing else depends on it.

Invariants: the fold is a function of the log alone; a view's checkpoint is written in the transaction of the rows
it describes; every row has a checksum, verified when it is read.
"""
