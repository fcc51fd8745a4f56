"""The bare limit, frozen: processes that read a file, decode, resize, infer and decode boxes, and do nothing else.

    python -m bench.plain_loop MODEL_DIR PICTURE_DIR --count 500 --processes 2

Prints one JSON line: pictures per second over all processes, and a digest of the labels of each picture.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from agents.worker.model import open_model
from agents.worker.spec import parse_model
from edgesched.catalogue import read_model
from edgesched.domain.detection import Detection, digest


def loop(spec: dict[str, Any], paths: list[Path], count: int, ready: Barrier, results: Any) -> None:
    """One process: `count` pictures, round and round over `paths`."""
    import cv2

    cv2.setNumThreads(1)
    model = open_model(parse_model(spec, threads=1), lambda *_: None)
    digests: dict[str, str] = {}
    ready.wait()
    started = time.perf_counter()
    for index in range(count):
        path = paths[index % len(paths)]
        answer = model.run(bytearray(path.read_bytes()))
        if path.name not in digests:
            digests[path.name] = digest([Detection(**found) for found in answer.detections])
    results.put((started, time.perf_counter(), digests))


def measure(model_dir: Path, picture_dir: Path, *, count: int, processes: int) -> dict[str, Any]:
    """Pictures per second of `processes` loops over `count` pictures together, from the first start to the last end."""
    model = read_model(model_dir)
    build = model.build_for("generic")
    if build is None:
        raise SystemExit(f"{model_dir} has no default build")
    paths = sorted(path for path in picture_dir.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise SystemExit(f"{picture_dir} has no pictures")
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(processes), context.SimpleQueue()
    arguments = (model.worker_spec(build), paths, count // processes, ready, results)
    loops = [context.Process(target=loop, args=arguments) for _ in range(processes)]
    for process in loops:
        process.start()
    ends = [results.get() for _ in loops]
    for process in loops:
        process.join()
    seconds = max(end for _, end, _ in ends) - min(start for start, _, _ in ends)
    digests = {name: value for _, _, found in ends for name, value in found.items()}
    return {"pictures_per_s": count // processes * processes / seconds, "digests": digests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("picture_dir", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print(json.dumps(measure(options.model_dir, options.picture_dir, count=options.count, processes=options.processes)))


if __name__ == "__main__":
    main()
