"""`python -m agents.worker --fd N`: run one worker on an inherited socket until the daemon stops it, or is gone."""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import os
import signal
import socket
import struct
import sys
from typing import NoReturn, Optional, Sequence

from .loop import run
from .spec import MAX_PIXELS

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PEER_CREDENTIALS = struct.Struct("iII")  # struct ucred: process, user, group


def main(arguments: Optional[Sequence[str]] = None) -> NoReturn:
    """Take the socket and never return; `loop.py` says what the exit codes mean."""
    parser = argparse.ArgumentParser(prog="worker", description="Runs models for the agent daemon that started it.")
    parser.add_argument("--fd", type=int, required=True, help="number of the inherited Unix stream socket")
    parser.add_argument("--nice", type=int, default=0, help="how much of its turn on the CPU it leaves to others")
    options = parser.parse_args(arguments)
    os.nice(options.nice)  # before there are threads: each has its own
    sock = socket.socket(fileno=options.fd)
    sock.set_inheritable(False)
    sys.dont_write_bytecode = True  # the directory of a model with a decoder of its own stays as it was delivered
    # Vendors' libraries crash; let stderr say where. A copy of it, since a backend may listen in on the first one.
    faulthandler.enable(os.dup(sys.stderr.fileno()))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; the daemon decides
    die_with_daemon(sock)
    # OpenCV reads this once, when it is loaded: it then refuses a picture bomb before it decodes one.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
    run(sock)


def die_with_daemon(sock: socket.socket) -> None:
    """Have Linux kill this process when the one that started it dies, however busy a vendor's library is then.

    Elsewhere the closed socket alone ends the worker. The daemon's id comes from the socket: if it died before the
    request to the kernel, no signal will follow, so that is checked here.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
    daemon_pid = PEER_CREDENTIALS.unpack(credentials)[0]
    if daemon_pid > 0:  # 0: it lives in another process namespace, where it cannot be looked up
        try:
            os.kill(daemon_pid, 0)
        except ProcessLookupError:
            os._exit(0)
        except PermissionError:  # it lives, as another user
            pass


if __name__ == "__main__":
    main()
