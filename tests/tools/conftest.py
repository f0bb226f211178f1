"""The tools are no package of the installation: they are found where they lie."""

from __future__ import annotations

import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"

sys.path.insert(0, str(TOOLS))
