"""NVIDIA's TensorRT, by the name-based calls that versions 8.5 to 11 have in common.

An engine only runs on the kind of GPU and with the version of TensorRT that built it. So the usual file is the ONNX
graph: the engine is built from it on the board, once. TensorRT answers None or False and logs why; here that is an
exception with the logged text in it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

import numpy as np
import tensorrt as trt

from ..errors import BackendUnavailable, InferenceFailed, ModelUnavailable
from ..spec import ModelSpec
from .base import check_options
from .cuda import Stream, open_gpu
from .engine_cache import EngineCache

WORKSPACE_BYTES = 1 << 30  # for tactics while building; a Jetson shares its memory with everything else
MAX_TOLD = 3  # lines of TensorRT's log in a message


class Log(trt.ILogger):  # type: ignore[misc]
    """Writes warnings and errors to stderr, which is the daemon's log, and keeps errors for the exception."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: List[str] = []

    def log(self, severity: Any, msg: str) -> None:
        """TensorRT calls this."""
        is_error = severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
        if is_error:
            self._errors.append(msg.strip())
        if is_error or severity == trt.ILogger.Severity.WARNING:
            print(f"TensorRT: {msg}", file=sys.stderr)

    def told(self) -> str:
        """The last errors, which are then forgotten."""
        errors, self._errors = self._errors[-MAX_TOLD:], []
        return "; ".join(errors) or "it did not say why"


@dataclass(frozen=True)
class Tensor:
    """One input or output of the engine, and its memory on the GPU, which is enough for the largest batch."""

    name: str
    dtype: Any
    pointer: int


