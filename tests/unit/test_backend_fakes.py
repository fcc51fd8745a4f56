"""The fakes of the vendors' libraries tell on whoever breaks a rule; else tests that use them would prove little."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.fake_acl import NO_CONTEXT, FakeChips
from tests.support.fake_cuda import FakeGpu, Kind
from tests.support.fake_rknnlite import FakeNpu
from tests.support.fake_tensorrt import FakeTensorrt
from tests.support.graphs import channel_means_graph
from tests.support.vendor_files import write_om, write_plan, write_rknn

PIXELS = np.zeros((1, 64, 64, 3), np.uint8)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return channel_means_graph(tmp_path / "means.onnx")


# --- rknnlite ---


def lite(npu: FakeNpu, graph: Path) -> Any:
    made = npu.modules()["rknnlite.api"].RKNNLite()
    made.load_rknn(str(write_rknn(graph.with_suffix(".rknn"), graph)))
    return made


def test_rknnlite_tells_of_an_inference_before_init_and_after_release(graph: Path) -> None:
    npu = FakeNpu()
    made = lite(npu, graph)
    assert made.inference(inputs=[PIXELS]) is None
    assert made.init_runtime() == 0
    assert made.inference(inputs=[PIXELS]) is not None
    made.release()
    assert made.inference(inputs=[PIXELS]) is None
    with pytest.raises(AssertionError, match="inference outside of init_runtime"):
        npu.check()


def test_rknnlite_tells_of_a_session_that_was_never_released(graph: Path) -> None:
    npu = FakeNpu()
    lite(npu, graph).init_runtime()
    with pytest.raises(AssertionError, match="1 sessions were never released"):
        npu.check()


def test_rknnlite_refuses_inputs_without_an_exception(graph: Path) -> None:
    made = lite(FakeNpu(), graph)
    made.init_runtime()
    for inputs in (PIXELS, [PIXELS.tolist()], [PIXELS.astype(np.float64)], [PIXELS[:, :32]]):
        assert made.inference(inputs=inputs) is None


# --- acl ---


def opened(chips: FakeChips, graph: Path) -> tuple[Any, int, int]:
    """pyACL with one model loaded: the module, the context and the model."""
    acl = chips.module()
    assert (acl.init(), acl.rt.set_device(0)) == (0, 0)
    context, _ = acl.rt.create_context(0)
    model, code = acl.mdl.load_from_file(str(write_om(graph.with_suffix(".om"), graph)))
    assert code == 0
    return acl, context, model


def in_a_new_thread(call: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join(30)
    return results[0]


def test_acl_wants_a_context_in_every_thread(graph: Path) -> None:
    chips = FakeChips()
    acl, _, model = opened(chips, graph)
    assert in_a_new_thread(lambda: acl.mdl.execute(model, 0, 0)) == NO_CONTEXT
    with pytest.raises(AssertionError, match="execute in another context than load"):
        chips.check()


def test_acl_wants_the_context_of_the_load(graph: Path) -> None:
    chips = FakeChips()
    acl, _, model = opened(chips, graph)
    acl.rt.create_context(0)
    assert acl.mdl.execute(model, 0, 0) == NO_CONTEXT
    assert chips.broken_rules


@pytest.mark.parametrize(
    ("target_size", "size", "kind", "rule"),
    [(64, 64, 2, "memory that is not there"), (64, 65, 1, "more than fits"), (65, 64, 1, "beyond the end")],
)
def test_acl_watches_over_its_memory(graph: Path, target_size: int, size: int, kind: int, rule: str) -> None:
    chips = FakeChips()
    acl, _, _ = opened(chips, graph)
    pointer, _ = acl.rt.malloc(64, 0)
    source = np.zeros(100, np.uint8)
    assert acl.rt.memcpy(pointer, target_size, source.ctypes.data, size, kind) != 0
    with pytest.raises(AssertionError, match=rule):
        chips.check()


def test_acl_wants_everything_back_in_order(graph: Path) -> None:
    chips = FakeChips()
    acl, context, model = opened(chips, graph)
    with pytest.raises(AssertionError, match="never given back"):
        chips.check()
    acl.rt.destroy_context(context)
    with pytest.raises(AssertionError, match="destroy_context before its models were unloaded"):
        chips.check()
    acl.mdl.unload(model)
    assert acl.rt.free(12345) != 0


# --- cuda and tensorrt ---


def test_cuda_does_nothing_before_the_stream_is_waited_for() -> None:
    gpu = FakeGpu()
    _, stream = gpu.cudaStreamCreate()
    _, pointer = gpu.cudaMalloc(4)
    there, back = np.array([1, 2, 3, 4], np.uint8), np.zeros(4, np.uint8)
    gpu.cudaMemcpyAsync(pointer, there.ctypes.data, 4, Kind.cudaMemcpyHostToDevice, stream)
    gpu.cudaMemcpyAsync(back.ctypes.data, pointer, 4, Kind.cudaMemcpyDeviceToHost, stream)
    assert back.tolist() == [0, 0, 0, 0]
    gpu.cudaStreamSynchronize(stream)
    assert back.tolist() == [1, 2, 3, 4]
    with pytest.raises(AssertionError, match="memory was never freed"):
        gpu.check()


def test_cuda_tells_of_memory_that_is_not_there_and_of_work_that_was_dropped() -> None:
    gpu = FakeGpu()
    _, stream = gpu.cudaStreamCreate()
    _, pointer = gpu.cudaMalloc(4)
    host = np.zeros(8, np.uint8)
    assert gpu.cudaMemcpyAsync(pointer, host.ctypes.data, 8, Kind.cudaMemcpyHostToDevice, stream)[0] != 0
    assert gpu.cudaMemcpyAsync(pointer + 1, host.ctypes.data, 1, Kind.cudaMemcpyHostToDevice, stream)[0] != 0
    gpu.cudaMemcpyAsync(pointer, host.ctypes.data, 4, Kind.cudaMemcpyHostToDevice, stream)
    gpu.cudaFree(pointer)
    gpu.cudaStreamDestroy(stream)
    assert len(gpu.broken_rules) == 4


def test_tensorrt_tells_of_a_run_without_memory(graph: Path) -> None:
    gpu = FakeGpu()
    owner = FakeTensorrt(gpu)
    trt = owner.modules()["tensorrt"]
    plan = write_plan(graph.with_suffix(".engine"), graph, version=owner.version, gpu=gpu.name).read_bytes()
    context = trt.Runtime(trt.ILogger()).deserialize_cuda_engine(plan).create_execution_context()
    _, stream = gpu.cudaStreamCreate()
    assert not context.execute_async_v3(int(stream))
    with pytest.raises(AssertionError, match="has no shape, no memory, or too little"):
        owner.check()


def test_each_tensorrt_has_the_calls_of_its_version_only(graph: Path) -> None:
    has = {}
    for version in ("8.6.1", "10.3.0", "11.4.0"):
        trt = FakeTensorrt(FakeGpu(), version).modules()["tensorrt"]
        flags = trt.NetworkDefinitionCreationFlag
        has[version] = (hasattr(flags, "EXPLICIT_BATCH"), hasattr(trt.BuilderFlag, "FP16"))
    assert has == {"8.6.1": (True, True), "10.3.0": (True, True), "11.4.0": (False, False)}
