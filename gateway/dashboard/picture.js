// A picture with its boxes: the picture is an <img>, the boxes are an SVG over it in the picture's own pixels.

import { pictureOf } from "./api.js";
import { el, svg } from "./dom.js";
import { percent, t } from "./strings.js";

const HUES = 8; // classes in dashboard.css

export const hueOf = (detection) => `hue${detection.class_id % HUES}`;

export function pictureWithBoxes(task, result, alt) {
  const figure = el("figure", { className: "picture" });
  const image = el("img", { src: pictureOf(task.task_id), alt });
  image.addEventListener("error", () => figure.replaceChildren(el("p", { className: "empty", textContent: t("pictureGone") })));
  figure.append(image);
  if (result?.width && result.height) {
    image.width = result.width;
    image.height = result.height;
    figure.append(boxes(result));
  }
  return figure;
}

const ruler = document.createElement("canvas").getContext("2d");

/** Of words in the weight of a tag (dashboard.css), for letters of height 1. */
function widthOf(words) {
  ruler.font = `600 100px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(words).width / 100;
}

function boxes({ detections, width, height }) {
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "boxes", "aria-hidden": "true" });
  const letter = Math.max(width, height) / 30;
  for (const found of detections) {
    const { x1, y1, x2, y2 } = found;
    const words = t("confidence", { label: found.label, percent: percent(found.confidence) });
    const wide = (widthOf(words) + 0.5) * letter;
    const left = Math.max(0, Math.min(x1, width - wide));
    const top = y1 > letter * 1.4 ? y1 - letter * 1.4 : y1;
    drawing.append(
      svg(
        "g",
        { class: hueOf(found) },
        svg("rect", { class: "halo", x: x1, y: y1, width: x2 - x1, height: y2 - y1 }),
        svg("rect", { class: "box", x: x1, y: y1, width: x2 - x1, height: y2 - y1 }),
        svg("rect", { class: "tag", x: left, y: top, width: wide, height: letter * 1.4 }),
        svg("text", { x: left + letter * 0.25, y: top + letter * 1.05, "font-size": letter }, words),
      ),
    );
  }
  return drawing;
}
