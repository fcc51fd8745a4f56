"""Rockchip's NPU through RKNNLite: one session on one core.

RKNNLite never raises: it returns -1 or None and prints why. Here each of these becomes an exception, and what was
printed while the model was loaded becomes its reason.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Tuple, Type

import numpy as np
from rknnlite.api import RKNNLite

from ..errors import BackendUnavailable, InferenceFailed, ModelUnavailable, WorkerError
from ..spec import ModelSpec
from .base import check_options
from .overheard import overheard

MAGIC = b"RKNN"  # how every .rknn file begins
COLOURS = re.compile("\x1b\\[[0-9;]*m")
REASON = re.compile("error|fail|invalid|wrong", re.IGNORECASE)  # the line that says why is rarely the last one
CORES = ("NPU_CORE_0", "NPU_CORE_1", "NPU_CORE_2")

# What the runtime prints (in lower case) -> the kind of error, and what to do. The first row that fits counts.
SYMPTOMS: Tuple[Tuple[str, Type[WorkerError], str], ...] = (
    (
        "platform_unmatch",
        ModelUnavailable,
        "{file} was converted for another SoC: convert it for this one (target_platform, "
        "`edgesched model convert --board rk3588`)",
    ),
    (
        "invalid rknn model version",
        BackendUnavailable,
        "the librknnrt.so of this board is older than the toolkit that made {file}: install the one of that toolkit's "
        "version, or a newer one, into /usr/lib",
    ),
    (
        "device_unavailable",
        BackendUnavailable,
        "the NPU does not answer: this user needs read and write access to /dev/dri (or /dev/rknpu), and the kernel "
        "needs Rockchip's rknpu driver",
    ),
    (
        "failed to open rkn",
        BackendUnavailable,
        "the NPU cannot be opened: this user needs read and write access to /dev/dri (or /dev/rknpu), and the kernel "
        "needs Rockchip's rknpu driver",
    ),
    ("malloc_fail", ModelUnavailable, "there is too little memory for another copy of {file}: run fewer workers"),
    ("model_invalid", ModelUnavailable, "{file} is damaged: convert it again"),
    (
        "librknnrt.so",
        BackendUnavailable,
        "Rockchip's runtime is not there: install librknnrt.so (from the rknn-toolkit2 repository) into /usr/lib",
    ),
)


class RknnBackend:
    """One RKNNLite object, on the core that this worker's slot says; it has no options.

    Single cores give the most pictures per second: only convolutions and a few other operators gain from a second
    core (Rockchip's manual 04), while three objects run three pictures at once.
    """

    reads_pictures = True
    takes_files = False
    takes_batches = False

    def __init__(self) -> None:
        self._lite: Any = None

    def load(self, spec: ModelSpec) -> None:
        """Open the .rknn file on this worker's core, and run it once.

        Raises: ModelUnavailable if the file is missing, no RKNN file, made for another SoC, or wants another input
            than model.toml says; BackendUnavailable if runtime or driver are missing or too old.
        """
        check_options("rknn", spec.build.options)
        path = spec.existing_file()
        _check(spec, path)
        self._lite = RKNNLite()
        if self._lite.load_rknn(path) != 0:
            raise ModelUnavailable(f"RKNNLite cannot read {path}: check its permissions")
        core = getattr(RKNNLite, CORES[spec.slot % len(CORES)])
        started, text = overheard(lambda: self._lite.init_runtime(core_mask=core))
        if started != 0:
            raise _explained(f"start {path}", path, text)
        zeros = np.zeros(spec.build.input_shape, np.uint8)
        outputs, text = overheard(lambda: self._lite.inference(inputs=[zeros]))
        if outputs is None:
            size = f"{spec.build.input_width}x{spec.build.input_height}"
            raise _explained(f"run {path} with an input of {size}", path, text)

    def infer(self, batch: np.ndarray) -> List[np.ndarray]:
        """Run the session; see Backend. Outputs are float32, in the model's own (NCHW) shapes."""
        outputs = self._lite.inference(inputs=[batch])
        if outputs is None:
            raise InferenceFailed("RKNNLite could not run the model: the lines before this in the log say why")
        return list(outputs)

    def versions(self) -> Dict[str, str]:
        """Runtime and driver, as RKNNLite tells them."""
        told = self._lite.get_sdk_version() if self._lite is not None else None
        return {"rknnlite": " ".join(str(told).split())} if told else {}

    def close(self) -> None:
        """Release the session."""
        if self._lite is not None:
            self._lite.release()
            self._lite = None


def _check(spec: ModelSpec, path: str) -> None:
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelUnavailable(f"{path} is no RKNN file: convert the model for rk3588, and name that .rknn file")
    if (spec.build.layout, spec.build.dtype) != ("nhwc", "uint8"):
        raise ModelUnavailable(
            "an RKNN model takes pixels as they are and normalises them itself: in model.toml set layout to "
            '"nhwc" and dtype to "uint8", and leave out scale, mean and std'
        )


def _explained(what: str, path: str, text: str) -> WorkerError:
    """The error that the printed text speaks of."""
    heard = text.lower()
    for symptom, kind, advice in SYMPTOMS:
        if symptom in heard:
            return kind(advice.format(file=path))
    lines = [line.strip() for line in reversed(COLOURS.sub("", text).splitlines()) if line.strip()]
    last = next(filter(REASON.search, lines), lines[0] if lines else "it did not say why")
    return ModelUnavailable(f"RKNNLite cannot {what}: {last}")
