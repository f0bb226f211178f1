"""The command line: what a person types.

Owns commands, their options, how answers and errors are printed, and exit codes. The work itself is done by the
store, the client, the resources and the daemon.

To feel instant, `stigmer --help` imports click and nothing else that is large: a command's module is imported when the
command is called, and gRPC, protobuf, YAML and rich inside the functions that need them.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line with the arguments of the process, and end the process with its exit code."""
    try:
        from stigmer.cli.run import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130  # pressed while the imports were still under way
    sys.exit(code)
