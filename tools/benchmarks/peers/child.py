"""The process of one measurement: `python -m benchmarks.peers.child PEER WORK SIZE DIRECTORY TRAFFIC`.

Starts the peer with its data in the directory, does the work, stops the peer, and prints one line of JSON: the figures,
or an error. SIGTERM ends it, with the peer's server.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.peers import catalogue, works
from benchmarks.peers.peer import PeerFailed
from benchmarks.peers.works import Context, Work


async def measure(entry: catalogue.Entry, work: Work, context: Context, directory: Path) -> dict[str, Any]:
    """Do a work on a fresh peer."""
    peer = entry.make()
    try:
        await peer.start(directory)
        version = peer.version()
        figures = await work.run(peer, context)
    finally:
        await peer.stop()
    notes = {"durability": peer.durability, "bulk_how": getattr(peer, "bulk_how", "")}
    return {"figures": figures, "version": version, **notes}


def main(arguments: list[str]) -> int:
    """Measure what the arguments say, and print it."""
    peer, work, size, directory, traffic = arguments
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        context = Context(int(size), Path(traffic))
        answer = _run(measure(catalogue.BY_NAME[peer], works.BY_NAME[work], context, Path(directory)))
    except PeerFailed as error:
        answer = {"error": str(error)}
    except Exception as error:  # of any client library: the run tells it, and the rest of it is in the output
        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
    return 1 if "error" in answer else 0


def _run(coroutine: Any) -> Any:
    """Run on uvloop where it is there, for every peer alike."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
