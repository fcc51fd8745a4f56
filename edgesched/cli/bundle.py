"""`edgesched bundle`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class Platform(StrEnum):
    AARCH64 = "aarch64"
    X86_64 = "x86_64"


class Board(StrEnum):
    """Those that deploy/boards has a list for."""

    ATLAS = "atlas"
    CPU = "cpu"
    ORIN = "orin"
    RK3588 = "rk3588"


def command(
    target: Annotated[Path, typer.Argument(metavar="OUT.tar", help="The archive to write.")],
    platform: Annotated[Platform, typer.Option("--platform", help="The boards' processor.")] = Platform.AARCH64,
    python: Annotated[
        str, typer.Option("--python", metavar="X.Y", help="Python of the agent on the boards; found in PATH here, too.")
    ] = THIS_PYTHON,
    extras: Annotated[
        str, typer.Option("--extras", metavar="LIST", help="Parts of edgesched: agent,cpu for a board, or master.")
    ] = "agent,cpu",
    board: Annotated[
        Board | None, typer.Option("--board", help="Also what its workers need, in an environment of their own.")
    ] = None,
    worker_python: Annotated[
        str | None, typer.Option("--worker-python", metavar="X.Y", help="Python of the workers. [default: --python]")
    ] = None,
    wheel: Annotated[
        Path | None, typer.Option("--wheel", metavar="FILE", help="Of edgesched. [default: built from this checkout]")
    ] = None,
) -> None:
    """Everything that boards without a network need, in one file: wheels, an install script, hashes."""
    from edgesched.cli.bundle_files import Wanted, make_bundle
    from edgesched.errors import StartupError
    from edgesched.process import fail

    wanted = Wanted(
        platform=platform.value,
        python=python,
        extras=extras,
        board=board.value if board else None,
        worker_python=worker_python or python,
        wheel=wheel,
    )
    try:
        made = make_bundle(target, wanted)
    except StartupError as error:
        fail(str(error))
    print(f"wrote {target}: {made.wheels} wheels, {made.size_bytes / 1e6:.1f} MB")
    print(f"on the board: tar xf {target.name} && sudo {made.name}/install.sh")
