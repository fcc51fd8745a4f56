// The page's wiring: one stream of news goes to the parts that show it.

import { follow } from "./api.js";
import { addPoint, drawCharts, newestPoint, setPoints } from "./charts.js";
import { drawDetailAgain, noteTasks, startDetail } from "./detail.js";
import { drawDeviceAgain, noteDevices, startDevice } from "./device.js";
import { byId, el, perFrame, setData, setText, show } from "./dom.js";
import { changeDevices, deviceCount, drawFleetAgain, fleetListeners, readyCount, setDevices, startFleet, total } from "./fleet.js";
import { duration, has, otherLanguage, plain, setLanguage, STRINGS, t, translatePage, UNKNOWN } from "./strings.js";
import { changeTasks, countOf, countsListeners, drawTasksAgain, readTasks, setCounts, startTasks } from "./tasks.js";
import { drawUploadAgain, readModels, startUpload } from "./upload.js";

const TILES = [
  ["tileReady", () => `${readyCount()}/${deviceCount()}`, () => (readyCount() < deviceCount() || !deviceCount() ? "warn" : "good")],
  ["tileRate", () => plain(total("pictures_per_s"), 1), () => ""],
  ["tileLatency", () => duration(newestPoint()?.p95_ms ?? null), () => ""],
  ["tileQueued", () => String(countOf("queued") ?? UNKNOWN), () => ""],
  ["tileBusy", () => String(total("in_flight") ?? UNKNOWN), () => ""],
  ["tileFailed", () => String(countOf("failed") ?? UNKNOWN), () => (countOf("failed") ? "bad" : "")],
];

const drawTiles = perFrame(() => {
  const host = byId("tiles");
  if (!host.children.length) host.append(...TILES.map(() => el("div", { className: "tile" }, el("b"), el("span"))));
  TILES.forEach(([key, value, tone], at) => {
    const tile = host.children[at];
    setText(tile.firstChild, value());
    setText(tile.lastChild, t(key));
    setData(tile, "tone", tone());
  });
});

let link = "connecting";
let banner = null;

function drawLink() {
  const pill = byId("link");
  setText(pill, t(link));
  setData(pill, "tone", { live: "good", connecting: "wait", lost: "bad" }[link]);
  const node = byId("banner");
  if (banner) setText(node, t(...banner));
  show(node, banner !== null);
}

let problems = [];

/** What /health says is wrong. That the task manager is away has a banner of its own. */
function setProblems(newProblems) {
  problems = newProblems.filter(({ kind }) => kind !== "task_manager_away");
  drawProblems();
}

function drawProblems() {
  const host = byId("problems");
  host.replaceChildren(...problems.map((problem) => el("li", { textContent: inWords(problem) })));
  show(host, problems.length > 0);
}

function inWords({ kind, text, values }) {
  if (!has(`problem_${kind}`)) return text;
  const standings = Object.entries(values.standings ?? {}).map(([state, n]) => `${n} ${t(state)}`);
  return t(`problem_${kind}`, { ...values, standings: standings.join(", ") });
}

function say(newLink, newBanner) {
  link = newLink;
  banner = newBanner;
  drawLink();
}

/** What was not read while the task manager was away. */
function back() {
  if (banner?.[0] === "away") {
    readModels();
    readTasks();
  }
  say("live", null);
}

const news = {
  hello({ counts, devices, activity, problems }) {
    setProblems(problems);
    say("live", counts ? null : ["away", { reason: "" }]);
    setDevices(devices);
    noteDevices(devices);
    setPoints(activity);
    setCounts(counts);
    readTasks();
    readModels();
    drawTiles();
  },
  devices({ devices, gone }) {
    changeDevices(devices, gone);
    noteDevices(devices);
  },
  tasks({ tasks }) {
    back();
    changeTasks(tasks);
    noteTasks(tasks);
  },
  counts(counts) {
    back();
    setCounts(counts);
  },
  problems: ({ problems }) => setProblems(problems),
  activity(point) {
    addPoint(point);
    drawTiles();
  },
  task_manager_away({ reason }) {
    say("live", ["away", { reason }]);
    setCounts(null);
  },
  up: () => say("live", banner?.[0] === "lostBanner" ? null : banner),
  down: () => say("lost", ["lostBanner"]),
};

function translate() {
  translatePage();
  drawProblems();
  setText(byId("language"), STRINGS[otherLanguage()].languageName);
  drawLink();
  drawTiles();
  drawFleetAgain();
  drawCharts();
  drawTasksAgain();
  drawUploadAgain();
  drawDetailAgain();
  drawDeviceAgain();
}

byId("language").addEventListener("click", () => {
  setLanguage(otherLanguage());
  translate();
});
fleetListeners.push(drawTiles);
countsListeners.push(drawTiles);
startDetail();
startDevice();
startFleet();
startTasks();
startUpload();
translate();
new ResizeObserver(drawCharts).observe(byId("throughput"));
follow(news);
