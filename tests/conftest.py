"""What holds for every test."""

from __future__ import annotations

import os
import signal

# A shell that starts `make test` in the background lets it, and all its children, ignore Ctrl-C; some CI systems do. A
# signal that is handled here is at its default in the programs that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As in the programs themselves; edgesched/cli/main.py says why.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
