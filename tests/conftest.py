"""What holds for all tests."""

from __future__ import annotations

import signal

# A run that was started in the background ignores interrupts, and so would everything that it starts; tests send some.
signal.signal(signal.SIGINT, signal.default_int_handler)
