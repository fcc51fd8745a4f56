"""A worker without numpy, started like the real one; a picture's text says what it does with it.

    label          one detection (any text that is not listed here as well)
    wait PATH      as soon as the file PATH exists, one detection
    meet DIR N     as soon as N pictures have met in the directory DIR, one detection
    before NAME    as soon as the attempt NAME waits behind it, one detection
    crowd N        as soon as N pictures wait behind it, one detection
    spin PATH      computes until the file PATH exists, then one detection
    program PATH   the same, in a program of its own
    slow SECONDS   one detection after that time
    measure TEXT   one detection whose label is the picture's number of bytes
    crash          dies of SIGSEGV
    exit N         ends with exit code N
    hang           never answers
    invalid        says that it is no picture
    raise          says that the backend raised
    nonsense       sends something that is no frame
    overlap        begins the picture that waits behind it too, and answers neither
    stranger       answers for an attempt that it was never given
    eat            takes 200 MB of memory, then never answers
    feed           the same, in a program of a program of its own
    together       one detection whose label is how many pictures were begun together

A model whose name starts with "broken" is left out, until there is a file `repaired` in its directory; one whose name
starts with "deadly" kills the worker that loads it, one that starts with "endless" is never loaded. A picture that was
not begun is given back on "drop".

Started with `--mode`: ready (the default), unavailable, crash (at once), mute (never gets ready), deaf (ignores "stop"
and SIGTERM), batches (begins 2 or 4 pictures that wait together, unless one has to be alone, and answers when all are
done).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PREFIX = struct.Struct("<II")
NEVER_S = 3600.0
BATCHES: dict[str, Any] = {"sizes": [1, 2, 4], "curve_ms": {"1": 10.0, "2": 7.0, "4": 5.0}}

INBOX: list[tuple[str, str]] = []  # attempts with their text


def read_frame(file: Any) -> tuple[dict[str, Any], bytes]:
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        os._exit(0)  # the daemon is gone
    header_size, body_size = PREFIX.unpack(prefix)
    return json.loads(file.read(header_size)), file.read(body_size)


def say(sock: socket.socket, **header: object) -> None:
    data = json.dumps(header).encode()
    sock.sendall(PREFIX.pack(len(data), 0) + data)


def done(attempt_id: str, text: str) -> dict[str, Any]:
    detection = {"class_id": 0, "label": text, "confidence": 0.5, "x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0}
    times = dict.fromkeys(("decode_ms", "preprocess_ms", "infer_ms", "postprocess_ms", "service_ms"), 1.0)
    answer = {"type": "done", "attempt_id": attempt_id, "detections": [detection], "width": 10, "height": 20}
    return {**answer, "overrun_ms": 0.0, **times}


def perform(sock: socket.socket, tasks: list[tuple[str, str]]) -> None:
    for attempt_id, _ in tasks:
        say(sock, type="started", attempt_id=attempt_id)
    for answer in [act(sock, attempt_id, text, len(tasks)) for attempt_id, text in tasks]:
        say(sock, **answer)


def act(sock: socket.socket, attempt_id: str, text: str, together: int) -> dict[str, Any]:
    """Do what a picture says. Returns: the answer."""
    word, _, rest = text.partition(" ")
    if word == "wait":
        while not Path(rest).exists():
            time.sleep(0.005)
    elif word == "meet":
        directory, _, count = rest.rpartition(" ")
        os.makedirs(directory, exist_ok=True)
        Path(directory, attempt_id).touch()
        while len(os.listdir(directory)) < int(count):
            time.sleep(0.005)
    elif word == "before":
        while rest not in dict(INBOX):
            time.sleep(0.005)
    elif word == "crowd":
        while len(INBOX) < int(rest):
            time.sleep(0.005)
    elif word == "spin":
        while not Path(rest).exists():
            pass
    elif word == "program":
        code = "import sys, pathlib\nwhile not pathlib.Path(sys.argv[1]).exists(): pass"
        subprocess.run([sys.executable, "-I", "-S", "-c", code, rest], check=True)
    elif word == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif word == "exit":
        os._exit(int(rest))
    elif word == "hang":
        time.sleep(NEVER_S)
    elif word == "eat":
        hoard = b"x" * 200_000_000
        time.sleep(NEVER_S)
        print(len(hoard))
    elif word == "feed":
        code = f"import time; hoard = b'x' * 200_000_000; time.sleep({NEVER_S}); print(len(hoard))"
        subprocess.run(["/bin/sh", "-c", '"$0" -I -S -c "$1"; echo ended', sys.executable, code], check=True)
    elif word == "nonsense":
        sock.sendall(b"this is no frame at all")
        time.sleep(NEVER_S)
    elif word == "overlap":
        while not INBOX:
            time.sleep(0.005)
        say(sock, type="started", attempt_id=INBOX[0][0])
        time.sleep(NEVER_S)
    elif word == "stranger":
        attempt_id = "nobody"
    elif word == "slow":
        time.sleep(float(rest))
    elif word == "measure":
        text = str(len(text))
    elif word == "together":
        text = str(together)
    if word in ("invalid", "raise"):
        kind = "invalid_input" if word == "invalid" else "worker_error"
        return {"type": "failed", "attempt_id": attempt_id, "kind": kind, "message": f"told to: {text}"}
    return done(attempt_id, text)


def load(sock: socket.socket, name: str) -> None:
    say(sock, type="loading", model=name)
    if name.startswith("deadly"):
        os.kill(os.getpid(), signal.SIGSEGV)
    elif name.startswith("endless"):
        time.sleep(NEVER_S)


def is_broken(model: dict[str, Any]) -> bool:
    return model["name"].startswith("broken") and not Path(model.get("directory", "/"), "repaired").exists()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--mode", default="ready")
    arguments = parser.parse_args()
    sock = socket.socket(fileno=arguments.fd)
    file = sock.makefile("rb")
    header, _ = read_frame(file)
    print("a line for the log", file=sys.stderr, flush=True)
    if arguments.mode == "crash":
        os._exit(7)
    if arguments.mode == "unavailable":
        say(sock, type="unavailable", reason="the driver is missing: install it")
        sys.exit(3)
    if arguments.mode == "mute":
        time.sleep(NEVER_S)
    if arguments.mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    models = header["models"]
    for model in models:
        load(sock, model["name"])
    broken = {m["name"]: f"{m['name']} is out of order" for m in models if is_broken(m)}
    whole = [m["name"] for m in models if m["name"] not in broken]
    say(
        sock,
        type="ready",
        pid=os.getpid(),
        python="3",
        versions={"fake": "1"},
        models=whole,
        unavailable_models=broken,
        batches=dict.fromkeys(whole, BATCHES) if arguments.mode == "batches" else {},
    )
    alone: set[str] = set()
    changed = threading.Condition()

    def fill() -> None:
        while True:
            header, body = read_frame(file)
            if header["type"] == "stop" and arguments.mode != "deaf":
                os._exit(0)
            with changed:
                if header["type"] == "task":
                    alone.update([header["attempt_id"]] if header.get("is_alone") else [])
                    INBOX.append((header["attempt_id"], body.decode()))
                    changed.notify()
                elif header["type"] == "drop":
                    kept = [task for task in INBOX if task[0] != header["attempt_id"]]
                    was_there, INBOX[:] = len(kept) < len(INBOX), kept
                    if was_there:
                        say(sock, type="dropped", attempt_id=header["attempt_id"])

    threading.Thread(target=fill, daemon=True).start()
    while True:
        with changed:
            while not INBOX:
                changed.wait()
            sizes = BATCHES["sizes"] if arguments.mode == "batches" else [1]
            count = max(n for n in sizes if n == 1 or (not alone & {task[0] for task in INBOX[:n]} and n <= len(INBOX)))
            tasks, INBOX[:] = INBOX[:count], INBOX[count:]
        perform(sock, tasks)


if __name__ == "__main__":
    main()
