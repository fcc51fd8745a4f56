// Pictures that are dropped on the page or chosen become tasks. Each is sent by itself, one after the other.

import { call } from "./api.js";
import { openTask } from "./detail.js";
import { byId, el } from "./dom.js";
import { t } from "./strings.js";
import { PRIORITIES } from "./tasks.js";

const MOST = 64;
const UPLOAD_TIMEOUT_MS = 120_000;

let isSending = false;

export async function readModels() {
  try {
    const { models } = await call("models");
    const select = byId("model");
    const chosen = select.value;
    select.replaceChildren(...models.map(({ model, devices }) => new Option(devices.length ? model.name : t("modelIdle", { model: model.name }), model.name)));
    const wanted = models.find(({ model }) => model.name === chosen) ?? models.find(({ devices }) => devices.length);
    if (wanted) select.value = wanted.model.name;
    if (!models.length) note(t("noModel"));
  } catch (error) {
    note(error.message);
  }
}

function note(...lines) {
  byId("try-note").replaceChildren(...lines.map((text) => el("span", { textContent: text })));
}

async function send(files) {
  if (isSending || !files.length) return;
  isSending = true;
  byId("file").disabled = true;
  const problems = files.length > MOST ? [t("tooMany", { n: MOST })] : [];
  const wanted = files.slice(0, MOST);
  const ids = [];
  for (const file of wanted) {
    note(t("sending", { n: wanted.length - ids.length }), ...problems);
    try {
      ids.push(await submit(file));
    } catch (error) {
      problems.push(t("sendFailed", { file: file.name, why: error.message }));
    }
  }
  note(t("sent", { n: ids.length }), ...problems.slice(0, 8));
  isSending = false;
  byId("file").disabled = false;
  byId("file").value = "";
  if (wanted.length === 1 && ids.length) openTask(ids[0]);
}

async function submit(file) {
  const body = new FormData();
  body.append("model", byId("model").value);
  body.append("client_id", "dashboard");
  body.append("priority", byId("priority").value);
  body.append("file", file);
  const { results } = await call("tasks", { method: "POST", body, timeoutMs: UPLOAD_TIMEOUT_MS });
  return results[0].task_id;
}

export function drawUploadAgain() {
  const select = byId("priority");
  const chosen = select.value || "normal";
  select.replaceChildren(...PRIORITIES.map((name) => new Option(t(`priority_${name}`), name)));
  select.value = chosen;
}

export function startUpload() {
  const drop = byId("drop");
  byId("file").addEventListener("change", (event) => send([...event.target.files]));
  byId("try").addEventListener("submit", (event) => event.preventDefault());
  const isFiles = (event) => event.dataTransfer?.types.includes("Files");
  window.addEventListener("dragover", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    drop.dataset.over = "yes";
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) delete drop.dataset.over;
  });
  window.addEventListener("drop", (event) => {
    delete drop.dataset.over;
    if (!isFiles(event)) return;
    event.preventDefault();
    send([...event.dataTransfer.files]);
  });
}
