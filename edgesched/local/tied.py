"""`python -m edgesched.local.tied PARENT_PID <arguments of edgesched>`: a process that never outlives its parent.

Asked for in the child, because doing it between fork and exec (`preexec_fn`) is not safe in a process with gRPC's
threads: some of the children abort.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parent_pid = int(sys.argv[1])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before we asked
        sys.exit(1)
    sys.argv = ["edgesched", *sys.argv[2:]]
    from edgesched.cli.main import main as edgesched

    edgesched()


if __name__ == "__main__":
    main()
