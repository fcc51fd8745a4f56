"""`rknnlite.api` whose numbers come from the vendor's own simulator of the RK3588's NPU (rknn-toolkit2 on a PC).

The simulator does not open .rknn files: it only runs what it has just converted. So `load_rknn` converts the graph
again, in the way that the file was made. And rknn.api raises where RKNNLite on a board answers -1 or None; the board's
manners are kept here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rknn.api import RKNN

from edgesched.cli.convert_rknn import BROKEN_RULES


@dataclass(frozen=True)
class Recipe:
    """How a .rknn was made. dataset: the list of calibration pictures, None for 16-bit floats."""

    onnx: Path
    dataset: Path | None = None


def modules(recipes: Mapping[Path, Recipe]) -> dict[str, ModuleType]:
    """For sys.modules. recipes: by the path of the .rknn."""
    package, api = ModuleType("rknnlite"), ModuleType("rknnlite.api")

    class RKNNLite(_Session):
        def __init__(self, verbose: bool = False, verbose_file: str | None = None) -> None:
            super().__init__(recipes)

    api.RKNNLite = RKNNLite  # type: ignore[attr-defined]
    package.api = api  # type: ignore[attr-defined]
    return {"rknnlite": package, "rknnlite.api": api}


class _Session:
    NPU_CORE_0, NPU_CORE_1, NPU_CORE_2 = 1, 2, 4

    def __init__(self, recipes: Mapping[Path, Recipe]) -> None:
        self._recipes = recipes
        self._rknn: Any = None

    def load_rknn(self, path: str) -> int:
        recipe = self._recipes[Path(path)]
        rknn = RKNN(verbose=False)
        rknn.config(
            mean_values=[[0, 0, 0]],
            std_values=[[255, 255, 255]],
            target_platform="rk3588",
            disable_rules=BROKEN_RULES,
        )
        dataset = str(recipe.dataset) if recipe.dataset else None
        if rknn.load_onnx(model=str(recipe.onnx)) != 0 or rknn.build(bool(dataset), dataset=dataset) != 0:
            return -1
        self._rknn = rknn
        return 0

    def init_runtime(self, target: Any = None, core_mask: int = 0) -> int:
        return int(self._rknn.init_runtime(target=None))

    def inference(self, inputs: list[Any]) -> list[Any] | None:
        with contextlib.suppress(ValueError):  # on a board: a printed line, and None
            return list(self._rknn.inference(inputs=inputs, data_format=["nhwc"]))
        return None

    def get_sdk_version(self) -> None:
        return None  # the simulator has no driver to ask

    def release(self) -> None:
        if self._rknn is not None:
            self._rknn.release()
            self._rknn = None
