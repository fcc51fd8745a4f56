"""`onnxruntime` as a board's vendor builds it: the real one, with providers that list themselves and may not start.

What happens then is as it was observed with onnxruntime-gpu and onnxruntime-cann on a machine without their drivers.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import onnxruntime

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
CANN = "CANNExecutionProvider"


class FakeOrt:
    """starts: the providers that have their driver. sessions: providers with options, and settings, of each session."""

    def __init__(self, *providers: str, starts: tuple[str, ...] = (), takes_all: bool = True) -> None:
        self.providers = [*providers, CPU]
        self.starts = {*starts, CPU}
        self.takes_all = takes_all  # whether they have every operator of the graph
        self.sessions: list[tuple[dict[str, dict[str, Any]], Any]] = []

    def module(self) -> ModuleType:
        """For sys.modules."""
        made = ModuleType("onnxruntime")
        for name in ("SessionOptions", "ExecutionMode", "__version__"):
            setattr(made, name, getattr(onnxruntime, name))
        made.get_available_providers = lambda: self.providers  # type: ignore[attr-defined]
        made.InferenceSession = lambda *given, **named: _Session(self, *given, **named)  # type: ignore[attr-defined]
        return made


class _Session:
    def __init__(
        self, ort: FakeOrt, path: str, options: Any = None, *, providers: list[Any], enable_fallback: int = 1
    ) -> None:
        asked = dict(item if isinstance(item, tuple) else (item, {}) for item in providers)
        ort.sessions.append((asked, options))
        real = onnxruntime.SessionOptions()
        real.log_severity_level = 4
        self._real = onnxruntime.InferenceSession(path, real, providers=[CPU])
        dead = [name for name in asked if name not in ort.starts]
        if {TENSORRT, CANN} & set(dead):
            if not enable_fallback:
                raise RuntimeError(f"{dead[0]}: libnvinfer.so.10: cannot open shared object file")
            print("*************** EP Error ***************")
            dead = list(asked)
        if CUDA in dead:
            os.write(2, b"Failed to load library: libcublasLt.so.13: cannot open shared object file\n")
        left = [name for name in asked if name not in dead]
        uses_cpu = not left or not ort.takes_all
        if uses_cpu and options is not None and CPU not in asked and _forbids_cpu(options):
            raise RuntimeError(
                "This session contains graph nodes that are assigned to the default CPU EP, but fallback"
            )
        self._providers = [*left, *([] if CPU in left else [CPU])]

    def get_providers(self) -> list[str]:
        return self._providers

    def get_inputs(self) -> Any:
        return self._real.get_inputs()

    def run(self, names: Any, feeds: Any) -> Any:
        return self._real.run(names, feeds)


def _forbids_cpu(options: Any) -> bool:
    try:
        return bool(options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1")
    except RuntimeError:  # it was never set
        return False
