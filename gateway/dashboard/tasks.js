// Counts, recent tasks, dead letters, and the newest labelled pictures. What is kept of tasks is bounded.

import { call, part, post } from "./api.js";
import { openTask } from "./detail.js";
import { byId, el, perFrame, setData, setText, show, toast } from "./dom.js";
import { pictureWithBoxes } from "./picture.js";
import { bytes, clock, duration, t, UNKNOWN } from "./strings.js";

export const STATES = ["queued", "dispatched", "running", "done", "delivered", "failed", "expired", "cancelled"];
export const PRIORITIES = ["high", "normal", "low"];
const OPEN = ["queued", "dispatched", "running"];
const LABELLED = ["done", "delivered"];
const SHOWN = 25;
const DEAD_SHOWN = 50;
const GALLERY = 6;
const GALLERY_EVERY_MS = 1500; // one new picture each time, however many are labelled: nobody sees more
const LOOK_EVERY_MS = 2000;

const tasks = new Map(); // id -> task; the newest SHOWN that fit the chosen state
const rows = new Map(); // id -> {node, cells, revision}
let counts = null;
let queue = []; // {model, priority, tasks}, in the order in which they are shown
let isAway = false; // the task manager: what it would say is not known
let areTasksRead = false;
let deadSeen = -1;
let isDeadAsked = false;
let candidate = null; // the newest labelled task that the gallery does not show

export const countsListeners = [];
export const countOf = (state) => counts?.[state] ?? null;

const wanted = (name) => byId(name).value.trim();
const fits = (task) => (!wanted("task-state") || wanted("task-state") === task.state) && (!wanted("task-device") || wanted("task-device") === task.device_id);

// --- counts ---

/** newCounts: null if the task manager does not answer. */
export function setCounts(newCounts) {
  counts = newCounts?.states ?? null;
  queue = newCounts?.queue ?? [];
  isAway = counts === null;
  if (isAway) deadSeen = -1;
  drawCounts();
  drawTasks();
  if (counts && counts.failed !== deadSeen) readDead();
}

const drawCounts = perFrame(() => {
  const host = byId("states");
  if (!host.children.length) {
    for (const state of STATES) {
      const button = el("button", { type: "button", className: "count" }, el("b"), el("span"));
      button.dataset.state = state;
      button.addEventListener("click", () => {
        byId("task-state").value = state;
        readTasks();
        byId("tasks-title").scrollIntoView();
      });
      host.append(button);
    }
  }
  for (const button of host.children) {
    setText(button.firstChild, counts ? String(counts[button.dataset.state]) : UNKNOWN);
    setText(button.lastChild, t(`state_${button.dataset.state}`));
  }
  drawQueue();
  drawNoDead();
  for (const listener of countsListeners) listener();
});

const lineName = ({ model, priority }) => `${model} · ${t(`priority_${priority}`)}`;

function drawQueue() {
  const most = Math.max(1, ...queue.map((line) => line.tasks));
  const host = byId("lines");
  while (host.children.length > queue.length) host.lastChild.remove();
  while (host.children.length < queue.length) host.append(el("div", { className: "meter" }, el("span"), el("span", { className: "track" }, el("span", { className: "fill" })), el("b")));
  queue.forEach((line, at) => {
    const [name, track, value] = host.children[at].children;
    setText(name, lineName(line));
    name.title = name.textContent;
    track.firstChild.style.width = `${(line.tasks / most) * 100}%`;
    setText(value, String(line.tasks));
  });
  show(byId("no-queue"), counts !== null && !counts.queued);
  show(byId("queue-unknown"), isAway);
}

// --- recent tasks ---

export async function readTasks() {
  const [state, device] = [wanted("task-state"), wanted("task-device")];
  try {
    const page = await call(`tasks?limit=${SHOWN}${state && `&state=${state}`}${device && `&device_id=${part(device)}`}`);
    if (state !== wanted("task-state") || device !== wanted("task-device")) return; // another one was chosen meanwhile
    areTasksRead = true;
    tasks.clear();
    for (const task of page.tasks) tasks.set(task.task_id, task);
    drawTasks();
    if (!byId("gallery").children.length) await fillGallery();
    show(byId("no-gallery"), !byId("gallery").children.length);
  } catch (error) {
    toast(error.message);
  }
}

export function changeTasks(changed) {
  for (const task of changed) {
    if (LABELLED.includes(task.state) && (!candidate || task.seq > candidate.seq)) candidate = task;
    if (fits(task)) tasks.set(task.task_id, task);
    else tasks.delete(task.task_id);
  }
  if (tasks.size > SHOWN) {
    const oldest = [...tasks.values()].sort((a, b) => b.seq - a.seq).slice(SHOWN);
    for (const task of oldest) tasks.delete(task.task_id);
  }
  drawTasks();
}

const drawTasks = perFrame(() => {
  const inOrder = [...tasks.values()].sort((a, b) => b.seq - a.seq);
  for (const [id, row] of rows) {
    if (!tasks.has(id)) {
      row.node.remove();
      rows.delete(id);
    }
  }
  const body = byId("tasks");
  inOrder.forEach((task, at) => {
    const row = rows.get(task.task_id) ?? makeRow(task);
    if (row.revision !== task.revision) fillRow(row, task);
    if (body.children[at] !== row.node) body.insertBefore(row.node, body.children[at] ?? null);
  });
  const isFiltered = Boolean(wanted("task-state") || wanted("task-device"));
  const areNone = !inOrder.length && areTasksRead && !isAway;
  show(byId("no-tasks"), areNone && !isFiltered);
  show(byId("no-task-fits"), areNone && isFiltered);
  show(byId("tasks-unknown"), !inOrder.length && isAway);
});

