"""`edgesched up`: task manager and gateway in one process, and emulated boards if one likes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgesched.cli import options

if TYPE_CHECKING:
    from edgesched.local.master import Master
    from edgesched.settings import UpSettings

SELF_TEST_PICTURES = 24
SELF_TEST_SEED = 20_000
SELF_TEST_MAP50 = 0.90


def command(
    emulate: Annotated[
        str | None,
        typer.Option("--emulate", metavar="BOARDS", help="Also start emulated boards here, like atlas,rk3588:2,orin."),
    ] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Send known pictures, check their labels, exit 0 if all is well.")
    ] = False,
    keep_running: Annotated[bool, typer.Option("--keep-running", help="Stay up after the self-test.")] = False,
    grpc_port: Annotated[
        int | None, typer.Option("--grpc-port", "-p", help="gRPC port for clients; 0: any free one. [default: 9999]")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option("--http-port", help="HTTP port for agents and programs. [default: 6666]")
    ] = None,
    browser_port: Annotated[
        int | None, typer.Option("--browser-port", help="The same on a port that browsers allow. [default: 8080]")
    ] = None,
    host: options.Host = None,
    strategy: options.Strategy = None,
    upload_path: options.UploadPath = None,
    keep_upload: options.KeepUpload = None,
    ledger: options.LedgerPath = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="FILE", help="What operators set. [default: gateway.sqlite3 beside the ledger]"
        ),
    ] = None,
    models: options.Models = None,
    durability: options.Durability = None,
    workspace: Annotated[
        Path,
        typer.Option("--workspace", metavar="DIR", help="Emulated boards and the self-test keep their files here."),
    ] = Path("workspace"),
    config: options.Config = None,
    log_dir: options.LogDir = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
) -> None:
    """Task manager and gateway in one process: all that a cluster needs besides its boards."""
    from edgesched import process
    from edgesched.settings import UpSettings

    if self_test and not emulate:
        process.fail("--self-test needs boards: add --emulate atlas,rk3588:2,orin")

    has_failed = False

    async def serve(settings: UpSettings, stop: asyncio.Event) -> None:
        from edgesched.local.master import opened

        nonlocal has_failed
        async with opened(settings) as master:
            extras = _Extras(settings, master, workspace, emulate, self_test=self_test, keep_running=keep_running)
            await process.unless_stopped(extras.run(stop), stop)
            has_failed = extras.has_failed

    process.main(
        "up",
        UpSettings,
        serve,
        config=config,
        flags={
            "grpc_port": grpc_port,
            "http_port": http_port,
            "browser_port": browser_port,
            "host": host,
            "strategy": strategy,
            "upload_path": upload_path,
            "keep_upload": keep_upload,
            "ledger_path": ledger,
            "gateway_state_path": state,
            "models_dir": models,
            "durability": durability,
            "log_dir": log_dir,
            "log_level": log_level,
            "log_format": log_format,
        },
    )
    if has_failed:
        raise typer.Exit(1)


class _Extras:
    """What `up` does beside being the master."""

    def __init__(
        self,
        settings: UpSettings,
        master: Master,
        workspace: Path,
        emulate: str | None,
        *,
        self_test: bool,
        keep_running: bool,
    ) -> None:
        self._settings = settings
        self._master = master
        self._workspace = workspace
        self._emulate = emulate
        self._self_test = self_test
        self._keep_running = keep_running or not self_test
        self.has_failed = False

    async def run(self, stop: asyncio.Event) -> None:
        from edgesched.local.boards import agent_specs, parse_boards
        from edgesched.local.children import running

        boards = parse_boards(self._emulate) if self._emulate else ()
        specs = agent_specs(
            boards,
            gateway_url=f"http://{self._master.http}",
            workspace=self._workspace / "slave",
            models_dir=self._settings.models_dir,
            log_level=self._settings.log_level,
        )
        async with running(*specs):
            devices = f" devices={','.join(device_id for _, device_id in boards)}" if boards else ""
            print(f"{self._master.ready_line()}{devices}", flush=True)
            if self._self_test:
                self.has_failed = not await self._test()
            if self._keep_running:
                await stop.wait()

    async def _test(self) -> bool:
        import tempfile

        from edgesched.demo.known_pictures import draw_into, send_and_compare
        from edgesched.local.children import ChildSpec, running

        with tempfile.TemporaryDirectory(prefix="edgesched-self-test-") as temporary:
            directory = Path(temporary)
            pictures = await draw_into(directory / "pictures", count=SELF_TEST_PICTURES, seed=SELF_TEST_SEED)
            receiver = ChildSpec(
                name="receiver",
                arguments=["receive", "--port", "0", "--dir", str(directory / "labels")],
                log_path=directory / "receiver.log",
            )
            async with running(receiver) as (child,):
                report = await send_and_compare(
                    self._master.grpc,
                    pictures,
                    picture_dir=directory / "pictures",
                    label_dir=directory / "labels",
                    receiver_url=f"http://{child.ready['http']}",
                    on_progress=lambda _: None,
                )
        for problem in report.problems:
            print(f"self-test: {problem}", flush=True)
        quality = report.quality
        is_well = quality is not None and quality.map50 >= SELF_TEST_MAP50
        score = f", mAP@0.5 {quality.map50:.3f} (at least {SELF_TEST_MAP50:.2f})" if quality else ""
        print(
            f"self-test: {report.delivered} of {report.sent} pictures labelled and delivered in {report.seconds:.1f} s"
            f"{score}: {'ok' if is_well else 'FAILED'}",
            flush=True,
        )
        return is_well
