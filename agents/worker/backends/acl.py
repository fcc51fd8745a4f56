"""Huawei's Ascend chips through pyACL.

pyACL never raises: each call gives a return code, 0 for success. Here every other code becomes an exception.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Tuple

import acl
import numpy as np

from ..errors import BackendUnavailable, InferenceFailed, ModelUnavailable
from ..spec import ModelSpec
from .base import check_options

SUCCESS = 0
ALREADY_INITIALISED = 100002  # by another library in this process
OUT_OF_MEMORY = (200000, 207001)
HUGE_PAGES_FIRST = 0
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3
PROGRAM_RUNS_ON_HOST = 1  # the chip is on a card; else the program runs on the chip itself

DTYPES: Mapping[int, str] = {
    0: "float32",
    1: "float16",
    2: "int8",
    3: "int32",
    4: "uint8",
    6: "int16",
    7: "uint16",
    8: "uint32",
    9: "int64",
    10: "uint64",
    11: "float64",
    12: "bool",
}

CODES: Mapping[int, str] = {
    100000: "invalid parameter",
    100003: "invalid file",
    100011: "invalid model id",
    100016: "the model lacks an attribute",
    100017: "the input does not match the model",
    100018: "the output does not match the model",
    107002: "no context in this thread",
    200000: "out of memory",
    200001: "not supported by this chip",
    200002: "no such device",
    207001: "out of memory on the chip",
    500000: "internal error",
    500002: "graph engine failure",
    500003: "runtime failure",
    500004: "driver failure",
}


class Chip:
    """This process's one context on one chip, which all of its models share; the last one gives it back."""

    def __init__(self) -> None:
        self._users = 0
        self._context = 0
        self._undo = ExitStack()
        self.is_card = False

    def enter(self, slot: int) -> None:
        """One more model. With several chips on a card, the workers' slots spread over them.

        Raises: BackendUnavailable if there is no chip that this user may use.
        """
        if self._users == 0:
            try:
                self._start(slot)
            except BackendUnavailable:
                self._undo.close()
                raise
        self._users += 1

    def attach(self) -> None:
        """Make the context the calling thread's own: pyACL keeps one per thread."""
        _expect(acl.rt.set_context(self._context), "enter its context")

    def leave(self) -> None:
        """One model less."""
        self._users -= 1
        if self._users == 0:
            self._undo.close()

    def _start(self, slot: int) -> None:
        code = acl.init()
        if code not in (SUCCESS, ALREADY_INITIALISED):
            raise _no_chip("acl.init", code)
        if code == SUCCESS:
            self._undo.callback(acl.finalize)
        count, code = acl.rt.get_device_count()
        if code != SUCCESS or count < 1:
            raise _no_chip("acl.rt.get_device_count", code)
        number = slot % count
        code = acl.rt.set_device(number)
        if code != SUCCESS:
            raise _no_chip(f"acl.rt.set_device({number})", code)
        self._undo.callback(acl.rt.reset_device, number)
        self._context, code = acl.rt.create_context(number)
        if code != SUCCESS:
            raise _no_chip("acl.rt.create_context", code)
        self._undo.callback(acl.rt.destroy_context, self._context)
        mode, code = acl.rt.get_run_mode()
        if code != SUCCESS:
            raise _no_chip("acl.rt.get_run_mode", code)
        self.is_card = mode == PROGRAM_RUNS_ON_HOST


CHIP = Chip()


@dataclass(frozen=True)
class Tensor:
    """One input or output of a model, and its memory on the chip."""

    name: str
    shape: Tuple[int, ...]
    dtype: str
    pointer: int
    size_bytes: int


