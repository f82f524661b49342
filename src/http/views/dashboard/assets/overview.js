/** Overview: the plots, the health of what the server depends on, and what happened last. */

import { oneAtATime } from "./?file=connection.js";
import { h, pill, section } from "./?file=dom.js";
import { endColumns } from "./?file=ends.js";
import { byteRate, bytes, count, duration, latency, percent, plural, rate, sum } from "./?file=format.js";
import { column, Plot } from "./?file=plots.js";
import { routeRows } from "./?file=routes.js";
import { Table } from "./?file=table.js";

const ENDS_EVERY_MS = 3_000;
const DAY = 86_400;

export class OverviewView {
  element;
  #connection;
  #plots;
  #health;
  #busiest;
  #ends;
  #timer;
  #hasEnds = false;
  #pollEnds = oneAtATime(() => this.#loadEnds());

  constructor(connection) {
    this.#connection = connection;
    this.#plots = plots();
    this.#health = new Table({
      label: "Health",
      rowKey: (row) => row.what,
      columns: [
        { key: "what", label: "What", value: (row) => row.what, class: "breaks" },
        { key: "state", label: "State", value: (row) => row.state, node: (row) => pill(row.state, row.tone), text: (row) => `${row.state} ${row.tone}` },
        { key: "detail", label: "Detail", text: (row) => row.detail, class: "words" },
      ],
    });
    this.#busiest = new Table({
      label: "Busiest routes",
      rowKey: (row) => row.key,
      sort: { key: "rate", descending: true },
      empty: "No route has had a request or a message yet.",
      columns: [
        { key: "label", label: "Route", value: (row) => row.label },
        { key: "handler", label: "Served by", value: (row) => row.handler, wide: true },
        { key: "rate", label: "Rate", numeric: true, value: (row) => row.activity, text: (row) => rate(row.activity) },
        { key: "open", label: "Open", numeric: true, value: (row) => row.open ?? -1, text: (row) => count(row.open) },
        { key: "errors", label: "Errors", numeric: true, value: (row) => row.errors, text: (row) => count(row.errors), tone: (row) => (row.errors > 0 ? "bad" : "") },
        { key: "p99", label: "p99", numeric: true, value: (row) => row.p99 ?? -1, text: (row) => latency(row.p99) },
      ],
    });
    this.#ends = new Table({
      label: "Last failures and refusals",
      rowKey: alike,
      empty: "No failure and no refusal.",
      columns: endColumns(["at", "route", "cause", "client"]),
    });
    this.element = h(
      "div",
      {},
      h("h2", { class: "hidden", tabindex: "-1" }, "Overview"),
      h("div", { class: "plots" }, ...this.#plots.map((plot) => plot.element)),
      h(
        "div",
        { class: "columns" },
        section("Busiest routes", this.#busiest.element),
        section("Health", this.#health.element),
      ),
      section("Last failures and refusals", this.#ends.element),
    );
    this.#timer = setInterval(this.#pollEnds, ENDS_EVERY_MS);
    this.#pollEnds();
  }

  close() {
    clearInterval(this.#timer);
    this.#plots.forEach((plot) => plot.close());
  }

  update() {
    const { stats } = this.#connection;
    if (stats === null) return;
    if (!this.#hasEnds) this.#pollEnds();
    this.#plots.forEach((plot) => plot.update(this.#connection));
    this.#health.update(healthRows(stats));
    const rows = routeRows(this.#connection, "http").concat(routeRows(this.#connection, "websocket"));
    const active = rows.filter((row) => row.total > 0 || row.open > 0);
    active.sort((one, other) => other.activity - one.activity || other.total - one.total);
    this.#busiest.update(active.slice(0, 8));
  }

  async #loadEnds() {
    try {
      const { ends } = await this.#connection.call("ends", { filter: { kinds: ["failed", "refused", "error", "connection"] } });
      this.#hasEnds = true;
      this.#ends.update(grouped(ends).slice(0, 8));
    } catch {
      // The status of the connection is shown already.
    }
  }
}

/** What makes ends alike: those of one cause on one route. */
function alike(end) {
  return JSON.stringify([end.route, end.code, end.cause, end.reason, end.rule]);
}

/** Puts alike ends into one row, with the newest of them and their number. */
function grouped(ends) {
  const groups = new Map();
  for (const end of ends) {
    const group = groups.get(alike(end));
    if (group === undefined) groups.set(alike(end), { ...end, times: 1 });
    else group.times += 1;
  }
  return [...groups.values()];
}

function plots() {
  const requests = ["2xx", "3xx", "4xx", "5xx"];
  const tones = { "2xx": "one", "3xx": "two", "4xx": "three", "5xx": "bad" };
  return [
    new Plot("Connections", [{ label: "all", values: column("connections") }, { label: "WebSockets", values: column("sockets") }], count, { steps: "whole" }),
    new Plot("Requests", requests.map((label) => ({ label, tone: tones[label], values: column(label) })), rate),
    new Plot("Latency", ["p50", "p90", "p99"].map((label) => ({ label, values: column(label) })), latency),
    new Plot("Messages", [{ label: "in", values: column("messages_received") }, { label: "out", values: column("messages_sent") }], rate),
    new Plot("Traffic of WebSockets", [{ label: "in", values: column("bytes_received") }, { label: "out", values: column("bytes_sent") }], byteRate, { steps: "binary" }),
    new Plot("WebSockets per second", [{ label: "opened", values: column("opened") }, { label: "closed", values: column("closed") }], rate),
    new Plot("Processor", [{ label: "in use", values: column("cpu"), fill: true }], percent),
    new Plot("Memory", [{ label: "resident", values: column("resident_bytes"), fill: true }, { label: "send queues", values: column("queue_bytes") }], bytes, { steps: "binary" }),
  ];
}

/** What the server depends on, and what went wrong since it started. */
export function healthRows(stats) {
  const { layer, connections, messages } = stats;
  const redis = layer.backend === "redis";
  const rows = [
    {
      what: "Channel layer",
      state: layer.connected ? "ok" : "away",
      tone: layer.connected ? "good" : "bad",
      detail: redis ? `Redis: ${count(layer.published)} events out, ${count(layer.received)} in, ${count(layer.unpublished)} not taken` : "in memory, this process alone",
    },
  ];
  const add = (what, trouble, word, detail) => rows.push({ what, state: trouble > 0 ? `${count(trouble)} ${word}` : "ok", tone: trouble > 0 ? "warn" : "good", detail });
  for (const [store, errors] of Object.entries(stats.store_errors)) add(`Store ${store}`, errors, "unanswered", "queries since the start");
  for (const [url, one] of Object.entries(stats.upstreams)) {
    const tone = one.up === one.servers ? "good" : one.up > 0 ? "warn" : "bad";
    rows.push({ what: url, state: `${one.up} of ${one.servers} up`, tone, detail: `${plural(one.active, "request")} now, ${count(sum(one.requests))} in all` });
  }
  for (const [endpoint, isOpen] of Object.entries(stats.backends)) {
    rows.push({ what: endpoint, state: isOpen ? "away" : "ok", tone: isOpen ? "bad" : "good", detail: isOpen ? "the circuit breaker is open" : "the circuit breaker is closed" });
  }
  for (const [name, seconds] of Object.entries(stats.certificates)) {
    const tone = seconds < 3 * DAY ? "bad" : seconds < 14 * DAY ? "warn" : "good";
    rows.push({ what: `Certificate ${name}`, state: seconds > 0 ? "valid" : "expired", tone, detail: `for another ${duration(seconds)}` });
  }
  const refused = Object.entries(connections.refused).filter(([, times]) => times > 0).map(([reason, times]) => `${count(times)} by ${reason}`);
  const { http1 = 0, http2 = 0 } = connections.protocols;
  const open = `${count(http1)} of HTTP/1.1, ${count(http2)} of HTTP/2, ${count(connections.security.tls ?? 0)} of them encrypted`;
  add("Connections", sum(connections.refused), "refused", `${open}; ${count(connections.accepted)} accepted${refused.length > 0 ? `; refused ${refused.join(", ")}` : ""}`);
  const lost = messages.dropped + sum(layer.dropped);
  add("Messages", lost, "dropped", lost > 0 ? "their clients read too slowly, or had gone" : "none dropped");
  const { replaced = 0, refused: rejected = 0 } = stats.reloads;
  add("Configuration", rejected, "refused", plural(replaced, "reload"));
  add("Panics", stats.panics, stats.panics === 1 ? "panic" : "panics", stats.panics > 0 ? "the log has each" : "none");
  if (stats.log_lines_dropped > 0) add("Log", stats.log_lines_dropped, "dropped", "lines that could not be written");
  return rows;
}
