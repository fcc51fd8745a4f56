"""`tensorrt` without a GPU, true to its rules: None and False instead of exceptions, reasons only in the logger,
engines tied to a version and a GPU, and for each version only the calls that it has.
"""

from __future__ import annotations

import enum
import threading
from types import ModuleType
from typing import Any

import numpy as np

from tests.support.fake_cuda import FakeGpu
from tests.support.vendor_files import PLAN_MAGIC, Graph, packed, unpacked

OLDEST_WITHOUT_BINDINGS = 10  # the major version that dropped the calls by binding number
OLDEST_STRONGLY_TYPED = 11  # the one that dropped EXPLICIT_BATCH and BuilderFlag.FP16


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        self.is_initialised = True


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class FakeTensorrt:
    """One installed version of TensorRT. builds: how many engines it has built."""

    def __init__(self, gpu: FakeGpu, version: str = "10.3.0") -> None:
        self.gpu = gpu
        self.version = version
        self.major = int(version.split(".")[0])
        self.builds: list[dict[str, Any]] = []
        self.nptype_is_broken = False  # as in 8.5 with a numpy that has no np.bool
        self.builder_fails: str | None = None
        self.execute_fails = False
        self.broken_rules: list[str] = []

    def modules(self) -> dict[str, ModuleType]:
        """For sys.modules."""
        made = ModuleType("tensorrt")
        flags = {"STRONGLY_TYPED": 1} if self.major >= 10 else {}
        if self.major < OLDEST_STRONGLY_TYPED:
            flags["EXPLICIT_BATCH"] = 0
        options = {} if self.major >= OLDEST_STRONGLY_TYPED else {"FP16": 0, "INT8": 1}
        names = {
            "__version__": self.version,
            "ILogger": ILogger,
            "TensorIOMode": TensorIOMode,
            "MemoryPoolType": MemoryPoolType,
            "NetworkDefinitionCreationFlag": enum.IntEnum("NetworkDefinitionCreationFlag", flags),
            "BuilderFlag": enum.IntEnum("BuilderFlag", {**options, "TF32": 7}),
            "Runtime": lambda logger: Runtime(self, logger),
            "Builder": lambda logger: Builder(self, logger),
            "OnnxParser": Parser,
            "nptype": self._nptype,
        }
        for name, thing in names.items():
            setattr(made, name, thing)
        return {"tensorrt": made}

    def check(self) -> None:
        """Fails the test if a rule was broken."""
        assert not self.broken_rules, self.broken_rules

    def _nptype(self, dtype: np.dtype[Any]) -> type:
        if self.nptype_is_broken:
            raise AttributeError("module 'numpy' has no attribute 'bool'")
        return dtype.type


def _logger(logger: Any) -> Any:
    if not isinstance(logger, ILogger) or not getattr(logger, "is_initialised", False):
        raise TypeError("incompatible constructor arguments: a logger is needed")
    return logger


class Runtime:
    def __init__(self, owner: FakeTensorrt, logger: Any) -> None:
        self._owner = owner
        self._logger = _logger(logger)

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        found = unpacked(PLAN_MAGIC, plan)
        if found is None:
            self._logger.log(Severity.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magicTag)")
            return None
        facts, graph = found
        if (facts["version"], facts["gpu"]) != (self._owner.version, self._owner.gpu.name):
            told = "The engine plan file is not compatible with this version of TensorRT. Please rebuild."
            self._logger.log(Severity.ERROR, told)
            return None
        return Engine(self._owner, self._logger, Graph(graph), facts.get("most", {}))


class Engine:
    """most: the largest shape of each open input that its profile allows."""

    def __init__(self, owner: FakeTensorrt, logger: Any, graph: Graph, most: dict[str, list[int]]) -> None:
        self.owner, self.logger, self.graph, self.most = owner, logger, graph, most
        self._tensors = {name: (shape, dtype) for name, shape, dtype in (*graph.inputs, *graph.outputs)}
        self._inputs = {name for name, _, _ in graph.inputs}
        if owner.major < OLDEST_WITHOUT_BINDINGS:
            self.num_bindings = len(self._tensors)

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name][0]

    def get_tensor_dtype(self, name: str) -> np.dtype[Any]:
        return self._tensors[name][1]

    def create_execution_context(self) -> ExecutionContext | None:
        return ExecutionContext(self)


