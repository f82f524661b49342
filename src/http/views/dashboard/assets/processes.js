/** Processes: all processes of the channel layer, side by side. */

import { h, pill, section, setText } from "./?file=dom.js";
import { bytes, count, duration, latency, percent, plural, rate } from "./?file=format.js";
import { oneAtATime, quantiles } from "./?file=connection.js";
import { Table } from "./?file=table.js";

const EVERY_MS = 2_000;
const FORGET_MS = 10 * 60_000;

const number = (key, label, text = count, more = {}) => ({ key, label, numeric: true, value: (row) => row[key] ?? -1, text: (row) => text(row[key]), ...more });

export class ProcessesView {
  element;
  #connection;
  #table;
  #status = h("p", { class: "quiet", "aria-live": "polite" });
  #timer;
  #known = new Map();
  #poll = oneAtATime(() => this.#fetch());

  constructor(connection) {
    this.#connection = connection;
    this.#table = new Table({
      label: "Processes",
      rowKey: (row) => row.node,
      sort: { key: "name", descending: false },
      columns: [
        { key: "name", label: "Process", value: (row) => row.name, class: "breaks" },
        { key: "state", label: "State", value: (row) => row.state, text: (row) => row.state, node: (row) => pill(row.state, row.tone) },
        { key: "version", label: "Version", value: (row) => row.version, wide: true },
        number("uptime", "Up", duration, { wide: true }),
        number("sockets", "Sockets"),
        number("connections", "Connections", count, { wide: true }),
        number("requests", "Requests", rate),
        number("errors", "5xx", rate, { wide: true, tone: (row) => (row.errors > 0 ? "bad" : "") }),
        number("p99", "p99", latency, { wide: true }),
        number("received", "In", rate, { wide: true }),
        number("sent", "Out", rate, { wide: true }),
        number("groups", "Groups", count, { wide: true }),
        number("cpu", "Processor", percent),
        number("memory", "Memory", bytes),
        number("queue", "Queues", bytes, { wide: true }),
      ],
    });
    this.element = section("Processes", this.#table.element, this.#status);
    this.#timer = setInterval(this.#poll, EVERY_MS);
    this.#poll();
  }

  close() {
    clearInterval(this.#timer);
  }

  update() {
    if (this.#known.size === 0) this.#poll();
  }

  async #fetch() {
    try {
      const { processes, unanswered } = await this.#connection.call("processes");
      const now = Date.now();
      for (const stats of processes) {
        const before = this.#known.get(stats.node);
        this.#known.set(stats.node, { row: row(stats, before?.stats), stats, seen: now });
      }
      const answered = new Set(processes.map((stats) => stats.node));
      const rows = [];
      for (const [node, known] of this.#known) {
        if (answered.has(node)) rows.push(known.row);
        else if (now - known.seen > FORGET_MS) this.#known.delete(node);
        // It ended, or it does not answer: its last figures would mislead.
        else rows.push({ node, name: known.row.name, version: known.row.version, state: `silent for ${duration((now - known.seen) / 1000)}`, tone: "bad" });
      }
      this.#table.update(rows);
      const silent = unanswered > 0 ? `; ${count(unanswered)} did not answer within a second` : "";
      setText(this.#status, `${plural(processes.length, "process").replace("processs", "processes")}${silent}`);
    } catch (error) {
      if (this.#connection.status.status === "open") setText(this.#status, error.message);
    }
  }
}

function row(stats, before) {
  const seconds = before === undefined ? 0 : stats.uptime - before.uptime;
  const per = (read) => (seconds > 0 ? Math.max(0, read(stats) - read(before)) / seconds : null);
  const all = (one) => Object.values(one.requests).reduce((sum, each) => sum + each, 0);
  return {
    node: stats.node,
    name: stats.name,
    state: stats.draining ? "draining" : stats.layer.connected ? "ok" : "without Redis",
    tone: stats.draining || !stats.layer.connected ? "warn" : "good",
    version: stats.version,
    uptime: stats.uptime,
    sockets: stats.sockets.open,
    connections: stats.connections.open,
    requests: per(all),
    errors: per((one) => one.requests["5xx"] ?? 0),
    p99: quantiles(stats.latency, before?.latency)?.[2] ?? null,
    received: per((one) => one.messages.received),
    sent: per((one) => one.messages.sent),
    groups: stats.groups,
    cpu: per((one) => one.process.cpu_seconds),
    memory: stats.process.resident_bytes,
    queue: stats.sockets.queue_bytes,
  };
}
