"""A machine that was started anew, as the product sees it."""

from __future__ import annotations

import sys
import uuid
from functools import cache
from typing import Any

from stigmer.views import projector


def boot(name: str = "") -> str:
    """Have this process, and those that it forks, take the machine for one that has just started; give its boot's id.

    Or for one that is still in the boot of that name.
    """
    name = name or str(uuid.uuid4())
    for module in _askers():
        module.boot_id = lambda: name
    return name


@cache
def _askers() -> list[Any]:
    """Give the modules that ask for the boot's id."""
    asked = projector.boot_id
    return [module for module in list(sys.modules.values()) if getattr(module, "boot_id", None) is asked]
