"""The platform's resources: their kinds, their rules, and what a person writes and reads of them.

The store holds bytes under `kind/id`; this package knows which bytes are which message. It has no gRPC in it
and opens no store: verbs work on anything that has the shape of one (state.py).

    options.py      what the descriptors say: rules, secrets, kinds
    kinds.py        which kinds there are, found by any of their names
    paths.py        the place of a value in a message
    documents.py    YAML and JSON text into nodes that know their line; bounded
    messages.py     nodes into messages, with every problem named
    rules.py        what a valid message is
    manifests.py    files into checked manifests
    identity.py     ids and slugs
    verbs.py        what can be asked of resources, for every kind alike; reading.py, writing.py, status.py
    special/        what is special to a kind
    sealing.py      secrets sealed and opened
    methods.py      the methods of the typed services, each with its verb
    present.py      messages as plain data, YAML and JSON; secrets masked
    explain.py      what a kind and its fields are, and an example of each
"""
