"""The vendors' tools: programs that are slow, hang, print too much or refuse; here they are small scripts."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agents.boards.atlas import AtlasBoard
from agents.boards.orin import OrinBoard
from agents.boards.readings import POWER, TEMPERATURE, XPU, SensorSilent
from agents.boards.rk3588 import Rk3588Board
from agents.boards.sampler import Sampler
from agents.boards.tool import MOST_BYTES, Tool

DATA = Path(__file__).parents[1] / "data" / "boards"
WITHIN_S = 20.0


def script(directory: Path, name: str, body: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def tool(directory: Path, body: str, **options: Any) -> Tool:
    script(directory, "vendor-tool", body)
    return Tool("vendor-tool", root=directory, places=["."], advice="install it", **options)


# --- any tool ---


def test_what_a_tool_prints_on_both_outputs_is_one_text(tmp_path: Path) -> None:
    assert (
        tool(tmp_path, 'echo "asked $*"; echo no device >&2; exit 3').run("info", "-l") == "asked info -l\nno device\n"
    )


def test_a_tool_that_is_missing_is_named_with_the_advice(tmp_path: Path) -> None:
    with pytest.raises(
        SensorSilent, match=r"npu-xyz is not installed \(looked in PATH, /usr/lib\): install the driver"
    ):
        Tool("npu-xyz", root=tmp_path, places=["usr/lib"], advice="install the driver").run()


def test_a_tool_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    (tmp_path / "vendor-tool").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "vendor-tool").chmod(0o755)
    with pytest.raises(SensorSilent, match="vendor-tool cannot be started: "):
        Tool("vendor-tool", root=tmp_path, places=["."], advice="").run()


def has_ended(pid: int) -> bool:
    """Within a bound; a killed grandchild is gone only when init has noticed."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def written(path: Path) -> str:
    """Its first line, once it is there."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()).endswith("\n"):
            return text
        time.sleep(0.01)
    raise AssertionError(f"nobody wrote {path}")


def test_a_tool_that_hangs_is_killed_with_its_children_and_reported(tmp_path: Path) -> None:
    hanging = tool(tmp_path, f"sleep 600 & echo $! > {tmp_path}/pids; echo $$ >> {tmp_path}/pids; wait", timeout_s=2.0)
    with pytest.raises(SensorSilent, match=r"`vendor-tool info` did not end within 2 s and was killed"):
        hanging.run("info")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert all(map(has_ended, pids))


def test_a_tool_that_hangs_ends_with_whoever_asked_it_even_if_that_is_killed(tmp_path: Path) -> None:
    script(tmp_path, "vendor-tool", f"sleep 600 & echo $$ $! > {tmp_path}/pids; wait")
    code = (
        "import sys; from pathlib import Path; from agents.boards.tool import Tool\n"
        "Tool('vendor-tool', root=Path(sys.argv[1]), places=['.'], advice='', timeout_s=600).run()"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.DEVNULL) as asker:
        pids = written(tmp_path / "pids").split()
        asker.kill()
    assert len(pids) == 2
    assert all(has_ended(int(pid)) for pid in pids)


def test_a_tool_that_closes_its_output_and_lives_on_is_ended_too(tmp_path: Path) -> None:
    body = f"echo $$ > {tmp_path}/pid; echo said; exec >&- 2>&-; exec sleep 600"
    assert tool(tmp_path, body).run() == "said\n"
    assert has_ended(int((tmp_path / "pid").read_text()))


def test_a_tool_that_prints_for_ever_is_cut_off(tmp_path: Path) -> None:
    assert MOST_BYTES <= len(tool(tmp_path, "exec yes").run()) <= MOST_BYTES + 64 * 1024


def test_a_tool_that_prints_a_line_now_and_then_is_stopped_after_the_first(tmp_path: Path) -> None:
    assert tool(tmp_path, "echo one; exec sleep 600").run(lines=1) == "one\n"


class Unkillable(subprocess.Popen[bytes]):
    """Stuck in its driver, until `let_go` is set; then it ends as it should."""

    let_go = threading.Event()

    def poll(self) -> int | None:
        return super().poll() if self.let_go.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        if not self.let_go.is_set():
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return super().wait(timeout)


def test_a_tool_that_cannot_be_killed_is_not_started_again_while_it_is_stuck(tmp_path: Path) -> None:
    Unkillable.let_go.clear()
    stuck = tool(tmp_path, f"echo ran >> {tmp_path}/runs", start=Unkillable)
    try:
        for _ in range(3):
            with pytest.raises(SensorSilent, match="hangs in its driver and cannot be killed: restart the board"):
                stuck.run()
        assert (tmp_path / "runs").read_text() == "ran\n"
    finally:
        Unkillable.let_go.set()
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:  # until the kernel has let the killed process go
        try:
            assert stuck.run() == ""
            break
        except SensorSilent:
            continue
    assert (tmp_path / "runs").read_text() == "ran\nran\n"


def test_a_tool_answers_one_question_at_a_time(tmp_path: Path) -> None:
    one_at_a_time = tool(tmp_path, f"mkdir {tmp_path}/busy || echo clash; sleep 0.02; rmdir {tmp_path}/busy; echo done")
    with ThreadPoolExecutor(4) as pool:
        assert [answer.result(WITHIN_S) for answer in [pool.submit(one_at_a_time.run) for _ in range(8)]] == [
            "done\n"
        ] * 8


# --- the sampler ---


def test_a_read_that_blocks_is_waited_for_only_once() -> None:
    released = threading.Event()
    now = 0.0

    def read() -> int:
        assert released.wait(WITHIN_S)
        return 7

    sampler = Sampler("the driver", read, every_s=0.0, clock=lambda: now)
    try:
        first = sampler.latest(0.01)
        now = 30.0
        later = sampler.latest(WITHIN_S)  # would take that long if it waited again
    finally:
        released.set()
    assert (first.value, later.value) == (None, None)
    assert later.trouble == "the driver has not answered for 30.0 s"


def test_a_sampler_keeps_its_value_when_the_next_read_fails() -> None:
    answers: list[int | None] = [7, None]

    def read() -> int:
        answer = answers.pop(0)
        if answer is None:
            raise SensorSilent("it was killed")
        return answer

    now = 0.0
    sampler = Sampler("the driver", read, every_s=5.0, clock=lambda: now)
    assert sampler.latest(WITHIN_S).value == 7
    now = 6.0
    sample = sampler.latest(WITHIN_S)
    assert (sample.value, sample.age_s, sample.trouble) == (7, 6.0, "it was killed")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_read_is_trouble_and_does_not_end_the_sampler() -> None:
    answers = [[], [7]]
    now = 0.0
    sampler = Sampler("the driver", lambda: answers.pop(0)[0], every_s=0.0, clock=lambda: now)
    assert "crashed" in str(sampler.latest(WITHIN_S).trouble)
    for thread in threading.enumerate():
        if thread.name == "the driver":
            thread.join(WITHIN_S)  # so that it is this test that is told of its end
    assert sampler.latest(WITHIN_S).value == 7


# --- Atlas ---


def npu_smi(root: Path, answers: Mapping[str, str]) -> Path:
    """Question -> sample, or a command of the shell. What is not in it is not supported."""
    cases = "".join(
        f'"{question}") {f"cat {DATA}/atlas/npu-smi-{answer}.txt" if " " not in answer else answer};;\n'
        for question, answer in answers.items()
    )
    body = f'echo "$*" >> {root}/asked\ncase "$*" in\n{cases}*) echo "This device does not support it."; exit 1;;\nesac'
    return script(root / "usr/local/sbin", "npu-smi", body)


def asked(root: Path) -> list[str]:
    return (root / "asked").read_text().splitlines()


def values(board: AtlasBoard | OrinBoard) -> tuple[float | str | None, ...]:
    readings = board.readings(tool_wait_s=WITHIN_S)
    return tuple(readings[name].value for name in (XPU, TEMPERATURE, POWER))


def test_an_atlas_tells_what_npu_smi_tells(tmp_path: Path) -> None:
    npu_smi(tmp_path, {"info": "info-310B1-v23.0.rc3-doc"})
    board = AtlasBoard(tmp_path)
    assert values(board) == (0.0, 66.0, 10.4)
    assert asked(tmp_path) == ["info"]
    telemetry = board.telemetry()
    assert (telemetry.xpu_used_fraction, telemetry.temperature_c, telemetry.power_w) == (0.0, 66.0, 10.4)
    assert asked(tmp_path) == ["info"]  # it was asked just now


def test_an_atlas_with_an_alarm_and_without_a_power_sensor_works(tmp_path: Path) -> None:
    npu_smi(tmp_path, {"info": "info-310B4-v23.0.0-alarm-trailing-space"})
    board = AtlasBoard(tmp_path)
    assert values(board) == (0.0, 65.0, None)
    assert "NPU 0 does not tell what it takes" in str(board.readings(tool_wait_s=0.0)[POWER].reason)


def test_the_controller_tells_the_power_that_the_chip_does_not(tmp_path: Path) -> None:
    npu_smi(tmp_path, {"info": "info-310B4-rows-aicore2", "info -t common -i 0": "common-200I-doc"})
    board = AtlasBoard(tmp_path)
    assert values(board) == (0.02, 80.0, 13.3)
    assert board.readings(tool_wait_s=0.0)[POWER].source == "npu-smi info -t common"


def test_the_rated_power_of_a_310_is_no_reading(tmp_path: Path) -> None:
    npu_smi(tmp_path, {"info": "info-310-v21.0.3.1"})
    assert values(AtlasBoard(tmp_path)) == (0.0, 58.0, None)


def test_several_chips_are_one_device(tmp_path: Path) -> None:
    npu_smi(tmp_path, {"info": "info-310B1-v23.0.5-6cards-collapsed"})
    board = AtlasBoard(tmp_path)
    assert values(board) == (0.0, 54.0, None)
    assert board.labels()["chips"] == "4"


def test_the_power_of_several_cards_is_their_sum(tmp_path: Path) -> None:
    npu_smi(tmp_path, {"info": "info-910B2C-v23.0.2.1-hbm-process"})
    use, temperature, power = values(AtlasBoard(tmp_path))
    assert (use, temperature) == (0.0, 51.0)
    assert power == pytest.approx(88.6 + 99.6)


def test_a_question_that_is_not_supported_is_asked_once(tmp_path: Path) -> None:
    npu_smi(tmp_path, {"info": "info-310B4-v23.0.0-alarm-trailing-space"})
    board = AtlasBoard(tmp_path)
    board.from_tool()
    board.from_tool()
    assert asked(tmp_path) == ["info", "info -t common -i 0", "info"]


def test_a_table_that_cannot_be_read_is_asked_for_line_by_line(tmp_path: Path) -> None:
    npu_smi(
        tmp_path,
        {
            "info": "info-310B4-v23.0.0-pipe-less-header",
            "info -l": "list-310-v22.0.4",
            "info -t common -i 0": "common-200I-doc",
        },
    )
    assert values(AtlasBoard(tmp_path)) == (0.0, 38.0, 13.3)


@pytest.mark.parametrize(("code", "advice"), [("8005", "in the group HwHiAiUser"), ("8020", "another container")])
def test_a_driver_that_refuses_leaves_all_unknown_and_says_what_to_do(tmp_path: Path, code: str, advice: str) -> None:
    npu_smi(tmp_path, {"info": f"error-{code}"})
    board = AtlasBoard(tmp_path)
    assert values(board) == (None, None, None)
    for name in (XPU, TEMPERATURE, POWER):
        assert advice in str(board.readings(tool_wait_s=0.0)[name].reason)


def test_an_npu_smi_that_hangs_is_killed_and_keeps_no_heartbeat_waiting(tmp_path: Path) -> None:
    script(tmp_path, "npu-smi", f"echo $$ >> {tmp_path}/pids; exec sleep 600")
    hanging = Tool("npu-smi", root=tmp_path, places=["."], advice="", timeout_s=2.0)
    board = AtlasBoard(tmp_path, tool=hanging)
    telemetry = board.telemetry()
    assert telemetry.memory_used_fraction is not None  # it came while npu-smi was hanging
    assert telemetry.xpu_used_fraction is None
    readings = board.readings(tool_wait_s=WITHIN_S)
    assert "`npu-smi info` did not end within 2 s and was killed" in str(readings[XPU].reason)
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 1
    assert has_ended(int(pids[0]))


def test_a_question_that_hangs_takes_no_other_reading_with_it(tmp_path: Path) -> None:
    npu_smi(
        tmp_path,
        {"info": "info-310B4-v23.0.0-alarm-trailing-space", "info -t common -i 0": "exec sleep 600"},
    )
    places = ["usr/local/sbin"]
    board = AtlasBoard(tmp_path, tool=Tool("npu-smi", root=tmp_path, places=places, advice="", timeout_s=2.0))
    assert values(board) == (0.0, 65.0, None)
    assert "was killed" in str(board.readings(tool_wait_s=0.0)[POWER].reason)


def test_an_atlas_says_its_product_chip_and_driver(tmp_path: Path) -> None:
    npu_smi(
        tmp_path,
        {
            "info": "info-310B4-v23.0.0-alarm-trailing-space",
            "info -t board -i 0": "board-200IDKA2-doc",
            "info -t memory -i 0": "memory-200I-doc",
            "info -t cpu-num-cfg -i 0 -c 0": "cpu-num-cfg-310B4",
        },
    )
    board = AtlasBoard(tmp_path)
    assert board.labels() == {"model": "Atlas 200I DK A2", "chip": "310B4", "driver": "23.0.0"}
    details = board.details()
    assert details["npu_0_chip_0"].value == "310B4, health Alarm, acl device 0, memory 3628 of 15609 MB"
    assert details["npu_total_capacity_mb"].value == "12288"
    assert details["npu_current_control_cpu_number"].value == "3"


def test_an_atlas_without_npu_smi_still_has_the_name_of_its_device_tree(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(b"Orange Pi AI Pro\0")
    board = AtlasBoard(tmp_path)
    assert board.labels() == {"model": "Orange Pi AI Pro"}
    assert "npu-smi is not installed" in str(board.details()["npu"].reason)


def test_a_board_that_does_not_say_its_product_still_says_its_chip(tmp_path: Path) -> None:
    npu_smi(tmp_path, {"info": "info-310P3-v25.2.0-duo-two-chips", "info -t board -i 2": "error-8005"})
    assert AtlasBoard(tmp_path).labels() == {"chip": "310P3", "chips": "2", "driver": "25.2.0"}


# --- RK3588 ---


def test_the_drivers_version_is_also_in_the_kernels_log(tmp_path: Path) -> None:
    script(tmp_path / "usr/bin", "dmesg", f"cat {DATA}/rk3588/dmesg-rknpu-0.9.5.txt")
    board = Rk3588Board(tmp_path)
    assert board.labels() == {"driver": "0.9.5"}
    assert board.details()["npu_driver"].source == "dmesg"


# --- Orin ---


def jetson(root: Path, line: str, load: bytes | None = None) -> OrinBoard:
    script(
        root / "usr/bin",
        "tegrastats",
        f'echo "$*" > {root}/asked; cat {DATA}/orin/tegrastats-{line}.txt; exec sleep 600',
    )
    if load is not None:
        path = root / "sys/devices/platform/gpu.0/load"
        path.parent.mkdir(parents=True)
        path.write_bytes(load)
    return OrinBoard(root)


def test_tegrastats_tells_what_the_kernels_files_do_not(tmp_path: Path) -> None:
    board = jetson(tmp_path, "orinnano-busy-sudo", load=b"500")
    assert values(board) == (0.5, 63.5, 17.946)
    assert board.readings(tool_wait_s=0.0)[POWER].source == "tegrastats"
    assert asked(tmp_path) == ["--interval 200"]


def test_a_load_that_tegrastats_does_not_print_is_unknown_and_not_zero(tmp_path: Path) -> None:
    board = jetson(tmp_path, "thor-clock-only")
    assert values(board) == (None, None, None)
    assert "its line tells no GPU load" in str(board.readings(tool_wait_s=0.0)[XPU].reason)


def test_an_orin_says_its_power_mode(tmp_path: Path) -> None:
    script(tmp_path / "usr/sbin", "nvpmodel", "echo NV Power Mode: MAXN_SUPER; echo 2")
    assert OrinBoard(tmp_path).details()["power_mode"].value == "MAXN_SUPER"
