"""The dashboard in a real browser: Debian's Chromium, driven by Playwright.

`make test` installs the browser where it may; without one these tests are skipped.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgesched import rest
from edgesched.demo.pictures import draw_picture
from edgesched.domain.detection import Detection
from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import State
from edgesched.domain.task import (
    Attempt,
    AttemptId,
    Failure,
    FailureKind,
    ImageRef,
    Line,
    Priority,
    Result,
    Task,
    TaskDetails,
    TaskId,
    Timings,
)
from tests.support.clusters import cluster
from tests.support.gateways import GatewayUnderTest, agent_port, gateway_under_test, registration
from tests.support.task_managers import small_jpeg

playwright_api = pytest.importorskip("playwright.async_api", reason="pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
WAIT_MS = 10_000
UNKNOWN = "\u2013"
EVIL = '<script>window.wasRun = 1</script><img src=x onerror="window.wasRun = 1">'
PHONE = {"width": 390, "height": 844}

Page = Any


@pytest.fixture
async def browser() -> AsyncIterator[Any]:
    async with playwright_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway:
        yield gateway


@pytest.fixture
async def page(browser: Any) -> AsyncIterator[Page]:
    """A page that may not complain: a script that fails or a broken policy fails the test."""
    context = await browser.new_context(locale="en-GB", viewport={"width": 1300, "height": 900})
    page = await context.new_page()
    page.set_default_timeout(WAIT_MS)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
    yield page
    await context.close()
    assert complaints == []


async def opened(page: Page, url: str) -> None:
    await page.goto(url)
    await page.wait_for_selector('#link[data-tone="good"]')


async def says(page: Page, selector: str, text: str) -> None:
    await playwright_api.expect(page.locator(selector)).to_contain_text(text, timeout=WAIT_MS)


def details_of(state: State = State.DONE, **changes: Any) -> TaskDetails:
    """Failed on one board, labelled on another."""
    task = Task(
        task_id=TaskId("0190aa"),
        seq=1,
        revision=9,
        state=state,
        client_id="c",
        model="shapes",
        file_name="a.jpg",
        image=ImageRef("1"),
        size_bytes=2_000,
        receiver_url=None,
        created_at_ms=1_000,
        updated_at_ms=1_400,
        expires_at_ms=None,
        attempt_id=AttemptId("second"),
        device_id=DeviceId("orin-1"),
        failed_attempts=1,
        last_error=None,
        priority=Priority.NORMAL,
    )
    first = Attempt(
        attempt_id=AttemptId("first"),
        task_id=task.task_id,
        device_id=DeviceId("atlas-1"),
        reason="load: atlas-1 scores 0.100",
        started_at_ms=1_100,
        ended_at_ms=1_200,
        failure=Failure(kind=FailureKind.WORKER_CRASHED, message="the worker died"),
        timings=None,
    )
    second = replace(
        first,
        attempt_id=AttemptId("second"),
        device_id=DeviceId("orin-1"),
        reason="load: orin-1 scores 0.200; atlas-1 excluded: it failed there",
        started_at_ms=1_210,
        ended_at_ms=1_390,
        failure=None,
        timings=Timings(transfer_ms=3.0, decode_ms=1.0, infer_ms=42.0),
    )
    box = Detection(class_id=2, label="ring", confidence=0.5, x1=4, y1=8, x2=20, y2=30)
    result = Result(
        detections=(box, replace(box, label="MWMW 图", x1=30, x2=60)), width=64, height=48, timings=Timings()
    )
    is_labelled = state is State.DONE
    return TaskDetails(task=replace(task, **changes), attempts=(first, second), result=result if is_labelled else None)


def hold(gateway: GatewayUnderTest, details: TaskDetails) -> None:
    gateway.tasks.details = {details.task.task_id: details}
    gateway.tasks.pictures = {details.task.task_id: small_jpeg()}


# -- the fleet


async def test_a_gateway_that_hangs_is_not_called_live(page: Page, gateway: GatewayUnderTest) -> None:
    await page.clock.install()
    await opened(page, gateway.url)
    await page.clock.fast_forward(26_000)  # without a word from the gateway
    await page.wait_for_selector('#link[data-tone="bad"]')
    await says(page, "#banner", "does not answer")
    await page.clock.fast_forward(4_000)
    await page.wait_for_selector('#link[data-tone="good"]')


async def test_a_board_is_seen_live_and_cordoned_with_one_click(gateway: GatewayUnderTest, page: Page) -> None:
    await opened(page, gateway.url)
    await says(page, "#no-devices", "edgesched agent --master-url " + gateway.url)
    async with agent_port() as port:
        await gateway.register("rk-1", port)
        telemetry = {"cpu_used_fraction": 0.25, "temperature_c": 61.0}
        await gateway.heartbeat("rk-1", telemetry=telemetry)
        card = '[data-device="rk-1"]'
        await says(page, card, "25 %")
        for text in ("rk3588", "emulated", "ready", "61 °C"):
            await says(page, card, text)
        await says(page, f"{card} .facts", f"Pictures/s{UNKNOWN}")  # nobody has said: not 0
        await page.click(f"{card} button:text-is('Cordon')")
        await says(page, f"{card} .state", "cordoned")
        await says(page, "#tiles", "0/1")
        await says(page, "#problems", "no device takes work (1 cordoned)")
        await page.click("#language")
        await says(page, "#problems", "1 已停止派发")
        await page.click("#language")
        assert gateway.parts.fleet.entries()[0].device.is_cordoned
        await page.click(f"{card} button:text-is('Uncordon')")
        await says(page, f"{card} .state", "ready")
        assert (await gateway.call("DELETE", "/api/v1/devices/rk-1", boot_id="boot-1")).status < 300
    await playwright_api.expect(page.locator(card)).to_have_count(0, timeout=WAIT_MS)


async def test_names_are_text_whatever_they_hold(gateway: GatewayUnderTest, page: Page) -> None:
    hold(gateway, details_of(State.FAILED, file_name=EVIL, last_error=EVIL, client_id=EVIL, model=EVIL))
    body = rest.DEVICE_REGISTRATION.parse(
        rest.DEVICE_REGISTRATION.dump(rest.DeviceRegistration(**registration("x", 1)))
    )
    async with agent_port() as port:
        await gateway.registry.register(
            body.model_copy(update={"device_id": EVIL, "agent_port": port}), seen_ip="127.0.0.1"
        )
        await gateway.register("b", port)
        await gateway.heartbeat("b", unhealthy_reason=EVIL, simulated=[EVIL])
        await opened(page, gateway.url)
        await says(page, "#cards h3 >> nth=0", EVIL)
        await says(page, '[data-device="b"] .state', EVIL)
        await page.click("#tasks button.open")
        await says(page, "#detail-title", EVIL)
    assert await page.evaluate("window.wasRun") is None
    assert await page.evaluate("document.querySelectorAll('main script, main img[src=x], dialog script').length") == 0


async def test_200_boards_change_in_place_and_can_be_filtered(gateway: GatewayUnderTest, page: Page) -> None:
    async with agent_port() as port:
        for number in range(200):
            await gateway.register(f"b{number:03}", port)
        await opened(page, gateway.url)
        await playwright_api.expect(page.locator(".card")).to_have_count(200, timeout=WAIT_MS)
        await page.evaluate("document.querySelectorAll('.card').forEach((card) => { card.isFirst = true })")
        for number in range(200):
            await gateway.heartbeat(f"b{number:03}", telemetry={"cpu_used_fraction": 0.5})
        await says(page, '[data-device="b199"]', "50 %")
        assert await page.evaluate("[...document.querySelectorAll('.card')].every((card) => card.isFirst)")
        await playwright_api.expect(page.locator(".card:visible")).to_have_count(24)
        await gateway.heartbeat("b150", unhealthy_reason="no driver")
        await says(page, ".card:visible >> nth=0", "unhealthy: no driver")
        await gateway.heartbeat("b150")
        await says(page, ".card:visible >> nth=0", "b000")
        await page.focus("#all-devices")
        await page.keyboard.press("Enter")
        await playwright_api.expect(page.locator(".card:visible")).to_have_count(200, timeout=WAIT_MS)
        assert await page.evaluate("document.activeElement.textContent") == "b024"
        await page.fill("#fleet-filter", "b017")
        await playwright_api.expect(page.locator(".card:visible")).to_have_count(1, timeout=WAIT_MS)
        await page.fill("#fleet-filter", "zzz")
        await says(page, "#no-match", "No device matches")


# -- the workers of a board

WORKERS = [
    {"name": "rk-1-0", "pid": 4711, "state": "busy", "current_task": "0190aa", "restarts": 0},
    {"name": "rk-1-1", "pid": None, "state": "stopped", "restarts": 3, "last_exit_code": -11},
]


def shipment(*texts: str, after: int = 0, worker: str = "rk-1-0") -> dict[str, Any]:
    lines = [{"number": after + at + 1, "age_ms": 0, "source": "output", "text": text} for at, text in enumerate(texts)]
    return {"boot_id": "boot-1", "logs": [{"worker": worker, "after": after, "lines": lines}]}


@pytest.fixture
async def board(gateway: GatewayUnderTest) -> AsyncIterator[GatewayUnderTest]:
    async with agent_port() as port:
        await gateway.register("rk-1", port, labels={"room": "lab"})
        await gateway.heartbeat("rk-1", workers=WORKERS)
        yield gateway


async def test_the_workers_of_a_board_are_seen_and_told_what_to_do(board: GatewayUnderTest, page: Page) -> None:
    await opened(page, board.url)
    await page.focus('[data-device="rk-1"] h3 button')
    await page.keyboard.press("Enter")
    await says(page, "#device-facts", "room=lab")
    for text in ("busy", "4711", "0190aa"):
        await says(page, '[data-worker="rk-1-0"]', text)
    for text in ("stopped", "restarts: 3", "-11 (SIGSEGV)"):
        await says(page, '[data-worker="rk-1-1"]', text)
    async with page.expect_response("**/workers/rk-1-1/command"):
        await page.click("[data-worker='rk-1-1'] button:text-is('Start')")
    await says(page, "#commands", "waiting for the board")
    (start,) = board.parts.commands.open_for(DeviceId("rk-1"))
    assert (start.verb, start.worker) == ("start", "rk-1-1")
    ending = {"boot_id": "boot-1", "succeeded": False, "detail": EVIL}
    await board.call("POST", f"/devices/rk-1/commands/{start.command_id}", ending)
    await says(page, "#commands", EVIL)
    await board.heartbeat("rk-1", workers=[{**WORKERS[1], "state": "ready", "pid": 5}])
    await says(page, '[data-worker="rk-1-1"]', "ready")
    await playwright_api.expect(page.locator("#workers li")).to_have_count(1, timeout=WAIT_MS)
    assert await page.evaluate("window.wasRun") is None
    await page.keyboard.press("Escape")
    assert await page.evaluate("document.activeElement.textContent") == "rk-1"


async def test_what_a_dialog_answers_is_not_covered_by_it(board: GatewayUnderTest, page: Page) -> None:
    await opened(page, board.url)
    await page.click('[data-device="rk-1"] h3 button')
    await board.call("DELETE", "/api/v1/devices/rk-1", boot_id="boot-1")  # it leaves
    await board.call("DELETE", "/api/v1/devices/rk-1")  # and is forgotten
    await page.click("[data-worker='rk-1-1'] button:text-is('Start')")
    await says(page, "#toast", "there is no worker 'rk-1-1'")
    is_on_top = """() => { const box = document.getElementById('toast').getBoundingClientRect();
        return document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2)?.id }"""
    assert await page.evaluate(is_on_top) == "toast"


async def test_what_somebody_should_look_at_is_shown_although_the_board_works(
    board: GatewayUnderTest, page: Page
) -> None:
    await board.heartbeat("rk-1", warnings=["8 workers on 4 CPUs"])
    await opened(page, board.url)
    await says(page, '[data-device="rk-1"] .state', "ready · 8 workers on 4 CPUs")
    await page.click('[data-device="rk-1"] h3 button')
    await says(page, "#device-facts", "Warning8 workers on 4 CPUs")


@pytest.mark.parametrize("is_sure", [True, False])
async def test_a_kill_is_asked_back_first(board: GatewayUnderTest, page: Page, is_sure: bool) -> None:
    asked: list[str] = []

    async def answer(dialog: Any) -> None:
        asked.append(dialog.message)
        await (dialog.accept() if is_sure else dialog.dismiss())

    page.on("dialog", answer)
    await opened(page, board.url)
    await page.click('[data-device="rk-1"] h3 button')
    await page.click("#all-kill")
    if is_sure:
        await says(page, "#commands", "Kill · all workers")
    (question,) = asked
    assert question.startswith("Kill all workers of rk-1 at once?")
    assert len(board.parts.commands.open_for(DeviceId("rk-1"))) == int(is_sure)


async def test_what_workers_write_is_followed_also_when_their_board_has_died(
    board: GatewayUnderTest, page: Page
) -> None:
    await board.call("POST", "/devices/rk-1/logs", shipment("loaded", EVIL))
    await opened(page, board.url)
    await page.click('[data-device="rk-1"] h3 button')
    await says(page, "#log", EVIL)
    await board.call("POST", "/devices/rk-1/logs", shipment("second", after=2))
    await board.call("POST", "/devices/rk-1/logs", shipment("other", worker="rk-1-1"))
    await says(page, "#log", "other")
    await page.select_option("#log-of", "rk-1-0")
    await says(page, "#log", "second")
    assert "other" not in await page.inner_text("#log")
    await board.call("POST", "/devices/rk-1/logs", shipment("third", after=3))
    await says(page, "#log", "third")
    board.clock.now_ms += 60_000
    await says(page, "#device-state", "silent")
    await says(page, '[data-worker="rk-1-0"]', "board silent (was busy)")
    assert await page.locator('[data-worker="rk-1-0"] i').get_attribute("data-state") == "silent"
    for state in ("ready", "busy"):
        await playwright_api.expect(page.locator(f'.workers i[data-state="{state}"]')).to_have_count(0)
    await page.keyboard.press("Escape")
    await page.click('[data-device="rk-1"] h3 button')
    await says(page, "#log", "third")
    assert await page.evaluate("window.wasRun") is None


# -- tasks


async def test_the_life_of_a_task_is_told_and_reached_by_keyboard(gateway: GatewayUnderTest, page: Page) -> None:
    hold(gateway, details_of())
    await opened(page, gateway.url)
    await page.focus("#tasks button.open")
    await page.keyboard.press("Enter")
    for text in ("atlas-1 excluded: it failed there", "worker_crashed: the worker died", "labels taken"):
        await says(page, ".attempts", text)
    for text in ("Queued", "Attempt 1 on atlas-1", "Attempt 2 on orin-1", "Transferred", "42 ms"):
        await says(page, ".life", text)
    await says(page, ".labels", "ring50 %")
    await playwright_api.expect(page.locator("#detail .boxes .box")).to_have_count(2, timeout=WAIT_MS)
    fits = """() => { const image = document.querySelector('#detail .picture img').getBoundingClientRect();
        const boxes = document.querySelector('#detail .boxes').getBoundingClientRect();
        return Math.abs(image.left - boxes.left) + Math.abs(image.width - boxes.width)
            + Math.abs(image.top - boxes.top) + Math.abs(image.height - boxes.height) < 2 }"""
    assert await page.evaluate(fits)
    holds = """() => [...document.querySelectorAll('#detail .boxes g')].every(
        (g) => g.querySelector('.tag').getBBox().width >= g.querySelector('text').getBBox().width)"""
    assert await page.evaluate(holds), "a name is no wider than its tag"
    await page.keyboard.press("Escape")
    assert not await page.evaluate("document.getElementById('detail').open")
    assert await page.evaluate("document.activeElement.textContent") == "a.jpg"


async def test_a_queued_task_says_why_it_waits_and_follows_it(gateway: GatewayUnderTest, page: Page) -> None:
    waiting = replace(
        details_of(State.QUEUED, device_id=None, created_at_ms=int(time.time() * 1000)),
        attempts=(),
        waits_for=f"no device can take it now ({EVIL})",
    )
    hold(gateway, waiting)
    await opened(page, gateway.url)
    await page.click("#tasks button.open")
    await says(page, "#detail .plain", f"Waits becauseno device can take it now ({EVIL})")
    waited = await page.inner_text("#detail .life b")
    await playwright_api.expect(page.locator("#detail .life b")).not_to_have_text(waited, timeout=WAIT_MS)
    hold(gateway, replace(waiting, waits_for="its next try is due in 0.5 s"))
    await says(page, "#detail .plain", "its next try is due in 0.5 s")
    assert await page.evaluate("window.wasRun") is None


async def test_a_dead_letter_is_replayed(gateway: GatewayUnderTest, page: Page) -> None:
    hold(gateway, details_of(State.FAILED, last_error="worker_error: it broke"))
    await opened(page, gateway.url)
    await page.click("#tasks button.open")
    await says(page, "#detail", "worker_error: it broke")
    async with page.expect_response("**/retry"):
        await page.click("#detail button:text-is('Replay')")
    assert gateway.tasks.told == [("retry", TaskId("0190aa"))]


async def test_dead_letters_are_replayed_from_their_panel(gateway: GatewayUnderTest, page: Page) -> None:
    dead = details_of(State.FAILED, last_error="worker_error: it broke")
    other = details_of(State.FAILED, task_id=TaskId("0190bb"), file_name="b.jpg", seq=2)
    gateway.tasks.details = {d.task.task_id: d for d in (dead, other)}
    await opened(page, gateway.url)
    await says(page, "#dead", "worker_error: it broke")
    await page.click("#dead li:has-text('b.jpg') button:text-is('Replay')")
    await says(page, "#toast", "1 queued again")
    await page.click("#replay-all")
    await says(page, "#toast", "2 queued again")
    assert [task_id for _, task_id in gateway.tasks.told] == ["0190bb", "0190aa", "0190bb"]
    gateway.tasks.details = {}
    gateway.tasks.news.put_nowait(replace(dead.task, state=State.QUEUED, revision=10))
    await playwright_api.expect(page.locator("#no-dead")).to_be_visible(timeout=WAIT_MS)


async def test_tasks_are_listed_by_device(gateway: GatewayUnderTest, page: Page) -> None:
    await opened(page, gateway.url)
    await page.fill("#task-device", "orin-1")
    async with page.expect_response("**/tasks?**device_id=orin-1"):
        await page.press("#task-device", "Enter")
    await says(page, "#no-task-fits", "No task fits")
    task = details_of(State.DONE).task
    gateway.tasks.news.put_nowait(replace(task, task_id=TaskId("x"), file_name="x.jpg", device_id=DeviceId("rk-1")))
    gateway.tasks.news.put_nowait(task)
    await says(page, "#tasks", "a.jpg")
    assert "x.jpg" not in await page.inner_text("#tasks")


async def test_a_task_that_changes_is_shown_without_asking(gateway: GatewayUnderTest, page: Page) -> None:
    await opened(page, gateway.url)
    await says(page, "#no-tasks", "edgesched send")
    await says(page, "#lines", "shapes · normal2")
    task = details_of(State.RUNNING).task
    gateway.tasks.also_queued = {Line("shapes", Priority.HIGH): 7}
    gateway.tasks.news.put_nowait(task)
    await says(page, "#tasks", "on a board")
    await says(page, "#lines", "shapes · high7shapes · normal2")
    gateway.tasks.queued, gateway.tasks.also_queued = 0, {}
    gateway.tasks.news.put_nowait(replace(task, state=State.DELIVERED, revision=10, priority=Priority.LOW))
    await says(page, "#tasks", "delivered")
    await says(page, "#tasks", "shapes · low")
    await says(page, "#no-queue", "Nothing waits")


async def test_a_task_manager_that_is_away_is_said_in_words(gateway: GatewayUnderTest, page: Page) -> None:
    gateway.tasks.is_reachable = False
    await opened(page, gateway.url)
    await says(page, "#banner", "The task manager does not answer")
    for selector in ("#tasks-unknown", "#dead-unknown", "#queue-unknown"):
        await playwright_api.expect(page.locator(selector)).to_be_visible()
    for selector in ("#no-tasks", "#no-dead", "#no-queue"):
        await playwright_api.expect(page.locator(selector)).to_be_hidden()
    gateway.tasks.is_reachable = True
    for selector in ("#no-tasks", "#no-dead"):
        await playwright_api.expect(page.locator(selector)).to_be_visible(timeout=WAIT_MS)
    for selector in ("#banner", "#tasks-unknown", "#dead-unknown", "#queue-unknown"):
        await playwright_api.expect(page.locator(selector)).to_be_hidden()


async def test_a_dropped_picture_becomes_a_task(gateway: GatewayUnderTest, page: Page) -> None:
    await opened(page, gateway.url)
    await says(page, "#model", "shapes")
    await page.select_option("#priority", "high")
    await page.evaluate(
        """() => { const dropped = new DataTransfer();
        dropped.items.add(new File([new Uint8Array([1, 2, 3])], 'é.jpg', {type: 'image/jpeg'}));
        document.querySelector('#drop').dispatchEvent(
            new DragEvent('drop', {dataTransfer: dropped, bubbles: true, cancelable: true})) }"""
    )
    await says(page, "#try-note", "1 sent")
    (submission,) = gateway.tasks.submitted
    assert (submission.file_name, submission.model, submission.image) == ("é.jpg", "shapes", b"\x01\x02\x03")
    assert submission.priority is Priority.HIGH


async def test_a_picture_that_cannot_be_sent_says_so_in_our_words(gateway: GatewayUnderTest, page: Page) -> None:
    await opened(page, gateway.url)
    await says(page, "#model", "shapes")
    await page.route("**/api/v1/tasks", lambda route: route.abort())
    await page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"x"})
    await says(page, "#try-note", "a.jpg: the gateway does not answer")


# -- for everybody


async def test_the_page_speaks_chinese_and_remembers_it(gateway: GatewayUnderTest, page: Page) -> None:
    await opened(page, gateway.url)
    await says(page, "#fleet-title", "Devices")
    await page.click("#language")
    await says(page, "#fleet-title", "设备")
    await page.reload()
    await says(page, "#fleet-title", "设备")
    assert await page.get_attribute("html", "lang") == "zh-CN"
    assert "{" not in await page.inner_text("body")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_scrolls_down_and_never_sideways(gateway: GatewayUnderTest, page: Page, scheme: str) -> None:
    hold(gateway, details_of(file_name="a" * 200 + ".jpg"))
    await page.set_viewport_size(PHONE)
    await page.emulate_media(color_scheme=scheme)
    async with agent_port() as port:
        await gateway.register("a" * 64, port)
        await opened(page, gateway.url)
        await says(page, "#cards", "ready")
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        await page.click("#tasks button.open")
        await says(page, ".labels", "ring")
        assert await page.evaluate("(() => { const d = detail; return d.scrollWidth <= d.clientWidth })()")
        await page.keyboard.press("Escape")
        await gateway.heartbeat("a" * 64, workers=[{**WORKERS[1], "name": "a" * 64 + "-0"}])
        await page.click(".card h3 button")
        await says(page, "#workers", "SIGSEGV")
        assert await page.evaluate("(() => { const d = device; return d.scrollWidth <= d.clientWidth })()")
    colours = await page.evaluate(
        "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    assert contrast(*colours) >= 7


async def test_a_picture_is_tried_on_a_real_cluster(tmp_path: Path, page: Page) -> None:
    picture = draw_picture(30_000, 1)
    path = tmp_path / "tried.jpg"
    path.write_bytes(picture.jpeg)
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(cluster(tmp_path, "orin"))
        await opened(page, f"http://{running.http}")
        await says(page, "#cards", "orin-1")
        await says(page, "#model", "shapes")
        await page.set_input_files("#file", str(path))
        await says(page, "#detail-title", "tried.jpg")
        await says(page, "#detail .badge", "labelled")
        assert await page.locator("#detail .boxes .box").count() == len(picture.truth)
        await says(page, ".life", "Inferred")
        await page.keyboard.press("Escape")
        await playwright_api.expect(page.locator("#gallery .boxes")).to_have_count(1, timeout=WAIT_MS)


def contrast(first: str, second: str) -> float:
    """Source: WCAG 2.2, relative luminance and contrast ratio."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(rgb: str) -> float:
    channels = [int(part) / 255 for part in rgb.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
