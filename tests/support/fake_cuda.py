"""`cuda.bindings.runtime` (cuda-python) without a GPU, true to its rules: tuples with an error code in front, device
memory that the host cannot touch, and streams on which nothing has happened before they are synchronised.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

FIRST_ADDRESS = 0x7F00_0000_0000
GAP = 1 << 20  # between two allocations, so that an address that is off by a little belongs to nobody


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorLaunchFailure = 719


class Kind(enum.IntEnum):
    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class StreamHandle:
    """`cudaStream_t`: an object that knows its number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __int__(self) -> int:
        return self._number


class FakeGpu:
    """The GPU: its memory, its streams, and what was done against the rules."""

    def __init__(self, name: str = "Orin", memory_bytes: int = 1 << 30) -> None:
        self.name = name
        self.memory_bytes = memory_bytes
        self.has_driver = True
        self.broken_rules: list[str] = []
        self.memory: dict[int, bytearray] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self._next_address = FIRST_ADDRESS
        self._next_stream = 0x55_0000

    def modules(self, *, is_new: bool = True) -> dict[str, ModuleType | None]:
        """For sys.modules. is_new: as from cuda-python 12.8 on; else the old name."""
        runtime = ModuleType("cuda.bindings.runtime" if is_new else "cuda.cudart")
        for name in dir(self):
            if name.startswith("cuda"):
                setattr(runtime, name, getattr(self, name))
        runtime.cudaMemcpyKind = Kind  # type: ignore[attr-defined]
        package = ModuleType("cuda")
        package.__path__ = []  # a package, so that a missing part is an ImportError of its own
        if not is_new:
            package.cudart = runtime  # type: ignore[attr-defined]
            return {"cuda": package, "cuda.cudart": runtime, "cuda.bindings": None}
        bindings = ModuleType("cuda.bindings")
        bindings.runtime = runtime  # type: ignore[attr-defined]
        package.bindings = bindings  # type: ignore[attr-defined]
        return {"cuda": package, "cuda.bindings": bindings, "cuda.bindings.runtime": runtime}

    def check(self) -> None:
        """Fails the test if a rule was broken, or something was not given back."""
        assert not self.broken_rules, self.broken_rules
        assert not self.memory, f"memory was never freed: {list(map(len, self.memory.values()))} bytes"
        assert not self.streams, "a stream was never destroyed"

    def cudaSetDevice(self, device: int) -> tuple[Error]:
        return (Error.cudaSuccess if self.has_driver and device == 0 else Error.cudaErrorNoDevice,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Error, Any]:
        return Error.cudaSuccess, SimpleNamespace(name=self.name.encode() + b"\0", major=8, minor=7)

    def cudaStreamCreate(self) -> tuple[Error, StreamHandle]:
        self._next_stream += 0x100
        self.streams[self._next_stream] = []
        return Error.cudaSuccess, StreamHandle(self._next_stream)

    def cudaStreamDestroy(self, stream: StreamHandle) -> tuple[Error]:
        if self.streams.pop(int(stream), None):
            self.broken_rules.append("a stream was destroyed with work on it")
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: StreamHandle) -> tuple[Error]:
        for work in self.streams[int(stream)]:
            work()
        self.streams[int(stream)].clear()
        return (Error.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[Error, int]:
        if size + sum(map(len, self.memory.values())) > self.memory_bytes:
            return Error.cudaErrorMemoryAllocation, 0
        pointer = self._next_address
        self._next_address += size + GAP
        self.memory[pointer] = bytearray(b"\xcd" * size)  # never zeros by luck
        return Error.cudaSuccess, pointer

    def cudaFree(self, pointer: int) -> tuple[Error]:
        if pointer not in self.memory:
            self.broken_rules.append("memory was freed twice, or never existed")
            return (Error.cudaErrorInvalidValue,)
        if any(self.streams.values()):
            self.broken_rules.append("memory was freed while a stream had work")
        del self.memory[pointer]
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Kind, stream: StreamHandle) -> tuple[Error]:
        device, host = (target, source) if kind is Kind.cudaMemcpyHostToDevice else (source, target)
        memory = self.memory.get(device)
        if memory is None or len(memory) < size or host in self.memory:
            self.broken_rules.append("a copy from or to memory that is not there, or beyond its end")
            return (Error.cudaErrorInvalidValue,)
        is_in = kind is Kind.cudaMemcpyHostToDevice

        def copy() -> None:
            if is_in:
                memory[:size] = ctypes.string_at(host, size)
            else:
                ctypes.memmove(host, bytes(memory[:size]), size)

        self.streams[int(stream)].append(copy)
        return (Error.cudaSuccess,)
