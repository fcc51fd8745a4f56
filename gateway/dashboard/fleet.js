// One card per device, made once and then changed in place: 200 boards that report every second stay smooth.
// Of a large fleet those that cannot work come first, and most others are shown when they are asked for.

import { part, post } from "./api.js";
import { openDevice } from "./device.js";
import { byId, el, perFrame, setData, setText, show, toast } from "./dom.js";
import { duration, percent, plain, t, UNKNOWN, withUnit, word } from "./strings.js";

const FILTER_FROM = 9; // devices: fewer are seen at a glance
const SHOWN_AT_FIRST = 24;
const WARM_C = 75;
const FRAME_MS = 6; // of a frame's 16 for cards that have changed; where 200 change at once, that takes some frames

const cards = new Map(); // device id -> {entry, heardAt, node, parts}
const changed = new Set();
const sorter = new Intl.Collator("en", { numeric: true });
let areAllShown = false;
let isUnordered = false;

export const fleetListeners = [];
/** How many take work: one that is cordoned or draining takes none. */
export const readyCount = () => [...cards.values()].filter(({ entry: { device } }) => device.state === "ready" && !device.is_cordoned && !device.is_draining).length;
export const entryOf = (id) => cards.get(id)?.entry;
export const deviceCount = () => cards.size;

/** The sum over all devices; null if none of them knows. */
export function total(field) {
  const values = [...cards.values()].map((card) => card.entry[field]).filter((value) => value !== null);
  return values.length ? values.reduce((sum, value) => sum + value, 0) : null;
}

export function setDevices(entries) {
  const there = new Set(entries.map((entry) => entry.device.device_id));
  changeDevices(entries, [...cards.keys()].filter((id) => !there.has(id)));
}

export function changeDevices(entries, gone) {
  const now = performance.now();
  for (const id of gone) {
    cards.get(id)?.node?.remove();
    cards.delete(id);
    changed.delete(id);
  }
  for (const entry of entries) {
    const id = entry.device.device_id;
    const card = cards.get(id) ?? { node: null };
    Object.assign(card, { entry, heardAt: now - entry.device.last_heartbeat_age_ms });
    cards.set(id, card);
    changed.add(id);
  }
  draw();
}

export function drawFleetAgain() {
  for (const [id, card] of cards) {
    card.node?.remove();
    card.node = null;
    changed.add(id);
  }
  draw();
}

const draw = perFrame(() => {
  const until = performance.now() + FRAME_MS;
  let isNew = false;
  for (const id of changed) {
    const card = cards.get(id);
    const wasBad = isBad(card);
    if (!card.node) {
      Object.assign(card, makeCard(id));
      isNew = isUnordered = true;
    } else if (performance.now() > until) {
      draw(); // the rest in the next frame
      break;
    }
    fill(card);
    isUnordered ||= isBad(card) !== wasBad;
    changed.delete(id);
  }
  if (isNew) byId("device-ids").replaceChildren(...[...cards.keys()].sort(sorter.compare).map((id) => el("option", { value: id })));
  if (isUnordered) order();
  if (changed.size) return;
  drawFrame();
  for (const listener of fleetListeners) listener();
});

const isBad = (card) => card.node?.dataset.tone === "bad";

function order() {
  isUnordered = false;
  const rank = (card) => (cards.size > SHOWN_AT_FIRST && !isBad(card) ? 1 : 0);
  const inOrder = [...cards].sort(([a, one], [b, other]) => rank(one) - rank(other) || sorter.compare(a, b));
  const nodes = inOrder.map(([, card]) => card.node).filter(Boolean);
  const host = byId("cards");
  const focused = document.activeElement;
  nodes.forEach((node, at) => {
    if (host.children[at] !== node) host.insertBefore(node, host.children[at] ?? null);
  });
  if (host.contains(focused)) focused.focus({ preventScroll: true }); // moving a node takes it away
}

