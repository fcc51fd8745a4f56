"""The few calls of the CUDA runtime that TensorRT needs, with exceptions instead of error codes."""

from __future__ import annotations

from typing import Any, List

try:
    from cuda.bindings import runtime as cudart
except ImportError:  # cuda-python before 12.8
    from cuda import cudart

from ..errors import BackendUnavailable, InferenceFailed


def open_gpu() -> str:
    """Choose the GPU; CUDA_VISIBLE_DEVICES says which, where there are several.

    Returns: its name. Raises: BackendUnavailable if no GPU answers.
    """
    try:
        _call("cudaSetDevice", 0)
        properties = _call("cudaGetDeviceProperties", 0)
    except InferenceFailed as error:
        raise BackendUnavailable(
            f"no NVIDIA GPU answers ({error}): check its driver, and that this user may use /dev/nvhost-gpu (group "
            "video) or /dev/nvidia0; a container needs --runtime nvidia"
        ) from error
    name = properties.name
    return (name.decode(errors="replace") if isinstance(name, bytes) else str(name)).rstrip("\0")


class Stream:
    """A queue of work on the GPU, with the memory that belongs to it. Nothing is done before `wait` has returned."""

    def __init__(self) -> None:
        self._stream = _call("cudaStreamCreate")
        self._pointers: List[int] = []

    @property
    def handle(self) -> int:
        """As TensorRT wants it."""
        return int(self._stream)

    def allocate(self, size_bytes: int) -> int:
        """Memory on the GPU. Returns: its address."""
        pointer = int(_call("cudaMalloc", max(1, size_bytes)))
        self._pointers.append(pointer)
        return pointer

    def copy_in(self, target: int, source: int, size_bytes: int) -> None:
        """Queue a copy from the host to the GPU; both as addresses."""
        self._copy(target, source, size_bytes, cudart.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def copy_out(self, target: int, source: int, size_bytes: int) -> None:
        """Queue a copy from the GPU to the host."""
        self._copy(target, source, size_bytes, cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def wait(self) -> None:
        """Until everything that was queued is done."""
        _call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """Free the memory and the stream; errors have nobody to go to any more."""
        for pointer in self._pointers:
            cudart.cudaFree(pointer)
        self._pointers = []
        if self._stream is not None:
            cudart.cudaStreamDestroy(self._stream)
            self._stream = None

    def _copy(self, target: int, source: int, size_bytes: int, kind: Any) -> None:
        _call("cudaMemcpyAsync", target, source, size_bytes, kind, self._stream)


def _call(name: str, *arguments: Any) -> Any:
    """Call the runtime. Returns: the one value besides the error code, if there is one. Raises: InferenceFailed."""
    error, *values = getattr(cudart, name)(*arguments)
    if error.name != "cudaSuccess":
        raise InferenceFailed(f"{name} gave {error.name}")
    return values[0] if values else None
