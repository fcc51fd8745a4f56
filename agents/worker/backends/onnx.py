"""ONNX Runtime: every board's CPU, and whatever provider its own build of the package has."""

from __future__ import annotations

import os
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import onnxruntime

from ..errors import BackendUnavailable, InferenceFailed, InvalidInput, ModelUnavailable, WorkerError
from ..spec import ModelSpec
from .base import check_options
from .overheard import overheard

DTYPE_NAMES = {"float32": "tensor(float)", "float16": "tensor(float16)", "uint8": "tensor(uint8)"}
ERRORS_ONLY = 3  # ONNX Runtime's log severity
CPU = "CPUExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
MISSING_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file")

NEEDS: Mapping[str, str] = {  # provider -> what a board that lists it may still lack
    "CANNExecutionProvider": "CANN's libraries (source its set_env.sh before the agent starts) and the Ascend driver",
    "CUDAExecutionProvider": "CUDA and cuDNN in the versions that this onnxruntime was built for, and the driver",
    TENSORRT: "TensorRT in the version that this onnxruntime was built for, and the driver",
}


class OnnxBackend:
    """One session per model.

    `build.options` may hold `providers`, a list of names, the best one first (default: the CPU's), and
    `provider_options`, a table of options per provider. The first provider must really be used. If the CPU's is not
    on the list, the whole graph must run on the others; if it is, it may take the operators that they lack.
    """

    reads_pictures = True
    takes_files = False
    takes_batches = True

    def __init__(self) -> None:
        self._session: Any = None
        self._input_name = ""

    def load(self, spec: ModelSpec) -> None:
        """Open the .onnx file.

        Raises: InvalidInput for an unknown option; ModelUnavailable if the file is missing, is no ONNX graph that
            this version reads, or wants another input than model.toml says; BackendUnavailable if a provider that is
            asked for is not there, or does not start.
        """
        providers = _providers(spec)
        path = spec.existing_file()
        names = [name for name, _ in providers]
        options = _session_options(spec, names)
        if names[0] == CPU:
            (session, error), text = _started(path, options, providers), ""
        else:
            (session, error), text = overheard(lambda: _started(path, options, providers))
        if error is not None:
            if names[0] != CPU and not _reads(path):
                names = [CPU]  # the graph itself is at fault
            raise _not_started(path, names, str(error), text) from error
        if session.get_providers()[0] != names[0]:  # some providers fall back all the same
            raise _not_started(path, names, f"it fell back to {session.get_providers()[0]}", text)
        self._input_name = _matching_input(session.get_inputs(), spec, path)
        self._session = session

    def infer(self, batch: np.ndarray) -> List[np.ndarray]:
        """Run the session; see Backend."""
        try:
            outputs: List[np.ndarray] = self._session.run(None, {self._input_name: batch})
        except Exception as error:  # noqa: BLE001 - as above
            raise InferenceFailed(f"ONNX Runtime could not run the model: {error}") from error
        return outputs

    def versions(self) -> Dict[str, str]:
        """ONNX Runtime's own."""
        return {"onnxruntime": onnxruntime.__version__}

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def _session_options(spec: ModelSpec, names: Sequence[str]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = ERRORS_ONLY
    if CPU not in names:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _providers(spec: ModelSpec) -> List[Tuple[str, Dict[str, Any]]]:
    """Names with their options, as ONNX Runtime takes them."""
    options = spec.build.options
    check_options("onnx", options, ("providers", "provider_options"))
    names = list(options.get("providers", [CPU]))
    more = dict(options.get("provider_options", {}))
    if not names:
        raise InvalidInput(f"providers names none: leave it out to use {CPU}")
    stray = sorted(set(more) - set(names))
    if stray:
        raise InvalidInput(f"provider_options speaks of {', '.join(stray)}, which is not in providers")
    available = onnxruntime.get_available_providers()
    missing = [name for name in names if name not in available]
    if missing:
        raise BackendUnavailable(
            f"this onnxruntime has no {', '.join(missing)}, only {', '.join(available)}: "
            "install the vendor's build of onnxruntime, or ask for another provider"
        )
    return [(name, {**_own_options(name, spec), **more.get(name, {})}) for name in names]


def _own_options(name: str, spec: ModelSpec) -> Dict[str, Any]:
    """TensorRT builds an engine in minutes; keep it, so that this happens once per board and not at every start."""
    if name != TENSORRT:
        return {}
    directory = os.path.join(spec.cache_dir, "onnxruntime-tensorrt")
    os.makedirs(directory, exist_ok=True)
    return {
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": directory,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": directory,
    }


def _started(path: str, options: Any, providers: Sequence[Any]) -> Tuple[Any, Optional[Exception]]:
    """A session, or why there is none. Without enable_fallback=0 it would try again on the CPU, and only print so."""
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0), None
    except Exception as error:  # noqa: BLE001 - its exceptions have no common base but Exception
        return None, error


def _reads(path: str) -> bool:
    """Whether the CPU can load the graph."""
    try:
        onnxruntime.InferenceSession(path, providers=[CPU])
    except Exception:  # noqa: BLE001 - as above
        return False
    return True


def _not_started(path: str, names: Sequence[str], why: str, text: str) -> WorkerError:
    """text: what was printed meanwhile, where alone it says which library is missing."""
    version, first = onnxruntime.__version__, names[0]
    why = " ".join(why.split())
    if first == CPU:
        return ModelUnavailable(f"ONNX Runtime {version} cannot load {path}: {why}")
    library = MISSING_LIBRARY.search(f"{text} {why}")
    if library is not None:
        why = f"{library.group(1)} is missing"
    elif "assigned to the default CPU EP" in why:
        why += f"; it may be that only some operators are missing: add {CPU} to providers to run those on the CPU"
    needs = f"it needs {NEEDS[first]}" if first in NEEDS else "check the board's driver"
    return BackendUnavailable(f"ONNX Runtime {version} could not start {first}: {needs} ({why})")


def _matching_input(inputs: Sequence[Any], spec: ModelSpec, path: str) -> str:
    """The name of the one input; ModelUnavailable if it is not what model.toml says. Open dimensions fit anything."""
    if len(inputs) != 1:
        raise ModelUnavailable(f"{path} has {len(inputs)} inputs: a model must have one, the picture")
    wanted, wanted_type = spec.build.input_shape, DTYPE_NAMES[spec.build.dtype]
    shape = tuple(inputs[0].shape)
    fits = len(shape) == len(wanted) and all(
        not isinstance(size, int) or size == wanted[axis] for axis, size in enumerate(shape)
    )
    if not fits or inputs[0].type != wanted_type:
        raise ModelUnavailable(
            f"{path} takes {inputs[0].type} of shape {shape}, but model.toml describes {wanted_type} of shape "
            f"{wanted}: correct input_width, input_height, layout or dtype"
        )
    if spec.build.max_batch > 1 and isinstance(shape[0], int):
        raise ModelUnavailable(
            f"{path} takes one picture at a time: export it with an open batch dimension, or leave out max_batch"
        )
    name: str = inputs[0].name
    return name
