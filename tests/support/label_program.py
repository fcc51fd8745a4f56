"""A user's program for the `exec` backend, in the manner of the predecessor's executors: it looks for pictures in a
directory, labels each one with the model that its argument describes, writes a label file, and deletes the picture.

`python label_program.py SPEC.json` runs for ever; with PICTURE and LABELS in its environment it labels that one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from agents.worker.model import Model, open_model
from agents.worker.spec import parse_model


def labelled(model: Model, picture: Path) -> str:
    found = model.run(bytearray(picture.read_bytes())).detections
    keys = ("class_id", "x1", "y1", "x2", "y2", "confidence")
    return "".join(" ".join(f"{item[key]:g}" for key in keys) + "\n" for item in reversed(found))


def waiting(source: Path) -> list[Path]:
    try:
        return sorted(source.glob("*/*/*.*"))
    except FileNotFoundError:  # the directory of a picture that is done went while it was being looked into
        return []


def serve(model: Model, source: Path, target: Path) -> None:
    while True:
        for picture in waiting(source):
            labels = target / "label" / picture.parent.name / f"{picture.stem}.txt"
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text(labelled(model, picture))
            beside = target / "image" / picture.name
            beside.parent.mkdir(exist_ok=True)
            beside.write_bytes(b"the picture with its boxes")
            picture.unlink(missing_ok=True)
        time.sleep(0.002)


def main() -> None:
    spec = parse_model(json.loads(Path(sys.argv[1]).read_text()))
    model = open_model(spec, lambda level, event, fields: None)
    if "PICTURE" in os.environ:
        Path(os.environ["LABELS"]).write_text(labelled(model, Path(os.environ["PICTURE"])))
        return
    source = Path(os.environ["INPUT_DIR"]) / "_sub_reqs_ready" / os.environ["SERVICE_NAME"]
    serve(model, source, Path(os.environ["OUTPUT_DIR"]))


if __name__ == "__main__":
    main()
