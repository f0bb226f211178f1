"""`python -m stigmer`: the command line."""

from __future__ import annotations

from stigmer.cli import main

if __name__ == "__main__":
    main()