class AclBackend:
    """One .om model: loaded once, with buffers that every picture uses again. It has no options."""

    reads_pictures = True
    takes_files = False
    takes_batches = False

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._model_id = 0
        self._input: Any = None
        self._outputs: List[Tensor] = []
        self._datasets: Tuple[Any, Any] = (None, None)

    def load(self, spec: ModelSpec) -> None:
        """Open the .om file and allocate its memory.

        Raises: ModelUnavailable if the file is missing, was made for another chip, or wants another input than
            model.toml says; BackendUnavailable if no chip answers.
        """
        check_options("acl", spec.build.options)
        path = spec.existing_file()
        CHIP.enter(spec.slot)
        self._undo.callback(CHIP.leave)
        try:
            self._open(spec, path)
        except InferenceFailed as error:
            raise ModelUnavailable(str(error)) from error

    def infer(self, batch: np.ndarray) -> List[np.ndarray]:
        """Copy in, run, copy out; see Backend. The synchronous call needs no stream of its own."""
        CHIP.attach()
        there, back = (HOST_TO_DEVICE, DEVICE_TO_HOST) if CHIP.is_card else (DEVICE_TO_DEVICE, DEVICE_TO_DEVICE)
        target = self._input
        if batch.nbytes != target.size_bytes:  # pyACL would run it, and give wrong numbers
            raise InferenceFailed(f"the input has {batch.nbytes} bytes, the model takes {target.size_bytes}")
        pixels = np.ascontiguousarray(batch)
        code = acl.rt.memcpy(target.pointer, target.size_bytes, pixels.ctypes.data, pixels.nbytes, there)
        _expect(code, "copy the input to the chip")
        _expect(acl.mdl.execute(self._model_id, *self._datasets), "run the model")
        outputs = []
        for tensor in self._outputs:
            output: np.ndarray = np.empty(tensor.shape, tensor.dtype)
            code = acl.rt.memcpy(output.ctypes.data, output.nbytes, tensor.pointer, tensor.size_bytes, back)
            _expect(code, f"copy output {tensor.name!r} from the chip")
            outputs.append(output)
        return outputs

    def versions(self) -> Dict[str, str]:
        """pyACL tells no version, only which chip it found."""
        name = _chip_name()
        return {"ascend_chip": name} if name else {}

    def close(self) -> None:
        """Free the memory, unload the model, and leave the chip if this was the last model on it."""
        if self._input is not None:
            with suppress(InferenceFailed):  # what follows is then refused too, and there is nobody to tell
                CHIP.attach()
        self._input, self._outputs = None, []
        self._undo.close()

    def _open(self, spec: ModelSpec, path: str) -> None:
        CHIP.attach()
        description = acl.mdl.create_desc()
        self._undo.callback(acl.mdl.destroy_desc, description)
        self._model_id, code = acl.mdl.load_from_file(path)
        if code != SUCCESS:
            raise _not_loaded(path, code)
        self._undo.callback(acl.mdl.unload, self._model_id)
        _expect(acl.mdl.get_desc(description, self._model_id), f"read what {path} looks like")
        inputs, given = self._allocate(description, "input", path)
        _check_input(inputs, spec, path)
        self._input = inputs[0]
        self._outputs, taken = self._allocate(description, "output", path)
        self._datasets = (given, taken)

    def _allocate(self, description: Any, kind: str, path: str) -> Tuple[List[Tensor], Any]:
        """Memory for all inputs or all outputs, and the dataset that holds them."""
        dataset = acl.mdl.create_dataset()
        self._undo.callback(acl.mdl.destroy_dataset, dataset)
        tensors = []
        for index in range(getattr(acl.mdl, f"get_num_{kind}s")(description)):
            size = getattr(acl.mdl, f"get_{kind}_size_by_index")(description, index)
            dims, code = getattr(acl.mdl, f"get_{kind}_dims")(description, index)
            _expect(code, f"read the shape of {kind} {index} of {path}")
            number = getattr(acl.mdl, f"get_{kind}_data_type")(description, index)
            if number not in DTYPES:
                raise ModelUnavailable(f"{kind} {index} of {path} is of type {number}, which numpy does not have")
            shape, dtype = tuple(dims["dims"]), DTYPES[number]
            # With AIPP an input has fewer bytes than its shape says; an output never has.
            is_whole = kind == "input" or math.prod(shape) * np.dtype(dtype).itemsize == size
            if size < 1 or min(shape, default=1) < 1 or not is_whole:
                raise ModelUnavailable(
                    f"{kind} {index} of {path} is {dtype} of shape {shape}, {size} bytes: convert the model with fixed "
                    "shapes and a batch of 1"
                )
            pointer, code = acl.rt.malloc(size, HUGE_PAGES_FIRST)
            _expect(code, f"allocate {size} bytes for {kind} {index} of {path}")
            self._undo.callback(acl.rt.free, pointer)
            buffer = acl.create_data_buffer(pointer, size)
            self._undo.callback(acl.destroy_data_buffer, buffer)
            _, code = acl.mdl.add_dataset_buffer(dataset, buffer)
            _expect(code, f"add {kind} {index} of {path} to its dataset")
            tensors.append(Tensor(dims["name"], shape, dtype, pointer, size))
        return tensors, dataset


def _check_input(inputs: List[Tensor], spec: ModelSpec, path: str) -> None:
    """Raises: ModelUnavailable if model.toml describes another input. With AIPP the shape's order is the camera's,
    not the model's, so for uint8 the bytes are compared and not the order."""
    if len(inputs) != 1:
        names = ", ".join(tensor.name for tensor in inputs)
        raise ModelUnavailable(
            f"{path} has {len(inputs)} inputs ({names}): convert it with one, with a fixed batch and static AIPP"
        )
    wanted, found = spec.build.input_shape, inputs[0]
    has_shape = found.shape == wanted or spec.build.dtype == "uint8"
    size = math.prod(wanted) * np.dtype(spec.build.dtype).itemsize
    if not has_shape or found.dtype != spec.build.dtype or found.size_bytes != size:
        raise ModelUnavailable(
            f"{path} takes {found.dtype} of shape {found.shape}, {found.size_bytes} bytes, but model.toml describes "
            f"{spec.build.dtype} of shape {wanted}, {size} bytes: correct input_width, input_height, layout or dtype"
        )


def _expect(code: int, what: str) -> None:
    if code != SUCCESS:
        raise InferenceFailed(f"the Ascend chip could not {what}: {_named(code)}")


def _named(code: int) -> str:
    return f"error {code}, {CODES[code]}" if code in CODES else f"error {code}"


def _no_chip(call: str, code: int) -> BackendUnavailable:
    return BackendUnavailable(
        f"no Ascend chip answers ({call}: {_named(code)}): check that `npu-smi info` shows it, that this user is in "
        "the group HwHiAiUser, and that driver, firmware and CANN fit each other"
    )


def _not_loaded(path: str, code: int) -> ModelUnavailable:
    if code in OUT_OF_MEMORY:
        return ModelUnavailable(f"the chip has too little memory for {path}: run fewer workers")
    chip = _chip_name() or "Ascend310B4 or whichever this is"
    return ModelUnavailable(
        f"the chip cannot load {path} ({_named(code)}): was it made for another chip, or by a newer CANN? Convert it "
        f"with --soc_version={chip} and this board's CANN"
    )


def _chip_name() -> str:
    """Like Ascend310B4; empty where this pyACL cannot tell."""
    tell = getattr(acl, "get_soc_name", None)
    return str(tell() or "") if tell is not None else ""
