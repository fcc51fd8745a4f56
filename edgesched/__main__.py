"""`python -m edgesched`."""

from __future__ import annotations

from edgesched.cli.main import main

if __name__ == "__main__":
    main()