class ExecutionContext:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._owner = engine.owner
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._running = threading.Lock()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        wanted, most = self._engine.get_tensor_shape(name), self._engine.most.get(name, shape)
        if any(size not in (-1, given) for size, given in zip(wanted, shape, strict=True)):
            return False
        if any(given > limit for given, limit in zip(shape, most, strict=True)):
            told = f"IExecutionContext::setInputShape: Error Code 3: {shape} does not satisfy any optimization profiles"
            self._engine.logger.log(Severity.ERROR, told)
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = self._shapes.get(name) or self._engine.get_tensor_shape(name)
        if shape[:1] == (-1,) and self._shapes:  # an output: one row per picture
            (given,) = self._shapes.values()
            return (given[0], *shape[1:])
        return shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        if not isinstance(address, int):
            raise TypeError("an address must be an int")
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not isinstance(stream_handle, int):
            raise TypeError("a stream handle must be an int")
        if not self._running.acquire(blocking=False):
            self._owner.broken_rules.append("a context ran twice at the same time")
        try:
            return self._enqueue(stream_handle)
        finally:
            self._running.release()

    def _enqueue(self, stream_handle: int) -> bool:
        engine, gpu = self._engine, self._owner.gpu
        if self._owner.execute_fails:
            engine.logger.log(Severity.ERROR, "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (launch)")
            return False
        memories = {}
        for name, _, dtype in (*engine.graph.inputs, *engine.graph.outputs):
            memory = gpu.memory.get(self._addresses.get(name, 0))
            shape = self.get_tensor_shape(name)
            if memory is None or -1 in shape or len(memory) < int(np.prod(shape)) * dtype.itemsize:
                self._owner.broken_rules.append(f"tensor {name!r} has no shape, no memory, or too little")
                return False
            memories[name] = memory

        def run() -> None:
            values = [
                np.frombuffer(memories[name], dtype)[: int(np.prod(self.get_tensor_shape(name)))].reshape(
                    self.get_tensor_shape(name)
                )
                for name, _, dtype in engine.graph.inputs
            ]
            for (name, _, _), output in zip(engine.graph.outputs, engine.graph.run(*values), strict=True):
                memories[name][: output.nbytes] = output.tobytes()

        gpu.streams[stream_handle].append(run)
        return True


class Builder:
    def __init__(self, owner: FakeTensorrt, logger: Any) -> None:
        self._owner, self._logger = owner, _logger(logger)
        if not owner.gpu.has_driver:
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> Network:
        if self._owner.major < OLDEST_WITHOUT_BINDINGS and not flags & 1:
            self._owner.broken_rules.append("before version 10 an ONNX network needs EXPLICIT_BATCH")
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        if self._owner.builder_fails is not None:
            self._logger.log(Severity.ERROR, self._owner.builder_fails)
            return None
        open_names = {tensor.name for tensor in network.tensors if -1 in tensor.shape}
        shapes = {name: shape for profile in config.profiles for name, shape in profile.shapes.items()}
        if not open_names <= set(shapes):
            self._logger.log(Severity.ERROR, "Network has dynamic or shape inputs, but no optimization profile")
            return None
        self._owner.builds.append({"flags": config.flags, "shapes": shapes, "workspace": config.workspace})
        facts = {"version": self._owner.version, "gpu": self._owner.gpu.name, "most": shapes}
        return packed(PLAN_MAGIC, network.content, **facts)


class NetworkTensor:
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape


class Network:
    def __init__(self) -> None:
        self.content = b""
        self.tensors: list[NetworkTensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self.tensors)

    def get_input(self, index: int) -> NetworkTensor:
        return self.tensors[index]


class Parser:
    def __init__(self, network: Network, logger: Any) -> None:
        self._network = network
        self.num_errors = 0
        _logger(logger)

    def parse(self, content: bytes) -> bool:
        try:
            graph = Graph(content)
        except Exception:  # noqa: BLE001 - ONNX Runtime's exceptions have no common base
            self.num_errors = 1
            return False
        self._network.content = content
        self._network.tensors = [NetworkTensor(name, shape) for name, shape, _ in graph.inputs]
        return True

    def get_error(self, index: int) -> str:
        return "Failed to parse ONNX model from buffer"


class Config:
    def __init__(self) -> None:
        self.flags: list[str] = []
        self.profiles: list[Profile] = []
        self.workspace = 0

    def set_flag(self, flag: Any) -> None:
        self.flags.append(flag.name)

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self.workspace = size

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_shape(self, name: str, least: Any, best: Any, most: Any) -> None:
        assert all(a <= b <= c for a, b, c in zip(least, best, most, strict=True)), "a profile's shapes must rise"
        self.shapes[name] = tuple(most)
