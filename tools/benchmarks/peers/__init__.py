"""`tools/bench peers`: the same work through stigmer and through other stores, on the same machine.

`catalogue` names the peers, each in a module of its own in the shape that `peer` describes; `works` has what is
measured; `child` is the process of one measurement; `run` starts those processes, peer after peer and round after
round; `targets`, `report` and `panels` show what came of it; `environment` has the peers' packages;
`command` is the command line.

What a child imports (`child`, `catalogue`, `works`, `peer` and its peer's module) needs no package but those of its
peer: it may run in the environment of the peers' packages, which has no stigmer in it.
"""