function makeRow(task) {
  const open = el("button", { type: "button", className: "open" });
  open.addEventListener("click", () => openTask(task.task_id));
  const badge = el("span", { className: "badge" });
  const cells = Array.from({ length: 5 }, () => el("td"));
  const node = el("tr", {}, el("td", {}, badge), el("td", {}, open), ...cells);
  const row = { node, open, badge, cells, revision: -1 };
  rows.set(task.task_id, row);
  return row;
}

function fillRow(row, task) {
  row.revision = task.revision;
  setText(row.badge, t(`state_${task.state}`));
  setData(row.badge, "state", task.state);
  setText(row.open, task.file_name);
  row.open.title = task.task_id;
  const took = OPEN.includes(task.state) ? null : task.updated_at_ms - task.created_at_ms;
  const model = task.priority === "normal" ? task.model : lineName(task);
  const words = [model, task.device_id ?? UNKNOWN, bytes(task.size_bytes), duration(took), clock(task.updated_at_ms)];
  words.forEach((text, at) => setText(row.cells[at], text));
}

// --- the newest labelled pictures ---

async function refreshGallery() {
  if (document.hidden || !candidate) return;
  const task = candidate;
  candidate = null;
  await addToGallery(task);
}

async function fillGallery() {
  const pages = await Promise.all(LABELLED.map((state) => call(`tasks?state=${state}&limit=${GALLERY}`)));
  const newest = pages.flatMap((page) => page.tasks).sort((a, b) => a.seq - b.seq);
  for (const task of newest.slice(-GALLERY)) await addToGallery(task);
}

async function addToGallery(task) {
  const host = byId("gallery");
  if ([...host.children].some((node) => node.dataset.task === task.task_id)) return;
  try {
    const { result } = await call(`tasks/${part(task.task_id)}`);
    const n = result?.detections.length ?? 0;
    const button = el("button", { type: "button", title: task.file_name }, pictureWithBoxes(task, result, t("boxes", { n, file: task.file_name })));
    button.dataset.task = task.task_id;
    button.append(el("span", { textContent: `${task.device_id ?? ""} · ${n}` }));
    button.addEventListener("click", () => openTask(task.task_id));
    host.prepend(button);
    while (host.children.length > GALLERY) host.lastChild.remove();
    show(byId("no-gallery"), false);
  } catch {
    // it was retired, or the gateway is busy: the next one comes soon
  }
}

// --- dead letters ---

async function readDead() {
  if (isDeadAsked) return;
  isDeadAsked = true;
  deadSeen = counts.failed;
  try {
    drawDead(counts.failed ? (await call(`tasks?state=failed&limit=${DEAD_SHOWN}`)).tasks : []);
  } catch {
    deadSeen = -1; // asked again with the next counts
  } finally {
    setTimeout(() => {
      isDeadAsked = false;
      if (counts && counts.failed !== deadSeen) readDead();
    }, LOOK_EVERY_MS);
  }
}

function drawDead(dead) {
  byId("dead").replaceChildren(
    ...dead.map((task) => {
      const open = el("button", { type: "button", className: "open", textContent: task.file_name, title: task.task_id });
      open.addEventListener("click", () => openTask(task.task_id));
      const replay = el("button", { type: "button", textContent: t("replay"), disabled: task.image === null });
      replay.addEventListener("click", () => replayAll([task.task_id], replay));
      return el("li", {}, el("div", {}, open, el("span", { className: "soft", textContent: task.last_error ?? "" })), replay);
    }),
  );
  const all = byId("replay-all");
  const ids = dead.filter((task) => task.image !== null).map((task) => task.task_id);
  show(all, ids.length > 1);
  all.onclick = () => replayAll(ids, all);
  drawNoDead();
}

function drawNoDead() {
  const isEmpty = !byId("dead").children.length;
  show(byId("no-dead"), isEmpty && counts?.failed === 0);
  show(byId("dead-unknown"), isEmpty && isAway);
}

async function replayAll(ids, button) {
  button.disabled = true;
  let told = 0;
  for (const id of ids) {
    try {
      await post(`tasks/${part(id)}/retry`);
      told += 1;
    } catch (error) {
      toast(error.message);
    }
  }
  if (told) toast(t("replayed", { n: told }));
  button.disabled = false;
  deadSeen = -1;
}

// --- wiring ---

export function drawTasksAgain() {
  const select = byId("task-state");
  const chosen = select.value;
  select.replaceChildren(new Option(t("allStates"), ""), ...STATES.map((state) => new Option(t(`state_${state}`), state)));
  select.value = chosen;
  for (const row of rows.values()) row.revision = -1;
  deadSeen = -1;
  drawTasks();
  drawCounts();
  if (counts) readDead();
}

export function startTasks() {
  const host = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname) ? "" : ` --host ${location.hostname}`;
  byId("send-command").textContent = `edgesched send --dir pictures --no-receiver${host}`;
  drawTasksAgain();
  byId("task-state").addEventListener("change", readTasks);
  byId("task-device").addEventListener("change", readTasks);
  byId("find").addEventListener("submit", (event) => {
    event.preventDefault();
    const id = byId("find-id").value.trim();
    if (id) openTask(id);
  });
  setInterval(refreshGallery, GALLERY_EVERY_MS);
}
