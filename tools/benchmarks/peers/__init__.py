"""`tools/bench peers`: the same work through stigmer and through other stores, on the same machine.

`catalogue` names the peers, each in a module of its own in the shape that `peer` describes; `works` has what is
measured; `child` is the process of one measurement; `run` starts those processes, peer after peer and round after
round; `report`, `page` and `chart` show what came of it; `command` is the command line.

What a child imports (all but `run`, `report`, `page`, `chart` and `command`) needs no package but those of its peer: it runs in
the virtual environment of the peers, which has no stigmer in it.
"""
