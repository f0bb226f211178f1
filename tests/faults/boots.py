"""A machine that was started anew, as the product sees it."""

from __future__ import annotations

import sys
import uuid

from stigmer.views import projector


def boot(name: str = "") -> str:
    """Have this process, and those that it forks, take the machine for one that has just started; give its boot's id.

    Or for one that is still in the boot of that name.
    """
    name = name or str(uuid.uuid4())
    before = projector.boot_id

    def boot_id() -> str:
        return name

    for module in list(sys.modules.values()):
        if module.__name__.startswith("stigmer.") and getattr(module, "boot_id", None) is before:
            module.boot_id = boot_id
    return name
