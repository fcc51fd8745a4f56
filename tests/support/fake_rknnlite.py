"""`rknnlite.api` without a board, true to its rules: nothing raises, every failure is -1 or None and a printed line.

Source of the rules: rknnlite/api/rknn_lite.py of rknn-toolkit-lite2 2.5.0, and manual 04 of 2.3.2.
"""

from __future__ import annotations

import os
import threading
from types import ModuleType
from typing import Any

import numpy as np

from tests.support.vendor_files import RKNN_MAGIC, Graph, unpacked

TAKEN_TYPES = ("int8", "uint8", "int16", "float16", "float32")


class FakeNpu:
    """The board: what it has, and what was done to it against the rules."""

    def __init__(self, *, soc: str = "rk3588", newest_model: int = 6) -> None:
        self.soc = soc
        self.newest_model = newest_model
        self.trouble: str | None = None  # printed by init_runtime, which then fails
        self.fails_at: int | None = None  # the inference, counted from 1, that gives None
        self.masks: list[int] = []
        self.broken_rules: list[str] = []
        self._sessions: list[Any] = []

    def modules(self) -> dict[str, ModuleType]:
        """For sys.modules."""
        package, api = ModuleType("rknnlite"), ModuleType("rknnlite.api")
        npu = self

        class RKNNLite(_Session):
            def __init__(self, verbose: bool = False, verbose_file: str | None = None) -> None:
                super().__init__(npu)
                npu._sessions.append(self)

        api.RKNNLite = RKNNLite  # type: ignore[attr-defined]
        package.api = api  # type: ignore[attr-defined]
        return {"rknnlite": package, "rknnlite.api": api}

    def check(self) -> None:
        """Fails the test if a rule was broken, or a session is still open."""
        left = [session for session in self._sessions if session.is_started]
        assert not self.broken_rules, self.broken_rules
        assert not left, f"{len(left)} sessions were never released"


class _Session:
    NPU_CORE_AUTO = 0
    NPU_CORE_0 = 1
    NPU_CORE_1 = 2
    NPU_CORE_2 = 4
    NPU_CORE_0_1 = 3
    NPU_CORE_0_1_2 = 7
    NPU_CORE_ALL = 0xFFFF

    def __init__(self, npu: FakeNpu) -> None:
        self.is_started = False
        self._npu = npu
        self._content: bytes | None = None
        self._graph: Graph | None = None
        self._std = 1.0
        self._runs = 0
        self._running = threading.Lock()

    def load_rknn(self, path: str) -> int:
        try:
            with open(path, "rb") as file:
                self._content = file.read()  # whether it is a model shows in init_runtime
        except OSError:
            return _say("E load_rknn: Invalid RKNN model path", -1)
        return 0

    def init_runtime(
        self, target: Any = None, device_id: Any = None, async_mode: bool = False, core_mask: int = 0
    ) -> int:
        if self._content is None:
            self._npu.broken_rules.append("init_runtime before load_rknn")
            return -1
        if target is not None or async_mode:
            self._npu.broken_rules.append("init_runtime with a target or async_mode, which the board does not have")
            return -1
        if self._npu.trouble is not None:
            return _say(self._npu.trouble, -1)
        found = unpacked(RKNN_MAGIC, self._content)
        if found is None:
            return _say("E RKNN: rknn_init, load model failed! error code: RKNN_ERR_MODEL_INVALID", -1)
        facts, graph = found
        if facts["version"] > self._npu.newest_model:
            return _say(f"E RKNN: Invalid RKNN model version {facts['version']}", -1)
        if facts["soc"] != self._npu.soc:
            return _say("E RKNN: RKNN init failed. error code: RKNN_ERR_TARGET_PLATFORM_UNMATCH", -1)
        self._graph, self._std = Graph(graph), facts["std"]
        self._npu.masks.append(core_mask)
        self.is_started = True
        return 0

    def inference(
        self, inputs: Any, data_type: Any = None, data_format: Any = None, inputs_pass_through: Any = None
    ) -> list[np.ndarray] | None:
        if self._graph is None or not self.is_started:
            self._npu.broken_rules.append("inference outside of init_runtime .. release")
            return None
        if not self._running.acquire(blocking=False):
            self._npu.broken_rules.append("two inferences on one object at the same time")
            return None
        with_lock_held = self._run(self._graph, inputs)
        self._running.release()
        return with_lock_held

    def get_sdk_version(self) -> str | None:
        return "===\nRKNN VERSION:\n  API: librknn_api 2.5.0\n  DRV: rknpu 0.9.8\n===" if self.is_started else None

    def release(self) -> None:
        self.is_started = False
        self._graph = None

    def _run(self, graph: Graph, inputs: Any) -> list[np.ndarray] | None:
        self._runs += 1
        if self._runs == self._npu.fails_at:
            return _say("E RKNN: failed to submit!", None)
        if not isinstance(inputs, list) or not all(isinstance(item, np.ndarray) for item in inputs):
            return _say("E inference: Type of inputs[0] is not np.ndarray", None)
        (item,) = inputs
        if item.dtype.name not in TAKEN_TYPES:
            return _say(f"E inference: Unsupport inputs[0].dtype {item.dtype}", None)
        _, (_, channels, height, width), _ = graph.inputs[0]
        if item.shape != (1, height, width, channels):
            return _say("E inference: Size of inputs[0] is invalid", None)
        normal = np.ascontiguousarray(item.astype(np.float32).transpose(0, 3, 1, 2)) / np.float32(self._std)
        return [output.astype(np.float32) for output in graph.run(normal)]


def _say(line: str, answer: Any) -> Any:
    """Print as the C library does, past Python's sys.stdout."""
    os.write(1, line.encode() + b"\n")
    return answer
