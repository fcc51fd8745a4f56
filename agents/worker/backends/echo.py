"""A backend that does nothing, for measuring everything around inference."""

from __future__ import annotations

from typing import Dict, List

import numpy as np

from ..spec import ModelSpec


class EchoBackend:
    """Answers at once with no outputs; its models take the decoder "none" and need no file."""

    reads_pictures = False
    takes_files = False
    takes_batches = True

    def load(self, spec: ModelSpec) -> None:
        """Nothing to open."""

    def infer(self, batch: np.ndarray) -> List[np.ndarray]:
        """No outputs, whatever the batch is."""
        return []

    def versions(self) -> Dict[str, str]:
        """No package is involved."""
        return {}

    def close(self) -> None:
        """Nothing to give back."""
