"""The main job with real processes: pictures in, label files out, whatever dies on the way."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from edgesched.demo.known_pictures import Progress, RoundReport, draw_into, send_and_compare
from edgesched.demo.pictures import Picture
from edgesched.domain.detection import text_lines
from tests.support.clusters import Cluster, Master, apart, cluster, together
from tests.support.own_model import BRIGHT_BOX, write_model, write_pictures

SEED = 30_000
LEAST_MAP50 = 0.95


async def round_of(
    running: Cluster, pictures: Sequence[Picture], directory: Path, at_delivery: dict[int, asyncio.Event] | None = None
) -> RoundReport:
    def on_progress(progress: Progress) -> None:
        for count, event in (at_delivery or {}).items():
            if progress.delivered >= count:
                event.set()

    return await send_and_compare(
        running.grpc,
        pictures,
        picture_dir=directory,
        label_dir=running.label_dir,
        receiver_url=running.receiver_url,
        on_progress=on_progress,
    )


@pytest.mark.slow
@pytest.mark.parametrize("master", [together, apart], ids=["together", "apart"])
async def test_every_picture_is_labelled_well_and_delivered_once(tmp_path: Path, master: Master) -> None:
    pictures = await draw_into(tmp_path / "pictures", count=120, seed=SEED)
    async with cluster(tmp_path, "atlas,orin", master=master) as running:
        report = await round_of(running, pictures, tmp_path / "pictures")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{running.http}/devices") as response:
                devices = (await response.json())["devices"]
            async with session.get(f"http://{running.http}/api/v1/tasks/counts") as response:
                counts = await response.json()
            async with session.get(f"http://{running.http}/schedule?strategy=load&model=shapes") as response:
                decision = await response.json()

    assert report.problems == []
    assert report.delivered == len(pictures)
    assert report.quality is not None
    assert report.quality.map50 >= LEAST_MAP50
    assert {share.device_id for share in report.shares} == {"atlas-1", "orin-1"}
    assert {entry["device"]["device_id"] for entry in devices} == {"atlas-1", "orin-1"}
    assert all(entry["device"]["emulated"] for entry in devices)
    assert str(len(pictures)) in json.dumps(counts)
    assert decision["chosen"]["device_id"] in ("atlas-1", "orin-1")
    label_files = sorted((tmp_path / "labels" / "shapes" / "rst").iterdir())
    assert len(label_files) == 2 * len(pictures)
    for path in label_files:
        if path.suffix == ".json":
            assert len(path.with_suffix(".txt").read_text().splitlines()) == len(
                json.loads(path.read_text())["detections"]
            )


@pytest.mark.slow
async def test_an_agent_that_is_killed_in_mid_run_loses_no_picture(tmp_path: Path) -> None:
    pictures = await draw_into(tmp_path / "pictures", count=150, seed=SEED + 1)
    some_are_there = asyncio.Event()
    async with cluster(tmp_path, "atlas,orin") as running:
        sending = asyncio.create_task(
            round_of(running, pictures, tmp_path / "pictures", at_delivery={20: some_are_there})
        )
        async with asyncio.timeout(60):
            await some_are_there.wait()
        running.agents[0].process.send_signal(signal.SIGKILL)
        report = await sending

    assert report.problems == []
    assert report.delivered == len(pictures)


@pytest.mark.slow
async def test_the_self_test_finds_a_healthy_cluster_healthy(tmp_path: Path) -> None:
    arguments = ["up", "--emulate", "rk3588,orin", "--self-test", "--workspace", str(tmp_path / "workspace")]
    ports = ["--grpc-port", "0", "--http-port", "0", "--browser-port", "0"]
    files = ["--ledger", str(tmp_path / "ledger.sqlite3"), "--upload_path", str(tmp_path / "upload")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgesched", *arguments, *ports, *files, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(90):
        output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()
    assert "24 of 24 pictures labelled and delivered" in output.decode()


def processes_of(session_marker: str) -> list[str]:
    """Command lines of living processes that name `session_marker`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended while we looked
            continue
        if session_marker in command:
            found.append(command)
    return found


def wait_for_content(path: Path) -> None:
    """Return when another process has written something into a file."""
    while not path.exists() or path.stat().st_size == 0:
        time.sleep(0.02)  # nothing tells us of a file; whoever calls this bounds the wait


@pytest.mark.slow
@pytest.mark.parametrize("interrupt_at", ["starting", "delivered"])
async def test_the_demo_can_be_interrupted_at_any_time_and_leaves_nothing_behind(
    tmp_path: Path, interrupt_at: str
) -> None:
    directory = tmp_path / "demo"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edgesched", "demo", "--dir", str(directory), "--pictures", "400"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    if interrupt_at == "starting":
        await process.stdout.readline()
    else:
        journal = directory / "labels" / ".edgesched-journal.jsonl"
        async with asyncio.timeout(60):
            await asyncio.to_thread(wait_for_content, journal)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(30):
        output = await process.stdout.read()
        await process.wait()

    assert process.returncode == 130, output.decode()
    assert "Interrupted" in output.decode()
    assert processes_of(str(directory)) == []


@pytest.mark.slow
async def test_a_model_and_a_decoder_of_ones_own_are_added_as_files_only(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "bright")
    pictures = write_pictures(tmp_path / "pictures", count=6)
    async with cluster(tmp_path, "rk3588", models=tmp_path / "models") as running:
        arguments = ["--host", "127.0.0.1", "--port", running.grpc.rpartition(":")[2], "--dir", tmp_path / "pictures"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edgesched", "send", "--model", BRIGHT_BOX, "--wait"),
            *(*map(str, arguments), "--receiver", running.receiver_url),
            stdout=asyncio.subprocess.PIPE,
            cwd=tmp_path,
        )
        output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()
    for name, expected in pictures.items():
        path = tmp_path / "labels" / BRIGHT_BOX / "rst" / name.replace(".png", ".txt")
        assert path.read_text() == text_lines(expected)
