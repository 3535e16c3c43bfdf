// Line charts, drawn as SVG.

import { make } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 190;
const EDGE = { left: 52, right: 10, top: 10, bottom: 24 };

function svg(name, attributes = {}, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** A round number at least as large. */
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

/**
 * A chart in a figure. `draw(points, series)` shows it anew: points have `at_ms`, series are { name, of(point), tone }, `of`
 * answers a number or null where there is none. The scale reaches at least to `least`.
 */
export class Chart {
  constructor(figure, title, unit, format, least = 0) {
    this.format = format;
    this.least = least;
    this.title = title;
    this.legend = make("div", { class: "legend" });
    this.plot = svg("svg", { role: "img", height: HEIGHT });
    figure.replaceChildren(make("figcaption", {}, title, make("span", { class: "unit" }, unit)), this.plot, this.legend);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.points && this.draw(this.points, this.series)).observe(figure);
  }

  draw(points, series) {
    this.points = points;
    this.series = series;
    const width = Math.max(this.plot.parentElement.clientWidth - 2 * 14, 200);
    this.plot.setAttribute("width", width);
    this.plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const values = series.flatMap((one) => points.map(one.of)).filter((value) => value !== null && value !== undefined);
    const top = ceiling(Math.max(this.least, ...values));
    const begin = points.length > 0 ? points[0].at_ms : 0;
    const end = points.length > 0 ? points[points.length - 1].at_ms : 1;
    const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
    this.x = (ms) => EDGE.left + (end === begin ? 1 : (ms - begin) / (end - begin)) * inner.width;
    const y = (value) => EDGE.top + (1 - value / top) * inner.height;
    this.plot.replaceChildren();
    for (const part of [0, 0.5, 1]) {
      const at = y(part * top);
      this.plot.append(svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: at, y2: at }));
      this.plot.append(svg("text", { class: "axis", x: EDGE.left - 6, y: at + 4, "text-anchor": "end" }, this.format(part * top)));
    }
    if (points.length > 1) {
      this.plot.append(svg("text", { class: "axis", x: EDGE.left, y: HEIGHT - 6 }, clock(begin)));
      this.plot.append(svg("text", { class: "axis", x: width - EDGE.right, y: HEIGHT - 6, "text-anchor": "end" }, clock(end)));
    }
    for (const one of series) {
      let path = "";
      let isDown = false;
      for (const point of points) {
        const value = one.of(point);
        if (value === null || value === undefined) {
          isDown = false;
          continue;
        }
        // A point without neighbours is a dot.
        path += `${isDown ? "L" : "M"}${this.x(point.at_ms).toFixed(1)} ${y(value).toFixed(1)}${isDown ? "" : "l0 0"}`;
        isDown = true;
      }
      this.plot.append(svg("path", { class: `line ${one.tone}`, d: path || "M0 0" }));
    }
    this.cursor = svg("line", { class: "cursor", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
    this.plot.append(this.cursor);
    this.tell(points[points.length - 1]);
  }

  /** Shows the values at the pointer, or the last ones. */
  point(event) {
    if (!this.points || this.points.length === 0) return;
    let shown = this.points[this.points.length - 1];
    this.cursor.setAttribute("visibility", event ? "visible" : "hidden");
    if (event) {
      const at = event.clientX - this.plot.getBoundingClientRect().left;
      const far = (point) => Math.abs(this.x(point.at_ms) - at);
      shown = this.points.reduce((best, point) => (far(point) < far(best) ? point : best));
      this.cursor.setAttribute("x1", this.x(shown.at_ms));
      this.cursor.setAttribute("x2", this.x(shown.at_ms));
    }
    this.tell(shown);
  }

  tell(point) {
    const value = (one) => {
      const found = point === undefined ? null : one.of(point);
      return found === null || found === undefined ? "–" : this.format(found);
    };
    const texts = this.series.map((one) => `${one.name} ${value(one)}`);
    this.plot.setAttribute("aria-label", `${this.title}: ${texts.join(", ")}`);
    this.legend.replaceChildren(
      ...this.series.map((one) =>
        make("span", { class: "entry" }, make("span", { class: `swatch ${one.tone}` }), `${one.name} `, make("b", {}, value(one))),
      ),
    );
  }
}
