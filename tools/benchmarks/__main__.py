"""The command line of `tools/bench`."""

from __future__ import annotations

import click

from benchmarks.clients import clients
from benchmarks.core import core
from benchmarks.flood import flood
from benchmarks.peers.command import peers
from benchmarks.recovery import recovery
from benchmarks.resources import resources
from benchmarks.scale import scale


@click.group()
def main() -> None:
    """Measure Stigmer's store on this machine."""


main.add_command(core)
main.add_command(clients)
main.add_command(flood)
main.add_command(peers)
main.add_command(recovery)
main.add_command(resources)
main.add_command(scale)
main(prog_name="tools/bench")
