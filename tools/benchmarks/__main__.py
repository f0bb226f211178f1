"""The command line of `tools/bench`."""

from __future__ import annotations

import click

from benchmarks.core import core


@click.group()
def main() -> None:
    """Measure Stigmer's store on this machine."""


main.add_command(core)
main(prog_name="tools/bench")
