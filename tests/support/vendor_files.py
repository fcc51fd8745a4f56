"""Model files for the fake vendors' libraries: a header like the vendor's, then the ONNX graph that it stands for.

The fakes run that graph with ONNX Runtime, so that what comes out is the true answer for what went in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

RKNN_MAGIC = b"RKNN"
OM_MAGIC = b"IMOD"
PLAN_MAGIC = b"ftrt"


def packed(magic: bytes, graph: bytes, **facts: Any) -> bytes:
    header = json.dumps(facts).encode()
    return magic + len(header).to_bytes(4, "little") + header + graph


def unpacked(magic: bytes, content: bytes) -> tuple[dict[str, Any], bytes] | None:
    """The facts and the graph; None if it is no such file, or a damaged one."""
    length = int.from_bytes(content[4:8], "little")
    if content[:4] != magic or len(content) <= 8 + length:
        return None
    try:
        return json.loads(content[8 : 8 + length]), content[8 + length :]
    except ValueError:
        return None


def write_rknn(path: Path, graph: Path, *, soc: str = "rk3588", version: int = 6, std: float = 255.0) -> Path:
    """A .rknn for a graph that takes float32 NCHW; mean 0 and this std are inside."""
    path.write_bytes(packed(RKNN_MAGIC, graph.read_bytes(), soc=soc, version=version, std=std))
    return path


def write_om(path: Path, graph: Path, *, soc: str = "Ascend310B4") -> Path:
    path.write_bytes(packed(OM_MAGIC, graph.read_bytes(), soc=soc))
    return path


def write_plan(path: Path, graph: Path, *, version: str, gpu: str) -> Path:
    path.write_bytes(packed(PLAN_MAGIC, graph.read_bytes(), version=version, gpu=gpu))
    return path


class Graph:
    """A graph with its description, as the vendors' libraries show it."""

    def __init__(self, content: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.inputs = [described(item) for item in self._session.get_inputs()]
        self.outputs = [described(item) for item in self._session.get_outputs()]

    def run(self, *values: np.ndarray) -> list[np.ndarray]:
        names = [name for name, _, _ in self.inputs]
        return list(self._session.run(None, dict(zip(names, values, strict=True))))


def described(item: Any) -> tuple[str, tuple[int, ...], np.dtype[Any]]:
    """Name, shape with -1 for what is open, and type."""
    kinds = {"float": "float32", "float16": "float16", "uint8": "uint8", "int64": "int64", "double": "float64"}
    shape = tuple(size if isinstance(size, int) else -1 for size in item.shape)
    return item.name, shape, np.dtype(kinds[item.type[len("tensor(") : -1]])
