"""ONNX Runtime: every board's CPU, and whatever provider its own build of the package has."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np
import onnxruntime

from ..errors import BackendUnavailable, InvalidInput, ModelUnavailable
from ..spec import ModelSpec

DTYPE_NAMES = {"float32": "tensor(float)", "float16": "tensor(float16)", "uint8": "tensor(uint8)"}
ERRORS_ONLY = 3  # ONNX Runtime's log severity


class OnnxBackend:
    """One session per model. `build.options` may hold `providers`, a list; the CPU's is the default."""

    reads_pictures = True

    def __init__(self) -> None:
        self._session: Any = None
        self._input_name = ""

    def load(self, spec: ModelSpec) -> None:
        """Open the .onnx file.

        Raises: InvalidInput for an unknown option; ModelUnavailable if the file is missing, is no ONNX graph that
            this version reads, or wants another input than model.toml says; BackendUnavailable if a provider that is
            asked for is not there.
        """
        providers = _providers(spec.build.options)
        path = spec.existing_file()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = spec.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = ERRORS_ONLY
        try:
            session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # noqa: BLE001 - its exceptions have no common base but Exception
            raise ModelUnavailable(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}") from error
        refused = [name for name in providers if name not in session.get_providers()]
        if refused:  # it falls back to the CPU without an error
            raise BackendUnavailable(f"ONNX Runtime could not start {', '.join(refused)}: check the board's driver")
        self._input_name = _matching_input(session.get_inputs(), spec, path)
        self._session = session

    def infer(self, batch: np.ndarray) -> List[np.ndarray]:
        """Run the session; see Backend."""
        outputs: List[np.ndarray] = self._session.run(None, {self._input_name: batch})
        return outputs

    def versions(self) -> Dict[str, str]:
        """ONNX Runtime's own."""
        return {"onnxruntime": onnxruntime.__version__}

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def _providers(options: Any) -> List[str]:
    unknown = sorted(set(options) - {"providers"})
    if unknown:
        raise InvalidInput(f"backend 'onnx' has no option {', '.join(unknown)}: it knows providers")
    providers = list(options.get("providers", ["CPUExecutionProvider"]))
    available = onnxruntime.get_available_providers()
    missing = [name for name in providers if name not in available]
    if missing:
        raise BackendUnavailable(
            f"this onnxruntime has no {', '.join(missing)}, only {', '.join(available)}: "
            "install the vendor's build of onnxruntime, or ask for another provider"
        )
    return providers


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
    name: str = inputs[0].name
    return name