function drawFrame() {
  const all = cards.size;
  show(byId("no-devices"), all === 0);
  show(byId("fleet-filter"), all >= FILTER_FROM);
  setText(byId("fleet-count"), all ? t("deviceCount", { ready: readyCount(), all }) : "");
  applyFilter();
}

function applyFilter() {
  const wanted = byId("fleet-filter").value.trim().toLowerCase();
  const most = areAllShown || wanted ? Infinity : SHOWN_AT_FIRST;
  let matches = 0;
  for (const node of byId("cards").children) {
    const { device_id: id, board_type: type, state } = cards.get(node.dataset.device).entry.device;
    const isMatch = !wanted || `${id} ${type} ${state}`.toLowerCase().includes(wanted);
    matches += isMatch;
    show(node, isMatch && matches <= most);
  }
  show(byId("all-devices"), matches > most);
  setText(byId("all-devices"), t("allDevices", { n: cards.size }));
  show(byId("no-match"), cards.size > 0 && matches === 0);
}

function makeCard(id) {
  const parts = { meters: {}, facts: {} };
  const make = (name, tag, className) => (parts[name] = el(tag, { className }));
  const node = el("article", { className: "card", "aria-label": id });
  node.dataset.device = id;
  const name = el("button", { type: "button", className: "open", textContent: id, title: t("openDevice") });
  name.addEventListener("click", () => openDevice(id));
  const head = el("div", { className: "head" }, el("span", { className: "dot" }), el("h3", { title: id }, name));
  head.append(make("type", "span", "badge"), make("emulated", "span", "badge outline"), make("simulated", "span", "badge warn"));
  const meters = el("div", { className: "meters" });
  for (const name of ["cpu", "memory", "xpu", "window"]) {
    const fill = el("span", { className: "fill" });
    const value = el("b");
    parts.meters[name] = { fill, value };
    meters.append(el("div", { className: "meter" }, el("span", { textContent: t(name) }), el("span", { className: "track" }, fill), value));
  }
  const facts = el("dl", { className: "facts" });
  for (const name of ["rate", "temperature", "heartbeat", "link"]) {
    parts.facts[name] = el("dd");
    facts.append(el("div", {}, el("dt", { textContent: t(name) }), parts.facts[name]));
  }
  const button = (command, hint) => {
    const made = el("button", { type: "button", textContent: t(command), title: t(hint) });
    made.addEventListener("click", () => tell(id, command, made));
    return (parts[command] = made);
  };
  const foot = el("div", { className: "foot" }, make("workers", "span", "workers"));
  foot.append(button("uncordon", "uncordonHint"), button("cordon", "cordonHint"), button("drain", "drainHint"));
  node.append(head, make("state", "p", "state"), meters, facts, foot);
  return { node, parts };
}

function fill({ entry, node, parts, heardAt }) {
  const { device } = entry;
  const telemetry = device.state === "silent" ? {} : device.telemetry; // what it said last is not known of now
  const [tone, words] = standing(entry);
  setData(node, "tone", tone);
  setText(parts.state, words);
  setText(parts.type, device.board_type);
  setText(parts.emulated, t("emulated"));
  show(parts.emulated, device.emulated);
  setText(parts.simulated, t("simulated", { what: entry.simulated.join(", ") }));
  show(parts.simulated, entry.simulated.length > 0);
  fillMeter(parts.meters.cpu, telemetry.cpu_used_fraction);
  fillMeter(parts.meters.memory, telemetry.memory_used_fraction);
  fillMeter(parts.meters.xpu, telemetry.xpu_used_fraction);
  const { in_flight: busy, window_tasks: places } = entry;
  fillMeter(parts.meters.window, busy === null || !places ? null : busy / places, `${busy ?? UNKNOWN}/${places ?? device.window_tasks}`);
  const { facts } = parts;
  setText(facts.rate, plain(entry.pictures_per_s, 1));
  setText(facts.temperature, withUnit(telemetry.temperature_c, "°C"));
  setData(facts.temperature, "tone", telemetry.temperature_c >= WARM_C ? "warn" : "");
  const { link_bandwidth_mbps: mbps, link_latency_ms: latency } = telemetry;
  setText(facts.link, [withUnit(mbps, "Mb/s"), withUnit(latency, "ms", 1)].filter((x) => x !== UNKNOWN).join(" · ") || UNKNOWN);
  setText(facts.heartbeat, duration(performance.now() - heardAt));
  fillWorkers(parts.workers, entry);
  show(parts.uncordon, device.is_cordoned || device.is_draining);
  show(parts.cordon, !device.is_cordoned && !device.is_draining);
  show(parts.drain, !device.is_draining);
}

