"""`version`: what is installed."""

from __future__ import annotations

import click

from stigmer.cli.invocation import Invocation
from stigmer.cli.options import Command, pass_invocation


def installed_version(package: str) -> str:
    """Give the version of an installed package; "unknown" where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


@click.command("version", cls=Command)
@pass_invocation
def version_command(invocation: Invocation) -> None:
    """Print the version.

    With -v, also those of Python and the libraries beneath.
    """
    import platform

    from stigmer.cli.output import write_record
    from stigmer.version import VERSION

    facts = {"stigmer": VERSION}
    if invocation.verbose:
        facts["python"] = platform.python_version()
        facts["platform"] = platform.platform()
        facts |= {name: installed_version(name) for name in ("protobuf", "grpcio", "lmdb", "msgspec", "click")}
    if invocation.output in ("yaml", "json", "jsonl"):
        write_record(facts, invocation.output)
        return
    for name, value in facts.items():
        print(f"{name} {value}")
