// What the page asks of the gateway. Addresses are relative, so that a proxy may put the page below a path.

import { t } from "./strings.js";

const BASE = "api/v1/";
const TIMEOUT_MS = 20_000;

/** The parsed answer. Throws an Error whose message is the problem's detail. */
export async function call(path, { method = "GET", body, timeoutMs = TIMEOUT_MS, signal } = {}) {
  const limit = AbortSignal.timeout(timeoutMs);
  let reply;
  try {
    reply = await fetch(BASE + path, { method, body, signal: signal ? AbortSignal.any([signal, limit]) : limit });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error(t("noGateway")); // the browser's own words differ, and say less
  }
  const isJson = (reply.headers.get("Content-Type") || "").includes("json");
  const answer = isJson ? await reply.json() : await reply.text();
  if (!reply.ok) {
    const error = new Error((isJson && answer.detail) || `${reply.status} ${reply.statusText}`);
    error.status = reply.status;
    throw error;
  }
  return answer;
}

export const post = (path) => call(path, { method: "POST" });
export const part = encodeURIComponent;
export const pictureOf = (taskId) => `${BASE}tasks/${part(taskId)}/picture`;

const REOPEN_MS = 3000;
const SILENCE_MS = 25_000; // the gateway says "alive" every 10 s if it has nothing else to say
const EVENTS = ["hello", "devices", "tasks", "counts", "activity", "problems", "task_manager_away"];

/** Live news for ever. on: event name -> handler of its data; and `up`, `down` of the connection. */
export function follow(on) {
  const source = new EventSource(`${BASE}events`);
  let isOver = false;
  let silence = 0;
  const again = () => {
    if (isOver) return;
    isOver = true;
    clearTimeout(silence);
    source.close();
    on.down();
    setTimeout(() => follow(on), REOPEN_MS);
  };
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(again, SILENCE_MS); // a gateway that hangs keeps its connections
  };
  heard();
  for (const name of [...EVENTS, "alive"]) {
    source.addEventListener(name, (event) => {
      heard();
      on[name]?.(JSON.parse(event.data));
    });
  }
  source.onopen = () => on.up();
  for (const name of ["dropped", "closing"]) source.addEventListener(name, again);
  // The browser gives up for good after an answer that is no stream, and else tries by itself: one way is simpler.
  source.onerror = again;
}
