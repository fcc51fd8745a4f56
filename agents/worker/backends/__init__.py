"""The backends that a model can be built for, one row each; only the chosen one is imported."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Mapping

from ..errors import BackendUnavailable, InvalidInput

if TYPE_CHECKING:
    from .base import Backend

BACKENDS: Mapping[str, str] = {  # name -> module:class, the module relative to this package
    "acl": ".acl:AclBackend",
    "echo": ".echo:EchoBackend",
    "exec": ".programs:ExecBackend",
    "onnx": ".onnx:OnnxBackend",
    "rknn": ".rknn:RknnBackend",
    "tensorrt": ".tensorrt:TensorrtBackend",
}

SOURCES: Mapping[str, str] = {  # what a backend imports -> where it comes from, if not from a package of that name
    "acl": "acl (pyACL, a part of Huawei's CANN; the agent also needs the environment that CANN's set_env.sh sets)",
    "cuda": "cuda (the package cuda-python)",
    "rknnlite": "rknnlite (the package rknn-toolkit-lite2)",
    "tensorrt": "tensorrt (on a Jetson the apt package python3-libnvinfer, and an environment that was made with "
    "--system-site-packages)",
}


def make_backend(name: str, plugin: str = "") -> Backend:
    """A new backend, not loaded yet.

    plugin: module:class of another package's backend, for a name that no row has.
    Raises: InvalidInput if no row has this name; BackendUnavailable if its vendor's package cannot be imported.
    """
    if name not in BACKENDS and not plugin:
        raise InvalidInput(
            f"backend {name!r} is unknown: use one of {', '.join(sorted(BACKENDS))}, or install the package that "
            "brings it beside the agent"
        )
    module_name, _, class_name = BACKENDS.get(name, plugin).partition(":")
    try:
        module = importlib.import_module(module_name, __package__)
    except (ImportError, OSError) as error:  # OSError: the package is there, its driver's library is not
        package = (getattr(error, "name", None) or "its driver").split(".")[0]
        raise BackendUnavailable(
            f"backend {name!r} needs {SOURCES.get(package, package)}, which {sys.executable} cannot import ({error}): "
            "install it for that interpreter, or name its directory in python_path"
        ) from error
    backend: Backend = getattr(module, class_name)()
    return backend
