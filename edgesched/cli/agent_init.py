"""`edgesched agent init`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from logging import LogRecord

# Where deploy/systemd/edgesched-agent.service looks.
CONFIG = Path("/etc/edgesched")
WORKSPACE = Path("/var/lib/edgesched/agent")
MODELS = Path("/var/lib/edgesched/models")


def command(
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE|DIR", help="Written here; in a directory, as agent.toml.")
    ] = CONFIG,
    workspace: Annotated[
        Path, typer.Option("--workspace", metavar="DIR", help="Outbox, device id and state of the agent.")
    ] = WORKSPACE,
    models: Annotated[Path, typer.Option("--models", metavar="DIR", help="Model directories.")] = MODELS,
    master_ip: Annotated[str, typer.Option("--master-ip", metavar="ADDRESS", help="The gateway's.")] = "127.0.0.1",
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="TYPE", help="atlas, rk3588, orin or generic. [default: detected]"),
    ] = None,
    device_id: Annotated[
        str | None, typer.Option("--device-id", metavar="NAME", help="This device's. [default: made once, kept]")
    ] = None,
    python_bin: Annotated[
        str | None, typer.Option("--python-bin", metavar="FILE", help="The workers' interpreter. [default: this one]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a configuration that is there.")] = False,
) -> None:
    """Write this board's configuration, with comments, and give the board a name that stays. Then try `doctor`."""
    import logging
    import shutil

    from agents.config_file import Wishes, write_config
    from edgesched.errors import StartupError
    from edgesched.process import fail

    wishes = Wishes(
        workspace=workspace,
        models=models,
        master_ip=master_ip,
        device=device,
        device_id=device_id,
        python_bin=python_bin,
    )
    logging.getLogger("agents.identity").addFilter(_told)
    try:
        written = write_config(config, wishes, force=force)
    except StartupError as error:
        fail(str(error))
    print(f"wrote {written.path}")
    print(f"board {written.board}: {written.because}")
    print(f"name  {written.identity.device_id}, kept in {workspace}")
    if python_bin is not None and shutil.which(python_bin) is None:
        print(f"note: {python_bin} is no program that can be run yet, and the workers need it")
    print("next:")
    print(f"  edgesched agent doctor --config {written.path}   # what is missing on this board, and what to install")
    print(f"  edgesched agent --config {written.path}          # run it here; at every boot: deploy/systemd/README.md")


SENTENCES = {  # of agents/identity.py
    "device.disk_copied": "this disk comes from another machine, {device_id}: its name is kept as {kept_as}, and this "
    "machine gets a name of its own",
    "device.file_damaged": "the file with this board's name cannot be read ({reason}): it is kept as {kept_as}, and "
    "the board gets a new name",
}


def _told(record: LogRecord) -> bool:
    """What the log would say in its own words, as a sentence for the person who waits here."""
    if record.msg not in SENTENCES:
        return True
    print(f"note: {SENTENCES[record.msg].format_map(vars(record))}")
    return False
