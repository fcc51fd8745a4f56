"""The name by which the task manager knows this client again: made once, then kept in a small file."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from client import durable
from edgesched.errors import StartupError

CLIENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def client_id(state_dir: Path) -> str:
    """This client's id, the same in every run that uses the same directory. Durable when it returns.

    Raises: StartupError if it can neither be read nor be written.
    """
    path = state_dir / "client_id"
    try:
        durable.make_directory(state_dir)
        with durable.locked(state_dir):  # of two first runs, both take the same one
            if not path.exists():
                durable.write_whole(path, f"client-{secrets.token_hex(8)}\n".encode())
            known = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise StartupError(f"{path}: cannot be kept: {error.strerror}; name another client_state_dir") from error
    if not CLIENT_ID.fullmatch(known):
        raise StartupError(f"{path}: holds no client id; delete it, and a new one is made")
    return known