class TensorrtBackend:
    """One engine, one execution context, one stream. `build.options` may hold `fp16`, true unless told otherwise.

    fp16: let TensorRT up to 10 choose half precision when it builds from ONNX; from 11 on the graph itself decides.
    """

    reads_pictures = True
    takes_files = False
    takes_batches = True

    def __init__(self) -> None:
        self._log = Log()
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._input: Any = None
        self._outputs: List[Tensor] = []
        self._input_shape: Tuple[int, ...] = ()  # that the context is set to

    def load(self, spec: ModelSpec) -> None:
        """Open the engine, or build it from the .onnx file if this board has not done so before (minutes).

        Raises: ModelUnavailable if the file is missing, cannot be built, was built elsewhere, or wants another input
            than model.toml says; BackendUnavailable if no GPU answers.
        """
        check_options("tensorrt", spec.build.options, ("fp16",))
        path = spec.existing_file()
        gpu = open_gpu()
        self._runtime = trt.Runtime(self._log)
        try:
            self._engine = self._built(spec, path, gpu) if path.endswith(".onnx") else self._read(path)
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise ModelUnavailable(f"TensorRT has no room to run {path}: {self._log.told()}")
            self._stream = Stream()
            self._attach(spec, path)
        except InferenceFailed as error:
            raise ModelUnavailable(f"{path} cannot be run: {error}") from error

    def infer(self, batch: np.ndarray) -> List[np.ndarray]:
        """Queue copy in, run and copy out, then wait; see Backend."""
        pixels = np.ascontiguousarray(batch, self._input.dtype)
        if pixels.shape != self._input_shape:
            self._set_input_shape(pixels.shape)
        outputs: List[np.ndarray] = [
            np.empty(tuple(self._context.get_tensor_shape(tensor.name)), tensor.dtype) for tensor in self._outputs
        ]
        try:
            self._stream.copy_in(self._input.pointer, pixels.ctypes.data, pixels.nbytes)
            if not self._context.execute_async_v3(self._stream.handle):
                raise InferenceFailed(f"TensorRT could not run the engine: {self._log.told()}")
            for index, tensor in enumerate(self._outputs):
                self._stream.copy_out(outputs[index].ctypes.data, tensor.pointer, outputs[index].nbytes)
        finally:
            self._stream.wait()  # until then the GPU uses the memory of input and outputs
        return outputs

    def versions(self) -> Dict[str, str]:
        """TensorRT's own."""
        return {"tensorrt": str(trt.__version__)}

    def close(self) -> None:
        """Give back memory and stream, then context, engine and runtime, which need each other in this order."""
        if self._stream is not None:
            self._stream.close()
        self._stream = self._input = None
        self._outputs = []
        self._context = None
        self._engine = None
        self._runtime = None

    def _built(self, spec: ModelSpec, path: str, gpu: str) -> Any:
        wants_half = bool(spec.build.options.get("fp16", True)) and hasattr(trt.BuilderFlag, "FP16")
        shape = "x".join(map(str, spec.build.batch_shape(spec.build.max_batch)))
        facts = (f"trt{trt.__version__}", gpu, "fp16" if wants_half else "as-is", shape)
        cache = EngineCache(spec.cache_dir, path, *facts)
        with cache.locked():
            plan = cache.read()
            engine = None if plan is None else self._runtime.deserialize_cuda_engine(plan)
            if engine is None:  # none yet, or a damaged one
                plan = self._build(spec, path, wants_half)
                cache.write(plan)
                engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ModelUnavailable(f"TensorRT cannot open what it built from {path}: {self._log.told()}")
        return engine

    def _build(self, spec: ModelSpec, path: str, wants_half: bool) -> bytes:
        builder = _builder(self._log)
        explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)  # gone in 11: always so
        network = builder.create_network(0 if explicit is None else 1 << int(explicit))
        parser = trt.OnnxParser(network, self._log)
        with open(path, "rb") as file:
            graph = file.read()
        if not parser.parse(graph):
            told = "; ".join(str(parser.get_error(i)) for i in range(min(parser.num_errors, MAX_TOLD)))
            raise ModelUnavailable(f"TensorRT {trt.__version__} cannot read {path}: {told or self._log.told()}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
        if wants_half:
            config.set_flag(trt.BuilderFlag.FP16)
        profile = builder.create_optimization_profile()
        open_inputs = [tensor for tensor in map(network.get_input, range(network.num_inputs)) if -1 in tensor.shape]
        for tensor in open_inputs:
            largest = spec.build.batch_shape(spec.build.max_batch)
            profile.set_shape(tensor.name, spec.build.input_shape, largest, largest)  # least, best, most
        if open_inputs:
            config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ModelUnavailable(f"TensorRT {trt.__version__} cannot build {path}: {self._log.told()}")
        return bytes(plan)

    def _read(self, path: str) -> Any:
        with open(path, "rb") as file:
            engine = self._runtime.deserialize_cuda_engine(_without_header(file.read()))
        if engine is None:
            raise ModelUnavailable(
                f"{path} is an engine of another GPU or another TensorRT than {trt.__version__} ({self._log.told()}): "
                "name the .onnx file instead, then this board builds its own"
            )
        return engine

    def _attach(self, spec: ModelSpec, path: str) -> None:
        """Give every tensor its memory, and check that the one input is what model.toml says."""
        engine, context = self._engine, self._context
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        if len(inputs) != 1:
            raise ModelUnavailable(f"{path} has {len(inputs)} inputs: a model must have one, the picture")
        shape, dtype = tuple(engine.get_tensor_shape(inputs[0])), _numpy_type(engine, inputs[0])
        wanted = spec.build.input_shape
        fits = len(shape) == len(wanted) and all(size in (-1, wanted[axis]) for axis, size in enumerate(shape))
        if not fits or dtype != np.dtype(spec.build.dtype):
            raise ModelUnavailable(
                f"{path} takes {dtype} of shape {shape}, but model.toml describes {spec.build.dtype} of shape "
                f"{wanted}: correct input_width, input_height, layout or dtype"
            )
        most = spec.build.max_batch
        if most > 1 and shape[0] != -1:
            raise ModelUnavailable(
                f"{path} takes one picture at a time: export the graph with an open batch dimension, or leave out "
                "max_batch"
            )
        largest = spec.build.batch_shape(most)
        if -1 in shape and not context.set_input_shape(inputs[0], largest):
            hint = f": build the engine for batches of {most}, or lower max_batch" if most > 1 else ""
            raise ModelUnavailable(f"{path} does not take shape {largest}: {self._log.told()}{hint}")
        self._input_shape = largest
        self._input = self._given_memory(inputs[0], largest)
        for name in names:
            if name not in inputs:
                self._outputs.append(self._given_memory(name, tuple(context.get_tensor_shape(name))))

    def _set_input_shape(self, shape: Tuple[int, ...]) -> None:
        if not self._context.set_input_shape(self._input.name, shape):
            raise InferenceFailed(f"the engine does not take an input of shape {shape}: {self._log.told()}")
        self._input_shape = shape

    def _given_memory(self, name: str, shape: Tuple[int, ...]) -> Tensor:
        if -1 in shape:
            raise ModelUnavailable(f"output {name!r} has no fixed shape ({shape}): export the model without NMS inside")
        dtype = _numpy_type(self._engine, name)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        pointer = self._stream.allocate(size)
        if not self._context.set_tensor_address(name, pointer):
            raise InferenceFailed(f"TensorRT refuses the memory for {name!r}: {self._log.told()}")
        return Tensor(name, dtype, pointer)


def _builder(log: Log) -> Any:
    try:
        return trt.Builder(log)
    except TypeError as error:  # so it says that the driver is missing
        raise BackendUnavailable(
            f"TensorRT {trt.__version__} cannot start its builder ({log.told()}): check the NVIDIA driver"
        ) from error


def _numpy_type(engine: Any, name: str) -> Any:
    try:
        return np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
    except AttributeError as error:  # TensorRT 8.5 still asks for np.bool
        raise BackendUnavailable(
            f"TensorRT {trt.__version__} needs an older numpy than {np.__version__}: install 'numpy<1.24' for this "
            "interpreter"
        ) from error


def _without_header(plan: bytes) -> bytes:
    """Ultralytics puts its own header, a length and JSON, in front of the engine."""
    length = int.from_bytes(plan[:4], "little")
    if plan[4:5] == b"{" and 4 + length < len(plan):
        try:
            json.loads(plan[4 : 4 + length].decode())
        except ValueError:
            return plan
        return plan[4 + length :]
    return plan
