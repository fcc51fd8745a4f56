// Small line charts in SVG, with a line that follows the pointer. Enough for two curves; no library needed.

import { byId, el, perFrame, svg } from "./dom.js";
import { plain, t } from "./strings.js";

const HEIGHT = 190;
const LEFT = 44;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 24;
const SPANS_MIN = [2, 5, 10]; // the shortest one that holds what there is
const MAX_POINTS = 120;

const points = [];

const CHARTS = [
  {
    id: "throughput",
    digits: 1,
    lines: [
      { key: "labelled", tone: "a", isFilled: true, value: (p) => p.labelled / p.seconds },
      { key: "failedPerS", tone: "bad", isHiddenAtZero: true, value: (p) => p.failed / p.seconds },
    ],
  },
  {
    id: "latency",
    digits: 0,
    lines: [
      { key: "typical", tone: "a", value: (p) => p.p50_ms },
      { key: "slow", tone: "b", value: (p) => p.p95_ms },
    ],
  },
];

export function setPoints(all) {
  points.splice(0, points.length, ...all.slice(-MAX_POINTS));
  drawCharts();
}

export function addPoint(point) {
  if (points.length && point.at_ms <= points.at(-1).at_ms) return; // a hello has told it already
  points.push(point);
  if (points.length > MAX_POINTS) points.shift();
  drawCharts();
}

export const newestPoint = () => points.at(-1) ?? null;

export const drawCharts = perFrame(() => CHARTS.forEach(draw));

/** Round numbers that hold `max` in about four steps. */
function ticksFor(max) {
  const rough = Math.max(max, 1) / 4;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * size).find((n) => n >= rough);
  const count = Math.ceil(Math.max(max, 1) / step);
  return Array.from({ length: count + 1 }, (_, i) => i * step);
}

const short = (value) => (value >= 10_000 ? `${+(value / 1000).toFixed(1)}k` : String(+value.toFixed(2)));

function draw(chart) {
  const host = byId(chart.id);
  const width = Math.max(260, host.clientWidth);
  const lines = chart.lines.filter((line) => !line.isHiddenAtZero || points.some((p) => line.value(p) > 0));
  const values = lines.flatMap((line) => points.map(line.value)).filter((v) => v !== null);
  const ticks = ticksFor(Math.max(0, ...values));
  const end = points.at(-1)?.at_ms ?? 0;
  const age = end - (points[0]?.at_ms ?? 0);
  const span = SPANS_MIN.find((minutes) => age <= minutes * 60_000) ?? SPANS_MIN.at(-1);
  const x = (ms) => LEFT + (1 - (end - ms) / (span * 60_000)) * (width - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - (value / ticks.at(-1)) * (HEIGHT - TOP - BOTTOM);
  const title = byId(`${chart.id}-title`).textContent;
  const now = points.length ? plain(lines[0].value(points.at(-1)), chart.digits) : plain(null);
  const summary = t("chartSummary", { title, now, max: plain(values.length ? Math.max(...values) : null, chart.digits) });
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": summary });
  const hasWork = values.some((value) => value > 0);
  for (const value of hasWork ? ticks : [0]) {
    drawing.append(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
    drawing.append(svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  for (const minutes of [span, span / 2, 0]) {
    const words = minutes ? `−${t("minutesAgo", { n: minutes })}` : t("nowTick");
    const anchor = minutes === span ? "start" : minutes ? "middle" : "end";
    drawing.append(svg("text", { x: x(end - minutes * 60_000), y: HEIGHT - 6, "text-anchor": anchor }, words));
  }
  for (const line of lines) drawLine(drawing, line, x, y);
  const legend = el("p", { className: "legend" });
  for (const line of lines) {
    const key = el("i");
    key.dataset.tone = line.tone;
    legend.append(el("span", {}, key, t(line.key), " ", el("b", { textContent: points.length ? plain(line.value(points.at(-1)), chart.digits) : "" })));
  }
  host.replaceChildren(legend, drawing);
  if (hasWork) follow(host, drawing, { lines, x, y, width, digits: chart.digits });
  else host.append(el("p", { className: "over", textContent: t("chartWaits") }));
}

/** Unknown values leave a gap. */
function drawLine(drawing, line, x, y) {
  const pieces = [[]];
  for (const point of points) {
    const value = line.value(point);
    if (value === null) pieces.push([]);
    else pieces.at(-1).push([x(point.at_ms), y(value)]);
  }
  for (const piece of pieces.filter((p) => p.length)) {
    const path = piece.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
    if (line.isFilled) {
      const area = `${path}L${piece.at(-1)[0].toFixed(1)} ${y(0)}L${piece[0][0].toFixed(1)} ${y(0)}Z`;
      drawing.append(svg("path", { class: `area ${line.tone}`, d: area }));
    }
    if (piece.length === 1) drawing.append(svg("circle", { class: `one ${line.tone}`, cx: piece[0][0], cy: piece[0][1], r: 2.5 }));
    else drawing.append(svg("path", { class: `line ${line.tone}`, d: path }));
  }
}

function follow(host, drawing, { lines, x, y, width, digits }) {
  const rule = svg("line", { class: "rule", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  const tip = el("p", { className: "tip", hidden: true });
  drawing.append(rule);
  host.append(tip);
  const hide = () => {
    rule.setAttribute("visibility", "hidden");
    tip.hidden = true;
  };
  drawing.addEventListener("pointerleave", hide);
  drawing.addEventListener("pointermove", (event) => {
    const at = event.clientX - drawing.getBoundingClientRect().left;
    const near = points.reduce((best, p) => (Math.abs(x(p.at_ms) - at) < Math.abs(x(best.at_ms) - at) ? p : best));
    const px = x(near.at_ms);
    rule.setAttribute("x1", px);
    rule.setAttribute("x2", px);
    rule.setAttribute("visibility", "visible");
    const said = lines.map((line) => `${t(line.key)} ${plain(line.value(near), digits)}`);
    tip.textContent = [new Date(near.at_ms).toLocaleTimeString(), ...said].join("\n");
    tip.hidden = false;
    tip.style.left = px > width / 2 ? "auto" : `${px + 10}px`;
    tip.style.right = px > width / 2 ? `${width - px + 10}px` : "auto";
    tip.style.top = `${y(0) / 3}px`;
  });
}
