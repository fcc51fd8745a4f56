"""`edgesched draw`: pictures to try a cluster with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100_000, help="How many pictures.")] = 60,
    directory: Annotated[Path, typer.Option("--dir", "-D", metavar="DIR", help="Where to write them.")] = Path(
        "workspace/client/pictures"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed draws the same pictures.")] = 10_000,
) -> None:
    """Draw pictures of shapes that the built-in model knows, and write them as JPEG files."""
    from rich.progress import track

    from edgesched.demo.pictures import draw_pictures
    from edgesched.process import fail

    try:
        directory.mkdir(parents=True, exist_ok=True)
        for picture in track(draw_pictures(count, seed), total=count, description="drawing"):
            (directory / picture.file_name).write_bytes(picture.jpeg)
    except OSError as error:
        fail(f"--dir {directory}: cannot be written: {error.strerror}")
    print(f"{count} pictures are in {directory}")
