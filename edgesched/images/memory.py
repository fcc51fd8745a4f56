"""The image store in a dict: for tests. Nothing outlives it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import count

from edgesched.domain.task import ImageRef
from edgesched.errors import NotKnown, StorageFailed
from edgesched.images.base import NowMs, StoredImage


class MemoryImageStore:
    """ImageStore."""

    def __init__(self, *, now_ms: NowMs) -> None:
        self._now_ms = now_ms
        self._numbers = count(1)
        self._images: dict[ImageRef, tuple[bytes, int]] = {}  # picture, stored at

    async def put_many(self, images: Sequence[bytes]) -> Sequence[ImageRef]:
        refs = [ImageRef(f"memory-{next(self._numbers)}") for _ in images]
        self._images |= {ref: (image, self._now_ms()) for ref, image in zip(refs, images, strict=True)}
        return refs

    async def read(self, ref: ImageRef) -> bytes:
        if ref not in self._images:
            raise NotKnown(f"picture {ref} is not stored any more")
        return self._images[ref][0]

    async def release(self, refs: Collection[ImageRef]) -> None:
        for ref in refs:
            self._images.pop(ref, None)

    async def recover(self, live: Collection[ImageRef]) -> int:
        lost = [ref for ref in live if ref not in self._images]
        if lost:
            raise StorageFailed(f"{len(lost)} pictures that tasks need are not stored, the first is {lost[0]}")
        others = self._images.keys() - set(live)
        await self.release(others)
        return len(others)

    async def inventory(self) -> Sequence[StoredImage]:
        now_ms = self._now_ms()
        return [
            StoredImage(ref=ref, size_bytes=len(image), age_ms=max(0.0, float(now_ms - stored_at_ms)))
            for ref, (image, stored_at_ms) in self._images.items()
        ]
