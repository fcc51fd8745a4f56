// One task: its picture with boxes, its labels, and its life as a timeline. Follows the task while it is open.

import { call, part, post } from "./api.js";
import { byId, el, svg, toast } from "./dom.js";
import { hueOf, pictureWithBoxes } from "./picture.js";
import { bytes, clock, duration, percent, t, UNKNOWN } from "./strings.js";

const OPEN_STATES = ["queued", "dispatched", "running"];
const LOOK_EVERY_MS = 2000; // in case that the news of it were left out

/** Order in which a board does them; key of strings, field of Timings. */
const STAGES = [
  ["transfer", "transfer_ms"],
  ["boardQueue", "queued_ms"],
  ["decode", "decode_ms"],
  ["preprocess", "preprocess_ms"],
  ["infer", "infer_ms"],
  ["postprocess", "postprocess_ms"],
];

let shownId = null;
let shown = null;
let timer = 0;

export function openTask(id) {
  shownId = id;
  shown = null;
  byId("detail-title").textContent = t("task", { id });
  byId("detail-body").replaceChildren();
  if (!byId("detail").open) byId("detail").showModal();
  read();
}

export function noteTasks(tasks) {
  if (shownId && tasks.some((task) => task.task_id === shownId && task.revision !== shown?.task.revision)) read();
}

export function drawDetailAgain() {
  byId("detail-close").textContent = t("close");
  if (shown) draw(shown);
}

async function read() {
  clearTimeout(timer);
  const id = shownId;
  try {
    const details = await call(`tasks/${part(id)}`);
    if (id !== shownId) return;
    const isNews = details.task.revision !== shown?.task.revision || details.waits_for !== shown.waits_for;
    shown = details;
    if (isNews) draw(details);
    else byId("detail-body").querySelector(".life").replaceWith(timeline(details.task, details.attempts)); // time goes on
    if (isUnsettled(details.task)) timer = setTimeout(read, LOOK_EVERY_MS);
  } catch (error) {
    if (id === shownId) byId("detail-body").replaceChildren(el("p", { className: "empty", textContent: error.message }));
  }
}

const isUnsettled = (task) => OPEN_STATES.includes(task.state) || (task.state === "done" && task.receiver_url !== null);

function draw({ task, attempts, result, waits_for }) {
  byId("detail-title").textContent = task.file_name;
  const badge = el("span", { className: "badge", textContent: t(`state_${task.state}`) });
  badge.dataset.state = task.state;
  const left = el("div", {}, pictureWithBoxes(task, result, t("picture")));
  const right = el("div", {}, el("p", { className: "line" }, badge, ...actions(task)), facts(task, attempts, waits_for), labels(result));
  byId("detail-body").replaceChildren(
    el("div", { className: "split" }, left, right),
    el("h3", { textContent: t("timeline") }),
    timeline(task, attempts),
    el("h3", { textContent: t("attempts") }),
    attempts.length ? el("ol", { className: "attempts" }, ...attempts.map((a, at) => attempt(a, at, task))) : el("p", { className: "soft", textContent: t("noAttempts") }),
  );
}

function actions(task) {
  const possible = [];
  if (OPEN_STATES.includes(task.state)) possible.push(["cancel", "cancel"]);
  if (task.state === "failed" && task.image !== null) possible.push(["retry", "replay"]);
  if (task.state === "done" && task.receiver_url !== null) possible.push(["abandon", "abandon"]);
  return possible.map(([command, key]) => {
    const button = el("button", { type: "button", textContent: t(key) });
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await post(`tasks/${part(task.task_id)}/${command}`);
      } catch (error) {
        toast(error.message);
      }
      read();
    });
    return button;
  });
}

function facts(task, attempts, waitsFor) {
  const lines = [
    ["created", new Date(task.created_at_ms).toLocaleString()],
    ["model", task.model],
    ["priority", t(`priority_${task.priority}`)],
    ["device", task.device_id ?? UNKNOWN],
    ["size", bytes(task.size_bytes)],
    ["client", task.client_id],
    ["receiver", task.receiver_url ?? t("noReceiver")],
  ];
  if (attempts.length) lines.splice(4, 0, ["whyDevice", attempts.at(-1).reason]);
  if (waitsFor) lines.push(["waits", waitsFor]);
  if (task.last_error) lines.push(["error", task.last_error]);
  const list = el("dl", { className: "plain" });
  list.append(el("dt", { textContent: t("task", { id: "" }) }), el("dd", {}, el("code", { textContent: task.task_id })));
  for (const [key, value] of lines) list.append(el("dt", { textContent: t(key) }), el("dd", { textContent: value }));
  return list;
}

