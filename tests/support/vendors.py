"""Puts fake vendors' packages in place, and describes one graph to every backend in its own way."""

from __future__ import annotations

import json
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agents.worker import backends
from tests.support import label_program
from tests.support.fake_acl import FakeChips
from tests.support.fake_cuda import FakeGpu
from tests.support.fake_rknnlite import FakeNpu
from tests.support.fake_tensorrt import FakeTensorrt
from tests.support.vendor_files import write_om, write_rknn

PIXELS = {"layout": "nhwc", "dtype": "uint8", "scale": 1.0}


def install(monkeypatch: pytest.MonkeyPatch, modules: Mapping[str, ModuleType | None]) -> None:
    """Let `import` find these (None: find nothing), for backends that are imported from now on."""
    for found in pkgutil.iter_modules(backends.__path__, f"{backends.__name__}."):
        if not found.name.endswith((".base", ".overheard", ".engine_cache")):
            # Also one that was not imported yet: what is imported now knows the fake, and must go with it.
            monkeypatch.setitem(sys.modules, found.name, ModuleType(found.name))
            del sys.modules[found.name]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


@dataclass
class Bench:
    """A backend with its fake driver in place. spec: how the graph is described to it; checks: the drivers' rules."""

    spec: dict[str, Any]
    checks: list[Callable[[], None]] = field(default_factory=list)

    def check(self) -> None:
        for check in self.checks:
            check()


Changed = Callable[..., dict[str, Any]]


def bench(backend: str, graph: Path, described: Changed, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The graph, which takes float32 NCHW in 0..1, as a model of this backend.

    described: makes the description from a file's path and changes to it.
    """
    if backend == "acl":
        chips = FakeChips()
        install(monkeypatch, {"acl": chips.module()})
        return Bench(described(write_om(graph.with_suffix(".om"), graph), backend="acl"), [chips.check])
    if backend == "rknn":
        npu = FakeNpu()
        install(monkeypatch, npu.modules())
        rknn = write_rknn(graph.with_suffix(".rknn"), graph)
        return Bench(described(rknn, backend="rknn", **PIXELS), [npu.check])
    if backend == "tensorrt":
        gpu = FakeGpu()
        trt = FakeTensorrt(gpu)
        install(monkeypatch, {**trt.modules(), **gpu.modules()})
        return Bench(described(graph, backend="tensorrt"), [trt.check, gpu.check])
    if backend == "exec":
        return Bench(described(graph, backend="exec", options={"start_cmd": program_for(described(graph), graph)}))
    return Bench(described(graph, backend=backend))


def program_for(spec: dict[str, Any], graph: Path) -> str:
    """The command that labels pictures with the graph."""
    path = graph.with_suffix(".json")
    path.write_text(json.dumps(spec))
    return f"{sys.executable} {label_program.__file__} {path}"
