/** Routes: both tables, with counts, errors and latencies by route. */

import { field, h, section } from "./?file=dom.js";
import { byteRate, bytes, count, latency, rate, sum } from "./?file=format.js";
import { Table } from "./?file=table.js";

/** Returns a row for each route of a table. `activity` is what happens on it per second. */
export function routeRows(connection, table) {
  const { stats, rates } = connection;
  return Object.entries(stats[table]).map(([label, route]) => {
    const of = rates[table][label] ?? {};
    const answers = route.responses ?? route.handshakes;
    const quantiles = of.quantiles ?? null;
    return {
      key: `${table} ${label}`,
      table,
      label,
      index: route.index,
      path: route.path,
      handler: route.handler,
      middleware: route.middleware.join(", "),
      total: sum(answers),
      rate: of.requests ?? null,
      errors: answers["5xx"] ?? 0,
      refused: answers["4xx"] ?? 0,
      p50: quantiles?.[0] ?? null,
      p99: quantiles?.[2] ?? null,
      open: route.open ?? null,
      received: of.received ?? null,
      sent: of.sent ?? null,
      bytes: of.bytesReceived === undefined ? null : of.bytesReceived + of.bytesSent,
      bytesInAll: (route.messages?.bytes_received ?? 0) + (route.messages?.bytes_sent ?? 0),
      dropped: route.messages?.dropped ?? 0,
      closed: sum(route.closed),
      activity: (of.requests ?? 0) + (of.received ?? 0) + (of.sent ?? 0),
    };
  });
}

const bad = (value) => (value > 0 ? "bad" : "");

const COMMON = [
  { key: "index", label: "#", numeric: true, descending: false, wide: true, value: (row) => row.index, text: (row) => String(row.index + 1) },
];
const NAME = { key: "label", label: "Route", value: (row) => row.label };
const PATH = { key: "path", label: "Path", value: (row) => row.path, class: "code", wide: true };
const MIDDLEWARE = { key: "middleware", label: "Middleware", value: (row) => row.middleware, class: "words", wide: true };
const number = (key, label, text = count, more = {}) => ({ key, label, numeric: true, value: (row) => row[key] ?? -1, text: (row) => text(row[key]), ...more });

export class RoutesView {
  element;
  #connection;
  #filter;
  #tables;

  constructor(connection) {
    this.#connection = connection;
    this.#filter = h("input", { type: "search", placeholder: "name, path, view or middleware", oninput: () => this.update() });
    this.#tables = {
      http: new Table({
        label: "HTTP table",
        rowKey: (row) => row.key,
        sort: { key: "index", descending: false },
        empty: "No route.",
        columns: [
          NAME,
          ...COMMON,
          PATH,
          { key: "handler", label: "View", value: (row) => row.handler, wide: true },
          number("rate", "Rate", rate),
          number("total", "Responses"),
          number("refused", "4xx", count, { wide: true }),
          number("errors", "5xx", count, { tone: (row) => bad(row.errors) }),
          number("p50", "p50", latency, { wide: true }),
          number("p99", "p99", latency),
          MIDDLEWARE,
        ],
      }),
      websocket: new Table({
        label: "WebSocket table",
        rowKey: (row) => row.key,
        sort: { key: "index", descending: false },
        empty: "No route.",
        columns: [
          NAME,
          ...COMMON,
          PATH,
          { key: "handler", label: "Consumer", value: (row) => row.handler, wide: true },
          {
            ...number("open", "Open"),
            node: (row) => h("a", { href: `#sockets/route/${encodeURIComponent(row.label)}` }, count(row.open)),
          },
          number("received", "In", rate),
          number("sent", "Out", rate),
          number("bytes", "Traffic", byteRate, { wide: true }),
          number("bytesInAll", "Bytes", bytes, { wide: true }),
          number("total", "Handshakes", count, { wide: true }),
          number("refused", "Refused", count, { wide: true }),
          number("errors", "5xx", count, { wide: true, tone: (row) => bad(row.errors) }),
          number("dropped", "Dropped", count, { tone: (row) => (row.dropped > 0 ? "warn" : "") }),
          {
            ...number("closed", "Ended", count, { wide: true }),
            node: (row) => h("a", { href: `#ends/route/${encodeURIComponent(row.label)}` }, count(row.closed)),
          },
          MIDDLEWARE,
        ],
      }),
    };
    this.element = h(
      "div",
      {},
      h("div", { class: "section-head" }, h("h2", { tabindex: "-1" }, "Routes"), field("Filter", this.#filter)),
      section("HTTP", this.#tables.http.element),
      section("WebSocket", this.#tables.websocket.element),
    );
    // The page has one heading of the second rank for the whole part.
    for (const heading of this.element.querySelectorAll("section h2")) {
      heading.replaceWith(h("h3", {}, heading.textContent));
    }
  }

  update() {
    if (this.#connection.stats === null) return;
    const wanted = this.#filter.value.trim().toLowerCase();
    const isWanted = (row) => [row.label, row.path, row.handler, row.middleware].some((text) => text.toLowerCase().includes(wanted));
    for (const [name, table] of Object.entries(this.#tables)) table.update(routeRows(this.#connection, name).filter(isWanted));
  }
}