function labels(result) {
  if (!result) return el("p", { className: "soft", textContent: t("noLabelsYet") });
  if (!result.detections.length) return el("p", { className: "soft", textContent: t("nothingFound") });
  const list = el("ul", { className: "labels", "aria-label": t("labels") });
  for (const found of result.detections) {
    list.append(el("li", { className: hueOf(found) }, el("span", { textContent: found.label }), el("b", { textContent: percent(found.confidence) })));
  }
  return list;
}

function attempt(one, at, task) {
  const isWinner = one.attempt_id === task.attempt_id && ["done", "delivered"].includes(task.state);
  const end = one.failure ? `${one.failure.kind}: ${one.failure.message}` : isWinner ? t("won") : one.ended_at_ms === null ? t("open") : "";
  const took = one.ended_at_ms === null ? "" : ` · ${duration(one.ended_at_ms - one.started_at_ms)}`;
  const outcome = el("span", { className: "outcome", textContent: end });
  outcome.dataset.tone = one.failure ? "bad" : isWinner ? "good" : "";
  return el(
    "li",
    {},
    el("strong", { textContent: t("attempt", { n: at + 1, device: one.device_id }) }),
    el("span", { className: "soft", textContent: ` ${clock(one.started_at_ms)}${took} ` }),
    outcome,
    el("p", { className: "soft", textContent: t("why", { reason: one.reason }) }),
  );
}

/** Rows of [name, from ms, to ms, tone, level, what to say instead of how long], times since acceptance. */
function spans(task, attempts) {
  const origin = task.created_at_ms;
  const now = isUnsettled(task) ? Math.max(Date.now(), task.updated_at_ms) : task.updated_at_ms;
  const found = [];
  let free = origin; // since when it waits
  attempts.forEach((one, at) => {
    const end = one.ended_at_ms ?? now;
    found.push([t("waited"), free - origin, one.started_at_ms - origin, "wait", 0]);
    found.push([t("attempt", { n: at + 1, device: one.device_id }), one.started_at_ms - origin, end - origin, one.failure ? "bad" : "work", 0]);
    if (one.timings) found.push(...stages(one, one.started_at_ms - origin, end - origin));
    free = end;
  });
  if (!attempts.length || task.state === "queued") found.push([t("waited"), free - origin, now - origin, "wait", 0]);
  if (task.state === "delivered") found.push([t("delivery"), free - origin, task.updated_at_ms - origin, "good", 0]);
  return found;
}

function stages(one, from, to) {
  const found = [];
  let at = from;
  for (const [key, field] of STAGES) {
    const took = one.timings[field];
    if (took === null || took === undefined) {
      if (key === "transfer") found.push([t(key), at, at, "stage", 1, t("notMeasured")]);
      continue;
    }
    found.push([t(key), at, at + took, key === "infer" ? "infer" : "stage", 1]);
    at += took;
  }
  if (to > at) found.push([t("way"), at, to, "stage", 1]);
  return found;
}

function timeline(task, attempts) {
  const all = spans(task, attempts);
  const end = Math.max(1, ...all.map((span) => span[2]));
  const list = el("ol", { className: "life" });
  for (const [name, from, to, tone, level, instead] of all) {
    const drawing = svg("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" });
    const width = Math.max(5, ((to - from) / end) * 1000);
    if (!instead) drawing.append(svg("rect", { class: tone, x: Math.min((from / end) * 1000, 1000 - width), y: 0, width, height: 10, rx: 2 }));
    const row = el("li", {}, el("span", { textContent: name }), drawing, el("b", { textContent: instead ?? duration(to - from) }));
    row.dataset.level = level;
    list.append(row);
  }
  return list;
}

export function startDetail() {
  const dialog = byId("detail");
  byId("detail-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
  dialog.addEventListener("close", () => {
    clearTimeout(timer);
    shownId = shown = null;
  });
  drawDetailAgain();
}
