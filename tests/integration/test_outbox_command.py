"""`edgesched outbox`: whose labels a board keeps, and giving up those of one ledger."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from agents.outbox_files import SUFFIX, OutboxFiles
from edgesched.process import sole_user
from tests.support.agent_parts import LEDGER, Master, running_agent

ROOT = Path(__file__).parents[2]
WITHIN_S = 60.0
OLD = "ledger-of-last-year"


async def run(*arguments: str | Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edgesched", "outbox", *map(str, arguments)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(WITHIN_S):
        output, _ = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in output.decode()
    return process.returncode, output.decode()


async def finish(master: Master, *attempts: str) -> None:
    await master.next("hello")
    for attempt in attempts:
        await master.dispatch(attempt)
        await master.next("accepted")
        await master.next("outcome")


@pytest.fixture
async def workspace(tmp_path: Path) -> Path:
    """An agent has worked for two ledgers and is stopped."""
    async with running_agent(tmp_path) as agent:
        async with agent.connected(ledger=OLD) as master:
            await finish(master, "o1", "o2")
        async with agent.connected() as master:
            await finish(master, "n1")
    return tmp_path


async def test_labels_of_one_ledger_are_dropped_and_all_others_stay(workspace: Path) -> None:
    code, said = await run("list", "--json", "--workspace", workspace)
    assert (code, [json.loads(line) for line in said.splitlines()]) == (
        0,
        [{"ledger_id": OLD, "outcomes": 2}, {"ledger_id": LEDGER, "outcomes": 1}],
    )
    code, said = await run("drop", OLD, "--workspace", workspace)
    assert (code, "2 outcomes of ledger ledger-of-last-year are gone" in said) == (0, True), said
    async with running_agent(workspace) as agent, agent.connected() as master:
        hello = await master.next("hello")
        assert [held.attempt_id for held in hello.outbox] == ["n1"]
        assert hello.foreign_outbox_count == 0


async def test_beside_a_running_agent_it_lists_and_drops_nothing(workspace: Path) -> None:
    with sole_user(workspace / "agent.lock", "it", "wait"):  # as an agent holds it
        code, said = await run("list", "--workspace", workspace)
        assert (code, f"ledger {OLD}: 2 outcomes" in said) == (0, True), said
        code, said = await run("drop", OLD, "--workspace", workspace)
    assert (code, "stop the agent first" in said) == (2, True), said
    assert sum(outcome.ledger_id == OLD for outcome in OutboxFiles(workspace / "outbox").stored()) == 2


async def test_a_ledger_that_is_not_here_is_named_together_with_those_that_are(workspace: Path, tmp_path: Path) -> None:
    code, said = await run("drop", "nobody", "--workspace", workspace)
    assert (code, OLD in said, LEDGER in said) == (2, True, True), said
    code, said = await run("list", "--workspace", tmp_path / "nowhere")
    assert (code, "there is no outbox" in said) == (2, True), said
    assert not (tmp_path / "nowhere").exists()


async def test_a_file_of_two_ledgers_keeps_the_lines_of_the_other(workspace: Path) -> None:
    outbox = workspace / "outbox"
    paths = sorted(outbox.glob(f"*{SUFFIX}"))
    mixed = b"".join(path.read_bytes() for path in paths)
    for path in paths[1:]:
        path.unlink()
    paths[0].write_bytes(mixed)
    (outbox / f"000000000099{SUFFIX}").write_bytes(b"not a line of labels\n")
    assert OutboxFiles(outbox).drop(OLD) == 2
    assert [outcome.attempt_id for outcome in OutboxFiles(outbox).stored()] == ["n1"]
    assert OutboxFiles(outbox).drop(OLD) == 0, "done twice, it changes nothing"
    assert (outbox / f"000000000099{SUFFIX}").exists(), "what cannot be read is not ours to delete"
