/** Sockets: the open WebSockets of all processes, a page at a time. */

import { oneAtATime } from "./?file=connection.js";
import { field, h, section, setText } from "./?file=dom.js";
import { bytes, count, duration, plural } from "./?file=format.js";
import { Table } from "./?file=table.js";

const EVERY_MS = 3_000;

/** The columns of a socket in a table. */
export function socketColumns() {
  return [
    {
      key: "id",
      label: "Socket",
      value: (row) => row.id,
      class: "code",
      node: (row) => h("a", { href: `#socket/${encodeURIComponent(row.id)}` }, row.id.replace(/^[0-9a-f]+(?=\.)/, (node) => node.slice(-4))),
      text: (row) => row.id,
    },
    { key: "route", label: "Route", value: (row) => row.route },
    { key: "path", label: "Path", value: (row) => row.path, class: "code cut", wide: true },
    { key: "user", label: "User", value: (row) => row.user?.name ?? "", class: "cut" },
    { key: "client", label: "Client", value: (row) => row.client ?? "unix", class: "code", wide: true },
    { key: "groups", label: "Groups", numeric: true, value: (row) => row.groups.length, wide: true },
    { key: "queue", label: "Queue", numeric: true, value: (row) => row.queue_bytes, text: (row) => bytes(row.queue_bytes), tone: (row) => (row.queue_bytes > 0 ? "warn" : "") },
    { key: "sent", label: "Sent", numeric: true, value: (row) => row.bytes_sent, text: (row) => bytes(row.bytes_sent), wide: true },
    { key: "dropped", label: "Dropped", numeric: true, value: (row) => row.dropped, text: (row) => count(row.dropped), wide: true, tone: (row) => (row.dropped > 0 ? "bad" : "") },
    { key: "age", label: "Open for", numeric: true, value: (row) => -Date.parse(row.opened_at), text: (row) => duration((Date.now() - Date.parse(row.opened_at)) / 1000) },
  ];
}

export class SocketsView {
  element;
  #connection;
  #inputs;
  #table;
  #status;
  #next;
  #first;
  #cursor = null;
  #nextCursor = null;
  #timer;
  #load = 0;
  #poll = oneAtATime(() => this.#fetch());

  constructor(connection, [key = "", value = ""] = []) {
    this.#connection = connection;
    const input = (name, placeholder) => h("input", { name, placeholder, autocomplete: "off", value: name === key ? value : null });
    this.#inputs = { route: input("route", "name or path"), user: input("user", "id"), group: input("group", "name") };
    this.#table = new Table({
      label: "Open WebSockets",
      rowKey: (row) => row.id,
      sort: { key: "id", descending: false },
      empty: "No open WebSocket matches.",
      columns: socketColumns(),
    });
    this.#status = h("p", { class: "quiet", "aria-live": "polite" });
    this.#first = h("button", { type: "button", disabled: true, onclick: () => this.#open(null) }, "First page");
    this.#next = h("button", { type: "button", disabled: true, onclick: () => this.#open(this.#nextCursor) }, "Next page");
    const form = h(
      "form",
      { class: "filters", onsubmit: (event) => (event.preventDefault(), this.#open(null)) },
      field("Route", this.#inputs.route),
      field("User", this.#inputs.user),
      field("Group", this.#inputs.group),
      h("button", { type: "submit" }, "Show"),
    );
    this.element = section("Sockets", form, this.#table.element, h("div", { class: "pager" }, this.#first, this.#next, this.#status));
    this.#timer = setInterval(this.#poll, EVERY_MS);
    this.#open(null);
  }

  close() {
    clearInterval(this.#timer);
  }

  /** The first figures have come: the connection is open now. */
  update() {
    if (this.#status.textContent === "") this.#poll();
  }

  #open(cursor) {
    this.#cursor = cursor;
    this.#fetch();
  }

  async #fetch() {
    this.#load += 1;
    const load = this.#load;
    const filter = Object.fromEntries(Object.entries(this.#inputs).map(([name, input]) => [name, input.value.trim()]));
    try {
      const { sockets, cursor, unanswered } = await this.#connection.call("sockets", { ...filter, cursor: this.#cursor });
      if (load !== this.#load) return; // a later page was asked for
      this.#table.update(sockets);
      this.#nextCursor = cursor;
      this.#next.disabled = cursor === null;
      this.#first.disabled = this.#cursor === null;
      const silent = unanswered > 0 ? `; ${plural(unanswered, "process").replace("processs", "processes")} did not answer` : "";
      setText(this.#status, `${plural(sockets.length, "socket")} on this page${cursor === null ? "" : ", and more"}${silent}`);
    } catch (error) {
      if (load === this.#load && this.#connection.status.status === "open") setText(this.#status, error.message);
    }
  }
}
