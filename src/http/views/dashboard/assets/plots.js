/** Plots: small charts of the last minutes. What they show is also told as text, by their keys. */

import { h, setText } from "./?file=dom.js";

const POINTS = 300;
const HEIGHT = 92;
const SIXTY = [15, 30, 60, 120, 300, 600];
const BINARY = Array.from({ length: 50 }, (_, exponent) => 2 ** exponent);
const WHOLE = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();
const TONES = ["one", "two", "three", "four"];

const cursor = () => window.uPlot.sync("dashboard");

/** Returns a colour of the current scheme. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/**
 * One chart with a title and a key for each series.
 *
 * `series`: `{label, tone?, fill?, values(connection)}`, where `values` returns a value for each point. `format` makes texts of
 * values. `steps` are the steps between the lines of the vertical axis: `"whole"`, `"binary"`, or any.
 */
export class Plot {
  element;
  #series;
  #format;
  #steps;
  #keys;
  #canvas;
  #empty;
  #chart = null;
  #data = [];
  #resized;
  #scheme = matchMedia("(prefers-color-scheme: dark)");
  #redraw = () => this.#rebuild();

  constructor(title, series, format, { steps } = {}) {
    this.#steps = { whole: WHOLE, binary: BINARY }[steps];
    this.#series = series.map((one, at) => ({ tone: TONES[at], ...one }));
    this.#format = format;
    this.#keys = this.#series.map(() => h("dd"));
    const keys = this.#series.map((one, at) => h("div", { dataset: { tone: one.tone } }, h("dt", {}, one.label), this.#keys[at]));
    this.#canvas = h("div", { class: "canvas", "aria-hidden": "true" });
    this.#empty = h("p", { class: "empty" }, "no data yet");
    this.element = h(
      "div",
      { class: "plot", role: "group", "aria-label": title },
      h("div", { class: "plot-head" }, h("h3", {}, title), h("dl", { class: "keys" }, ...keys)),
      this.#canvas,
      this.#empty,
    );
    this.#resized = new ResizeObserver(() => this.#chart?.setSize({ width: this.#canvas.clientWidth, height: HEIGHT }));
    this.#resized.observe(this.#canvas);
    this.#scheme.addEventListener("change", this.#redraw);
  }

  /** Draws the connection's points. The time axis always spans the same time, so that lines move and do not stretch. */
  update(connection) {
    const times = connection.points.map((point) => point[0]);
    const columns = this.#series.map((one) => one.values(connection));
    this.#data = withGaps(times, columns);
    const hasData = columns.some((values) => values.some((value) => value !== null && value !== undefined));
    this.#empty.hidden = hasData;
    this.#canvas.hidden = !hasData;
    if (!hasData) {
      this.#keys.forEach((key) => setText(key, "–"));
      return;
    }
    if (this.#chart === null) this.#rebuild();
    else this.#chart.setData(this.#data);
    if ((this.#chart?.cursor.idx ?? null) === null) this.#tell(this.#data[0].length - 1);
  }

  close() {
    this.#resized.disconnect();
    this.#scheme.removeEventListener("change", this.#redraw);
    this.#chart?.destroy();
    this.#chart = null;
  }

  /** Writes the values at a point into the keys. */
  #tell(at) {
    this.#keys.forEach((key, series) => setText(key, this.#format(this.#data[series + 1]?.[at] ?? null)));
  }

  #rebuild() {
    this.#chart?.destroy();
    this.#chart = null;
    if (this.#data.length === 0 || this.#canvas.clientWidth === 0) return;
    const axis = {
      stroke: colour("quiet"),
      font: "10px system-ui, sans-serif",
      ticks: { show: false },
      grid: { stroke: colour("line"), width: 1 },
    };
    const options = {
      width: this.#canvas.clientWidth,
      height: HEIGHT,
      padding: [6, 16, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: cursor().key }, drag: { x: false, y: false }, points: { size: 6 }, y: false },
      scales: {
        x: { time: true, range: (_, low, high) => [high - POINTS, high] },
        y: { range: (_, low, high) => [0, high > 0 ? high * 1.15 : 1] },
      },
      axes: [
        { ...axis, size: 18, gap: 2, space: 44, incrs: SIXTY, grid: { show: false }, values: (_, times) => times.map((time) => clockOf(time)) },
        { ...axis, size: 54, gap: 4, space: 26, ...(this.#steps === undefined ? {} : { incrs: this.#steps }), values: (_, values) => values.map((value) => this.#format(value)) },
      ],
      series: [
        {},
        ...this.#series.map((one) => ({
          label: one.label,
          stroke: colour(one.tone),
          width: 1.5,
          fill: one.fill ? `${colour(one.tone)}22` : undefined,
          points: { show: false },
          spanGaps: false,
        })),
      ],
      hooks: {
        setCursor: [(chart) => this.#tell(chart.cursor.idx ?? this.#data[0].length - 1)],
      },
    };
    this.#chart = new window.uPlot(options, this.#data, this.#canvas);
  }
}

function clockOf(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}

/** Puts a point without values where nothing was sampled for some seconds, so that no line is drawn across. */
function withGaps(times, columns) {
  const data = [[], ...columns.map(() => [])];
  times.forEach((time, at) => {
    const before = times[at - 1];
    if (before !== undefined && time - before > 3) {
      data[0].push(before + 1);
      columns.forEach((_, column) => data[column + 1].push(null));
    }
    data[0].push(time);
    columns.forEach((values, column) => data[column + 1].push(values[at] ?? null));
  });
  return data;
}

/** Returns a function that gives a column of the points. */
export function column(name) {
  return (connection) => {
    const at = connection.columns.indexOf(name);
    return connection.points.map((point) => point[at] ?? null);
  };
}
