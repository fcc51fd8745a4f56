// One device: its workers with what can be told to them, what became of that, and what they write.

import { call, part } from "./api.js";
import { byId, el, perFrame, setData, setText, show, toast } from "./dom.js";
import { entryOf, standing, workerStanding } from "./fleet.js";
import { bytes, clock, t, UNKNOWN, word } from "./strings.js";

const VERBS = ["start", "stop", "restart", "kill"];
const NEEDS_A_YES = ["stop", "kill"];
const OPEN = ["pending", "delivered"];
const COMMANDS_SHOWN = 5;
const LOOK_EVERY_MS = 1000;
const FOLLOW_MS = 20_000;
const FIRST_LINES = 200;
const LINES_SHOWN = 1000;
const RETRY_MS = 3000;
const SIGNALS = { 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM" };

let shownId = null;
let commands = [];
let timer = 0;
let reading = null; // AbortController of the log that is followed
const rows = new Map(); // worker name -> {node, parts}

export function openDevice(id) {
  shownId = id;
  commands = [];
  rows.clear();
  byId("workers").replaceChildren();
  byId("device-title").textContent = id;
  byId("log-of").replaceChildren();
  if (!byId("device").open) byId("device").showModal();
  draw();
  readCommands();
  follow();
}

export function noteDevices(entries) {
  if (shownId && entries.some((entry) => entry.device.device_id === shownId)) draw();
}

export function drawDeviceAgain() {
  for (const verb of VERBS) byId(`all-${verb}`).textContent = t(verb);
  rows.clear();
  byId("workers").replaceChildren();
  if (shownId) draw();
}

// --- what it is ---

const draw = perFrame(() => {
  const entry = shownId && entryOf(shownId);
  if (!entry) return;
  const [tone, words] = standing(entry);
  const state = byId("device-state");
  setText(state, words);
  setData(state, "tone", tone);
  drawFacts(entry);
  drawWorkers(entry);
  drawChoice(entry.workers);
  drawCommands();
});

function drawFacts({ device, unavailable_models: left, warnings }) {
  const lines = [
    ["kind", `${device.board_type}${device.emulated ? ` (${t("emulated")})` : ""}`],
    ["address", device.address],
    ["models", [...device.models].sort().join(", ") || UNKNOWN],
    ["labelsOf", Object.entries(device.labels).map(([name, value]) => `${name}=${value}`).sort().join(", ") || UNKNOWN],
    ...Object.entries(left).map(([model, reason]) => ["leftOut", `${model}: ${reason}`]),
    ...warnings.map((warning) => ["warning", warning]),
  ];
  const key = JSON.stringify([document.documentElement.lang, lines]);
  const list = byId("device-facts");
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...lines.flatMap(([name, value]) => [el("dt", { textContent: t(name) }), el("dd", { textContent: value })]));
}

function drawWorkers({ device, workers }) {
  const there = new Set(workers.map((worker) => worker.name));
  for (const [name, row] of rows) {
    if (there.has(name)) continue;
    row.node.remove();
    rows.delete(name);
  }
  for (const worker of workers) {
    if (!rows.has(worker.name)) {
      rows.set(worker.name, makeRow(worker.name));
      byId("workers").append(rows.get(worker.name).node);
    }
    fillRow(rows.get(worker.name).parts, worker, device);
  }
  show(byId("no-workers"), workers.length === 0);
}

function makeRow(name) {
  const parts = { dot: el("i"), state: el("b"), facts: el("p", { className: "soft" }), reason: el("p", { className: "soft" }) };
  const buttons = el("div", { className: "verbs", role: "group", "aria-label": name });
  for (const verb of VERBS) {
    const button = el("button", { type: "button", textContent: t(verb), title: t(`${verb}Hint`) });
    button.addEventListener("click", () => tell(`workers/${part(name)}/command`, verb, name, button));
    buttons.append(button);
  }
  const words = el("div", {}, el("p", {}, el("span", { className: "workers" }, parts.dot), el("strong", { textContent: name }), " ", parts.state), parts.facts, parts.reason);
  const node = el("li", {}, words, buttons);
  node.dataset.worker = name;
  return { node, parts };
}

function fillRow({ dot, state, facts, reason }, worker, device) {
  const [mark, words] = workerStanding(worker, device);
  setData(dot, "state", mark);
  setText(state, words);
  const codes = worker.exit_codes?.length ? worker.exit_codes : [worker.last_exit_code].filter((code) => code !== null);
  const told = [worker.pid === null ? t("noProcess") : `${t("process")} ${worker.pid}`];
  if (worker.current_task) told.push(`${t("currentTask")} ${worker.current_task}`);
  told.push(t("restarts", { n: worker.restarts }));
  if (worker.memory_bytes) told.push(bytes(worker.memory_bytes));
  if (codes.length) told.push(`${t("exitCodes")} ${codes.map(exitCode).join(", ")}`);
  setText(facts, told.join(" · "));
  setText(reason, worker.reason ?? "");
  show(reason, Boolean(worker.reason));
}

