"""`edgesched agent doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgesched.cli import options


def command(
    config: options.Config = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="TYPE", help="As what to look at it. [default: detected]")
    ] = None,
    python_bin: Annotated[
        str | None, typer.Option("--python-bin", metavar="FILE", help="The workers' interpreter. [default: this one]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Say what keeps this board from working, and what to install or run. Exit code 1 if there is something.

    Every model is loaded once, as the agent would: that takes minutes where an engine has to be built.
    """
    import asyncio

    from agents.doctor.examine import examine
    from edgesched.errors import StartupError
    from edgesched.process import fail
    from edgesched.settings import AgentSettings, load

    try:
        settings = load(AgentSettings, config=config, flags={"device": device, "python_bin": python_bin}).settings
        if settings.emulate is not None:
            fail("the doctor looks at the real board: leave `emulate` out of the settings")
        tell = (lambda finding: None) if as_json else (lambda finding: print(finding.as_text(), flush=True))
        report = asyncio.run(examine(settings, on_found=tell))
    except StartupError as error:
        fail(str(error))
    print(report.as_json() if as_json else f"\n{report.verdict()}")
    if not report.can_work:
        raise typer.Exit(1)
