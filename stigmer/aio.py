"""The asyncio client: `stigmer.aio.connect`.

    async with stigmer.aio.connect("127.0.0.1:50051") as client:
        revision = await client.save("agent", "a1", b"...")
        async for event in client.tail(after=revision):
            ...

Imports gRPC, unlike `stigmer` itself.
"""

from __future__ import annotations

from stigmer.client.aio import Client, connect

__all__ = ["Client", "connect"]
