"""What every backend offers, and nothing more."""

from __future__ import annotations

from typing import Dict, List, Protocol

import numpy as np

from ..spec import ModelSpec


class Backend(Protocol):
    """Runs one model on this worker's accelerator; two calls never overlap.

    reads_pictures: False for a backend that needs no input; its pictures are then not even decoded.
    """

    reads_pictures: bool

    def load(self, spec: ModelSpec) -> None:
        """Open the model's file. Raises: ModelUnavailable or BackendUnavailable with what to do about it."""

    def infer(self, batch: np.ndarray) -> List[np.ndarray]:
        """Run one batch, in the build's shape and dtype, batch of one; the caller reuses its memory afterwards.

        Returns: the model's outputs in its own order, as arrays that are the caller's to keep.
        """

    def versions(self) -> Dict[str, str]:
        """The vendor's packages that this backend runs on, with their versions."""

    def close(self) -> None:
        """Give everything back; closing twice, or before `load`, is harmless."""
