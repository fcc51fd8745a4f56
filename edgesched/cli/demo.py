"""`edgesched demo`: the whole main job on one machine, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesched.cli import options

DEMO_SEED = 10_000  # the training script never draws with it


def command(
    pictures: Annotated[
        int, typer.Option("--pictures", "-n", min=1, max=10_000, help="How many to draw and send.")
    ] = 96,
    boards: Annotated[
        str, typer.Option("--boards", metavar="BOARDS", help="Emulated boards, like atlas,rk3588:2,orin.")
    ] = "atlas,rk3588,orin",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed draws other pictures.")] = DEMO_SEED,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Keep everything here. [default: workspace/demo/<time>]"),
    ] = None,
    models: options.Models = None,
) -> None:
    """A task manager, a gateway, emulated boards and a receiver label known pictures. Takes under a minute."""
    import asyncio
    import time

    from rich.console import Console

    from edgesched.demo.show import Demo, run
    from edgesched.errors import EdgeSchedError
    from edgesched.process import fail

    directory = directory or Path("workspace/demo") / time.strftime("%Y%m%d-%H%M%S")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        fail(f"--dir {directory} is not an empty directory; name another one")
    console = Console()
    demo = Demo(
        directory=directory,
        boards=boards,
        picture_count=pictures,
        seed=seed,
        models_dir=models or Path("models"),
    )
    try:
        report = asyncio.run(run(demo, console))
    except EdgeSchedError as error:
        fail(str(error))
    except OSError as error:
        fail(f"--dir {directory}: {error.filename or directory} cannot be written: {error.strerror}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("[yellow]Interrupted.[/] Every process of the demo has been stopped.")
        raise typer.Exit(130) from None
    if report.quality is None:
        raise typer.Exit(1)
