"""The place of a value inside a message: names of fields, indexes of lists, keys of maps.

As text it reads `spec.mcp_servers[0].headers["X-Team"]`; a key that is a plain word is written `.KEY`.
"""

from __future__ import annotations

import json
import re

Path = tuple[str | int, ...]

_is_word = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").fullmatch
_KEY_LENGTH_MAX = 60


def text(path: Path) -> str:
    """Give a path as text, safe to show on a terminal."""
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        elif _is_word(part) and len(part) <= _KEY_LENGTH_MAX:
            shown += f".{part}" if shown else part
        else:
            # JSON escapes every character that could play tricks with a terminal.
            shown += f"[{json.dumps(part[:_KEY_LENGTH_MAX])}]"
    return shown
