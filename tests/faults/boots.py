"""A machine that was started anew, as the product sees it."""

from __future__ import annotations

import uuid

from stigmer.views import page_cache


def boot(name: str = "") -> str:
    """Have this process, and those that it forks, take the machine for one that has just started; give its boot's id.

    Or for one that is still in the boot of that name.
    """
    name = name or str(uuid.uuid4())
    page_cache.boot_id = lambda: name
    return name
