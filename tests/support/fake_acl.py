"""`acl` (pyACL) without a chip, true to its rules: return codes instead of exceptions, a context per thread, memory
of exact sizes, and everything given back in order.

Source of the rules: Ascend/samples python/common/acllite, and the pyACL guide of CANN 8.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.support.vendor_files import OM_MAGIC, Graph, unpacked

OK, INVALID_PARAM, NOT_INITIALISED, INITIALISED_AGAIN = 0, 100000, 100001, 100002
INVALID_FILE, FINALISED_AGAIN, INPUT_NOT_MATCH, NO_CONTEXT, BAD_ALLOC = 100003, 100037, 100017, 107002, 200000
DRIVER_FAILURE, GRAPH_ENGINE_FAILURE = 500004, 500002
TYPES = {"float32": 0, "float16": 1, "int8": 2, "int32": 3, "uint8": 4, "int64": 9, "float64": 11}
CARD, ON_CHIP = 1, 0
KINDS = {1: ("host", "device"), 2: ("device", "host"), 3: ("device", "device")}


class FakeChips:
    """The chips: what they have, what is open on them, and what was done against the rules."""

    def __init__(self, *, soc: str = "Ascend310B4", count: int = 1, run_mode: int = CARD) -> None:
        self.soc = soc
        self.count = count
        self.run_mode = run_mode
        self.memory_bytes = 1 << 30
        self.init_code = OK
        self.execute_code = OK
        self.devices: list[int] = []
        self.broken_rules: list[str] = []
        self.open: dict[str, dict[int, Any]] = {
            kind: {} for kind in ("init", "device", "context", "model", "description", "dataset", "buffer", "memory")
        }
        self._numbers = itertools.count(1000)
        self._thread = threading.local()

    def module(self) -> ModuleType:
        """For sys.modules."""
        made = ModuleType("acl")
        made.rt = SimpleNamespace(**_calls(self, "rt_"))  # type: ignore[attr-defined]
        made.mdl = SimpleNamespace(**_calls(self, "mdl_"))  # type: ignore[attr-defined]
        for name, call in _calls(self, "acl_").items():
            setattr(made, name, call)
        return made

    def check(self) -> None:
        """Fails the test if a rule was broken, or something was not given back."""
        assert not self.broken_rules, self.broken_rules
        left = {kind: list(things) for kind, things in self.open.items() if things}
        assert not left, f"never given back: {left}"

    # --- acl ---

    def acl_init(self, config: str | None = None) -> int:
        if self.init_code != OK:
            return self.init_code
        if self.open["init"]:
            return INITIALISED_AGAIN
        self.open["init"][1] = True
        return OK

    def acl_finalize(self) -> int:
        if not self.open["init"]:
            return FINALISED_AGAIN
        self._expect(not self.open["device"], "finalize before reset_device")
        self.open["init"].clear()
        return OK

    def acl_get_soc_name(self) -> str:
        return self.soc

    def acl_create_data_buffer(self, pointer: int, size: int) -> int:
        memory = self.open["memory"].get(pointer)
        self._expect(memory is not None and len(memory) == size, "a data buffer over memory of another size")
        return self._new("buffer", (pointer, size))

    def acl_destroy_data_buffer(self, buffer: int) -> int:
        return self._drop("buffer", buffer)

    # --- acl.rt ---

    def rt_get_device_count(self) -> tuple[int, int]:
        return (self.count, OK) if self.open["init"] else (0, NOT_INITIALISED)

    def rt_set_device(self, device: int) -> int:
        if not self.open["init"]:
            return self._refuse("set_device before init", NOT_INITIALISED)
        if device >= self.count:
            return INVALID_PARAM
        self.open["device"][device] = True
        self.devices.append(device)
        return OK

    def rt_reset_device(self, device: int) -> int:
        for kind in ("memory", "context", "model"):
            self._expect(not self.open[kind], f"reset_device before its {kind} was given back")
        return self._drop("device", device)

    def rt_create_context(self, device: int) -> tuple[int, int]:
        if device not in self.open["device"]:
            return 0, self._refuse("create_context before set_device", INVALID_PARAM)
        self._thread.context = self._new("context", device)
        return self._thread.context, OK

    def rt_set_context(self, context: int) -> int:
        if context not in self.open["context"]:
            return self._refuse("set_context with what is no context", INVALID_PARAM)
        self._thread.context = context
        return OK

    def rt_destroy_context(self, context: int) -> int:
        self._expect(not self.open["model"], "destroy_context before its models were unloaded")
        return self._drop("context", context)

    def rt_get_run_mode(self) -> tuple[int, int]:
        return self.run_mode, OK

    def rt_malloc(self, size: int, policy: int) -> tuple[int, int]:
        if self._context() is None:
            return 0, self._refuse("malloc in a thread without a context", NO_CONTEXT)
        if policy not in (0, 1, 2) or size <= 0:
            return 0, self._refuse("malloc with an unknown policy or no size", INVALID_PARAM)
        if size + sum(map(len, self.open["memory"].values())) > self.memory_bytes:
            return 0, BAD_ALLOC
        memory = (ctypes.c_char * size)()
        pointer = ctypes.addressof(memory)
        self.open["memory"][pointer] = memory
        return pointer, OK

    def rt_free(self, pointer: int) -> int:
        in_use = any(pointer == held for held, _ in self.open["buffer"].values())
        self._expect(not in_use, "free before destroy_data_buffer")
        return self._drop("memory", pointer)

    def rt_memcpy(self, target: int, target_size: int, source: int, size: int, kind: int) -> int:
        if self._context() is None:
            return self._refuse("memcpy in a thread without a context", NO_CONTEXT)
        places = KINDS.get(kind, ("", ""))
        for pointer, place, length in ((source, places[0], size), (target, places[1], target_size)):
            memory = self.open["memory"].get(pointer)
            if self.run_mode == CARD and place != ("host" if memory is None else "device"):
                return self._refuse(f"memcpy of kind {kind} with memory that is not there", INVALID_PARAM)
            if memory is not None and length > len(memory):
                return self._refuse("memcpy beyond the end of the chip's memory", INVALID_PARAM)
        if self.run_mode == ON_CHIP and kind != 3:
            return self._refuse("on the chip itself every memcpy is from device to device", INVALID_PARAM)
        if size > target_size:
            return self._refuse("memcpy of more than fits", INVALID_PARAM)
        ctypes.memmove(target, source, size)
        return OK

    # --- acl.mdl ---

    def mdl_load_from_file(self, path: str) -> tuple[int, int]:
        context = self._context()
        if context is None:
            return 0, self._refuse("load_from_file in a thread without a context", NO_CONTEXT)
        with open(path, "rb") as file:
            found = unpacked(OM_MAGIC, file.read())
        if found is None:
            return 0, INVALID_FILE
        facts, graph = found
        if facts["soc"] != self.soc:
            return 0, GRAPH_ENGINE_FAILURE
        return self._new("model", (Graph(graph), context)), OK

    def mdl_unload(self, model: int) -> int:
        if model in self.open["model"] and self._context() != self.open["model"][model][1]:
            return self._refuse("unload in another context than load", NO_CONTEXT)
        return self._drop("model", model)

    def mdl_create_desc(self) -> int:
        return self._new("description", None)

    def mdl_get_desc(self, description: int, model: int) -> int:
        if description not in self.open["description"] or model not in self.open["model"]:
            return self._refuse("get_desc of what is not loaded", INVALID_PARAM)
        self.open["description"][description] = self.open["model"][model][0]
        return OK

    def mdl_destroy_desc(self, description: int) -> int:
        return self._drop("description", description)

    def mdl_get_num_inputs(self, description: int) -> int:
        return len(self._sides(description, "input"))

    def mdl_get_num_outputs(self, description: int) -> int:
        return len(self._sides(description, "output"))

    def mdl_get_input_size_by_index(self, description: int, index: int) -> int:
        return _size(self._sides(description, "input")[index])

    def mdl_get_output_size_by_index(self, description: int, index: int) -> int:
        return _size(self._sides(description, "output")[index])

    def mdl_get_input_dims(self, description: int, index: int) -> tuple[dict[str, Any], int]:
        return _dims(self._sides(description, "input")[index]), OK

    def mdl_get_output_dims(self, description: int, index: int) -> tuple[dict[str, Any], int]:
        return _dims(self._sides(description, "output")[index]), OK

    def mdl_get_input_data_type(self, description: int, index: int) -> int:
        return TYPES[self._sides(description, "input")[index][2].name]

    def mdl_get_output_data_type(self, description: int, index: int) -> int:
        return TYPES[self._sides(description, "output")[index][2].name]

    def mdl_create_dataset(self) -> int:
        return self._new("dataset", [])

    def mdl_destroy_dataset(self, dataset: int) -> int:
        return self._drop("dataset", dataset)

    def mdl_add_dataset_buffer(self, dataset: int, buffer: int) -> tuple[int, int]:
        if dataset not in self.open["dataset"] or buffer not in self.open["buffer"]:
            return 0, self._refuse("add_dataset_buffer with what does not exist", INVALID_PARAM)
        self.open["dataset"][dataset].append(buffer)
        return dataset, OK

    def mdl_execute(self, model: int, given: int, taken: int) -> int:
        if model not in self.open["model"]:
            return self._refuse("execute of what is not loaded", INVALID_PARAM)
        graph, context = self.open["model"][model]
        if self._context() != context:
            return self._refuse("execute in another context than load", NO_CONTEXT)
        if self.execute_code != OK:
            return self.execute_code
        values = []
        for (name, shape, dtype), memory in zip(graph.inputs, self._memories(given), strict=True):
            if len(memory) != int(np.prod(shape)) * dtype.itemsize:
                return self._refuse(f"execute with an input {name!r} of another size", INPUT_NOT_MATCH)
            values.append(np.frombuffer(memory, dtype).reshape(shape))
        for output, memory in zip(graph.run(*values), self._memories(taken), strict=True):
            ctypes.memmove(memory, output.tobytes(), output.nbytes)
        return OK

    # --- inside ---

    def _context(self) -> int | None:
        context = getattr(self._thread, "context", None)
        return context if context in self.open["context"] else None

    def _sides(self, description: int, side: str) -> Any:
        graph = self.open["description"].get(description)
        assert graph is not None, "a question about a model whose description was not read"
        return graph.inputs if side == "input" else graph.outputs

    def _memories(self, dataset: int) -> list[Any]:
        buffers = self.open["dataset"][dataset]
        return [self.open["memory"][self.open["buffer"][buffer][0]] for buffer in buffers]

    def _new(self, kind: str, thing: Any) -> int:
        number = next(self._numbers)
        self.open[kind][number] = thing
        return number

    def _drop(self, kind: str, number: int) -> int:
        if number not in self.open[kind]:
            return self._refuse(f"a {kind} was given back twice, or never existed", INVALID_PARAM)
        del self.open[kind][number]
        return OK

    def _expect(self, holds: bool, rule: str) -> None:
        if not holds:
            self.broken_rules.append(rule)

    def _refuse(self, rule: str, code: int) -> int:
        self.broken_rules.append(rule)
        return code


def _calls(chips: FakeChips, prefix: str) -> dict[str, Callable[..., Any]]:
    return {name[len(prefix) :]: getattr(chips, name) for name in dir(chips) if name.startswith(prefix)}


def _size(side: tuple[str, tuple[int, ...], Any]) -> int:
    return max(0, int(np.prod(side[1]))) * int(side[2].itemsize)


def _dims(side: tuple[str, tuple[int, ...], Any]) -> dict[str, Any]:
    return {"name": side[0], "dimCount": len(side[1]), "dims": list(side[1])}
