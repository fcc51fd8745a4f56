"""The backends that a model can be built for, one row each; only the chosen one is imported."""

from __future__ import annotations

import importlib
import sys
from typing import Mapping

from ..errors import BackendUnavailable, InvalidInput
from .base import Backend

BACKENDS: Mapping[str, str] = {  # name -> module:class, the module relative to this package
    "echo": ".echo:EchoBackend",
    "onnx": ".onnx:OnnxBackend",
}


def make_backend(name: str) -> Backend:
    """A new backend, not loaded yet.

    Raises: InvalidInput if no row has this name; BackendUnavailable if its vendor's package cannot be imported.
    """
    if name not in BACKENDS:
        raise InvalidInput(f"backend {name!r} is unknown: use one of {', '.join(sorted(BACKENDS))}")
    module_name, class_name = BACKENDS[name].split(":")
    try:
        module = importlib.import_module(module_name, __package__)
    except (ImportError, OSError) as error:  # OSError: the package is there, its driver's library is not
        package = getattr(error, "name", None) or "its driver"
        raise BackendUnavailable(
            f"backend {name!r} needs {package}, which {sys.executable} cannot import ({error}): "
            "install it for that interpreter, or name its directory in python_path"
        ) from error
    backend: Backend = getattr(module, class_name)()
    return backend