/** [tone, words] */
export function standing(entry) {
  const { device } = entry;
  if (device.state === "silent") return ["bad", t("silent")];
  if (device.state === "unhealthy") return ["bad", `${t("unhealthy")}: ${device.unhealthy_reason ?? ""}`];
  if (entry.is_drained) return ["idle", t("drained")];
  if (device.is_draining) return ["warn", t("draining")];
  if (device.is_cordoned) return ["warn", t("cordoned")];
  if (entry.breaker_open_ms > 0) return ["warn", `${t("ready")} · ${t("resting", { model: entry.failing_model, n: entry.failures_in_a_row })}`];
  if (entry.warnings.length) return ["warn", `${t("ready")} · ${entry.warnings[0]}`];
  return ["good", t("ready") + (device.outbox_count ? ` · ${t("outbox", { n: device.outbox_count })}` : "")];
}

/** [mark, words]: what a silent board said last is no state of now. */
export function workerStanding(worker, device) {
  const state = word("worker", worker.state);
  return device.state === "silent" ? ["silent", t("boardSilent", { state })] : [worker.state, state];
}

function fillMeter({ fill, value }, fraction, text) {
  const width = `${Math.min(100, Math.round((fraction ?? 0) * 100))}%`;
  if (fill.style.width !== width) fill.style.width = width;
  setData(fill, "tone", text === undefined && fraction >= 0.9 ? "warn" : ""); // a full window is a good sign
  setText(value, text ?? percent(fraction));
}

function fillWorkers(node, entry) {
  const said = entry.workers.map((w) => t("worker", { name: w.name, state: workerStanding(w, entry.device)[1], n: w.restarts }));
  const key = said.join("\n");
  if (node.title === key) return;
  node.title = key;
  node.setAttribute("aria-label", `${t("workers")}: ${said.join("; ")}`);
  node.setAttribute("role", "img");
  node.replaceChildren(
    ...entry.workers.map((worker) => {
      const dot = el("i");
      [dot.dataset.state] = workerStanding(worker, entry.device);
      return dot;
    }),
  );
}

async function tell(id, command, button) {
  button.disabled = true;
  try {
    const entry = await post(`devices/${part(id)}/${command}`);
    if (entry?.device) changeDevices([entry], []);
    toast(t("told", { device: id, what: t(command) }));
  } catch (error) {
    toast(t("told", { device: id, what: error.message }));
  } finally {
    button.disabled = false;
  }
}

export function startFleet() {
  byId("fleet-filter").addEventListener("input", applyFilter);
  byId("all-devices").addEventListener("click", () => {
    areAllShown = true;
    applyFilter();
    byId("cards").children[SHOWN_AT_FIRST].querySelector("button").focus();
  });
  const agent = `edgesched agent --master-url ${location.origin}`;
  byId("agent-command").textContent = agent;
  byId("emulate-command").textContent = `${agent} --emulate rk3588 --port 0 --workspace workspace/emulated`;
  setInterval(() => {
    if (document.hidden) return;
    const now = performance.now();
    for (const { parts, heardAt } of cards.values()) if (parts) setText(parts.facts.heartbeat, duration(now - heardAt));
  }, 1000);
}
