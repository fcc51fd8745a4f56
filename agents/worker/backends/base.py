"""What every backend offers, and nothing more."""

from __future__ import annotations

from typing import Dict, List, Mapping, Protocol, Sequence

import numpy as np

from ..errors import InvalidInput
from ..spec import ModelSpec


class Backend(Protocol):
    """Runs one model on this worker's accelerator; two calls never overlap.

    reads_pictures: False for a backend that needs no input; its pictures are then not even decoded.
    takes_files: True for a backend whose batch is a picture's file as it came, uint8 (bytes,), and whose one output
        is finished boxes, float64 (n, 6): class id, confidence, x1, y1, x2, y2 in pixels of that picture. No decoder
        runs after it. A backend that does not say is one that takes the model's input.
    takes_batches: True for a backend that runs up to `max_batch` pictures at once; its outputs then have one row per
        picture. One that does not say takes one at a time.
    """

    reads_pictures: bool
    takes_files: bool
    takes_batches: bool

    def load(self, spec: ModelSpec) -> None:
        """Open the model's file. Raises: ModelUnavailable or BackendUnavailable with what to do about it.

        Whatever it raises, `close` is called next, and has to give back what was taken until then.
        """

    def infer(self, batch: np.ndarray) -> List[np.ndarray]:
        """Run one batch, in the build's shape and dtype; the caller reuses its memory afterwards.

        Returns: the model's outputs in its own order, as arrays that are the caller's to keep.
        Raises: InferenceFailed if the vendor's library reports an error.
        """

    def versions(self) -> Dict[str, str]:
        """The vendor's packages that this backend runs on, with their versions."""

    def close(self) -> None:
        """Give everything back; closing twice, or before `load`, is harmless."""


def check_options(name: str, options: Mapping[str, object], known: Sequence[str] = ()) -> None:
    """Raises: InvalidInput for an option in model.toml that the backend of this name does not have."""
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = f"it knows {', '.join(known)}" if known else "it has none"
        raise InvalidInput(f"backend {name!r} has no option {', '.join(unknown)}: {has}")
