"""The daemon: owns a data directory and serves it over gRPC.

gate.py           lets calls in, or refuses them     access.py    the token and the certificates
handlers.py       errors become status codes         refusals.py  counts and logs what is refused
renewal.py        files that are renewed while it runs
store_service.py  stigmer.store.v1.Store          tail.py    its followers
admin_service.py  stigmer.store.v1.Admin          splice.py  answers from stored bytes
addresses.py      where to listen
server.py         puts store, services, health and reflection together
info.py           the file by which others find the daemon of a data directory
lifecycle.py      runs a daemon from start to end; starts one in the background, stops one
"""
