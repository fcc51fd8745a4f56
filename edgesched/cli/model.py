"""`edgesched model check|convert`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Check a model's directory, and convert the model for a board.", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The model's directory, which holds model.toml.")]


class Board(StrEnum):
    """Boards that want a file of their own."""

    ATLAS = "atlas"
    RK3588 = "rk3588"
    ORIN = "orin"


@app.command()
def check(directory: Directory) -> None:
    """Say what is wrong with a model, and what each kind of board still lacks. Runs it where this machine can."""
    from edgesched.cli.model_check import LOAD_TIMEOUT_S, State, examined, uses_of
    from edgesched.errors import InvalidInput
    from edgesched.process import fail

    try:
        from edgesched.catalogue import read_model

        model = read_model(directory)
    except InvalidInput as error:
        fail(str(error))
    except ImportError as error:
        fail(f"checking a model needs {error.name}: pip install 'edgesched[cpu]'")
    print(f"{model.name} {model.version}: {len(model.labels)} labels, decoder {model.decoder}")
    states = set()
    for name, build in model.builds.items():
        print(f"  [builds.{name}] {build.backend} {build.file or '-'}", flush=True)
        state, text = examined(model, name, lambda: print(f"    it is tried, for at most {LOAD_TIMEOUT_S:.0f} s ..."))
        print(f"    {state}: {text}")
        states.add(state)
    for use in uses_of(model, directory):
        print(f"  {use.board}: {use.text}")
    if State.PROBLEM in states:
        raise typer.Exit(1)


@app.command()
def convert(
    directory: Directory,
    board: Annotated[Board, typer.Option("--board", "-b", help="The kind of board.")],
    soc: Annotated[
        str | None,
        typer.Option(
            "--soc", metavar="NAME", help="The chip: like Ascend310B4 (atlas), or rk3588 (the default there)."
        ),
    ] = None,
    python: Annotated[
        Path | None,
        typer.Option(
            "--python", metavar="FILE", help="rk3588: the interpreter that has rknn-toolkit2. [default: this]"
        ),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", metavar="DIR", help="rk3588: quantise to 8 bits, calibrated with these pictures."),
    ] = None,
) -> None:
    """Make a board's own file from the model's ONNX graph with the vendor's converter, and name it in model.toml."""
    import tempfile

    from edgesched.catalogue import read_model
    from edgesched.cli.model_convert import Request, converted, planned
    from edgesched.errors import EdgeSchedError
    from edgesched.process import fail

    with tempfile.TemporaryDirectory(prefix="edgesched-convert-") as scratch:
        try:
            request = Request(
                model=read_model(directory),
                directory=directory,
                scratch=Path(scratch),
                soc=soc,
                python=python,
                pictures=pictures,
            )
            converted(request, board, planned(request, board))
        except EdgeSchedError as error:
            fail(str(error))