const exitCode = (code) => (code < 0 ? `${code} (${SIGNALS[-code] ?? t("signal", { n: -code })})` : String(code));

// --- what it is told ---

async function tell(path, verb, whom, button) {
  if (NEEDS_A_YES.includes(verb) && !confirm(t(`${verb}Sure`, { whom }))) return;
  button.disabled = true;
  try {
    await call(path, { method: "POST", body: JSON.stringify({ command: verb }) });
  } catch (error) {
    toast(t("told", { device: whom, what: error.message }));
  } finally {
    button.disabled = false;
  }
  readCommands();
}

async function readCommands() {
  clearTimeout(timer);
  const id = shownId;
  try {
    const found = await call(`commands?device_id=${part(id)}&limit=${COMMANDS_SHOWN}`);
    if (id !== shownId) return;
    commands = found.commands;
    draw();
  } catch (error) {
    if (id === shownId) toast(error.message);
  }
  if (id === shownId && commands.some((command) => OPEN.includes(command.state))) timer = setTimeout(readCommands, LOOK_EVERY_MS);
}

function drawCommands() {
  const list = byId("commands");
  const key = JSON.stringify([document.documentElement.lang, commands]);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  show(list, commands.length > 0);
  list.replaceChildren(
    ...commands.map((command) => {
      const badge = el("span", { className: "badge", textContent: word("command", command.state) });
      badge.dataset.command = command.state;
      const words = ` ${clock(command.created_at_ms)} ${t(command.verb)} · ${command.worker ?? t("allWorkers")}`;
      const why = command.detail ? [el("span", { className: "soft", textContent: ` ${command.detail}` })] : [];
      return el("li", {}, badge, el("span", { textContent: words }), ...why);
    }),
  );
}

// --- what they write ---

function drawChoice(workers) {
  const choice = byId("log-of");
  const names = workers.map((worker) => worker.name);
  const key = JSON.stringify([document.documentElement.lang, names]);
  if (choice.dataset.key === key && choice.children.length) return;
  choice.dataset.key = key;
  const before = choice.value;
  choice.replaceChildren(el("option", { value: "", textContent: t("allWorkers") }), ...names.map((name) => el("option", { value: name, textContent: name })));
  choice.value = names.includes(before) ? before : "";
}

async function follow() {
  reading?.abort();
  const mine = (reading = new AbortController());
  const host = byId("log");
  host.replaceChildren();
  show(byId("no-log"), true);
  const owner = byId("log-of").value || shownId;
  let after = 0;
  let isFirst = true;
  while (!mine.signal.aborted && byId("device").open) {
    try {
      const wait = isFirst ? 0 : FOLLOW_MS;
      const page = await call(`workers/${part(owner)}/logs?tail=${FIRST_LINES}&after=${after}&wait_ms=${wait}`, { timeoutMs: 2 * FOLLOW_MS, signal: mine.signal });
      if (mine.signal.aborted) return;
      isFirst = false;
      after = page.cursor;
      append(host, page.lines);
      if (!byId("log-follow").checked) return;
    } catch (error) {
      if (mine.signal.aborted) return;
      if (error.status === 404) return; // nothing is known of it yet, or any more
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

function append(host, lines) {
  if (!lines.length) return;
  const isAtEnd = host.scrollHeight - host.scrollTop - host.clientHeight < 40;
  host.append(
    ...lines.map((line) => {
      const node = el("div", {}, el("span", { className: "soft", textContent: `${clock(line.at_ms)} ${line.worker} ` }), line.text);
      node.dataset.source = line.source;
      return node;
    }),
  );
  while (host.children.length > LINES_SHOWN) host.firstChild.remove();
  show(byId("no-log"), false);
  if (isAtEnd) host.scrollTop = host.scrollHeight;
}

export function startDevice() {
  const dialog = byId("device");
  byId("device-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
  dialog.addEventListener("close", () => {
    clearTimeout(timer);
    reading?.abort();
    shownId = null;
  });
  for (const verb of VERBS) {
    const button = byId(`all-${verb}`);
    button.title = t(`${verb}Hint`);
    button.addEventListener("click", () => tell(`devices/${part(shownId)}/command`, verb, t("allOf", { device: shownId }), button));
  }
  byId("log-of").addEventListener("change", follow);
  byId("log-follow").addEventListener("change", () => (byId("log-follow").checked ? follow() : reading?.abort()));
  drawDeviceAgain();
}
