/** Ends: the last sockets that ended, and requests that were refused, with their causes. */

import { askLatest, oneAtATime } from "./?file=connection.js";
import { field, h, pill, section, setText } from "./?file=dom.js";
import { clock, count, duration, plural } from "./?file=format.js";
import { Table } from "./?file=table.js";

const EVERY_MS = 3_000;
const TONES = { closed: "quiet", failed: "bad", refused: "warn", error: "bad", connection: "warn" };
const KINDS = [["", "all"], ["closed", "closed"], ["failed", "failed"], ["refused", "refused"], ["error", "error"], ["connection", "connection"]];

/**
 * The cause in words: the reason that the client got, and the key of the timer or limit. What happened and what to do about it unfold.
 */
function causeNode(end) {
  const words = [end.reason, end.rule === null ? "" : `by ${end.rule}`].filter(Boolean).join("; ");
  const cause = [
    h("strong", { dataset: { tone: TONES[end.kind] ?? "quiet" } }, `${end.code || ""} ${end.cause.replaceAll("_", " ")}`.trim()),
    end.times > 1 ? ` × ${count(end.times)}` : null,
    words === "" ? null : h("span", { class: "quiet" }, ` ${words}`),
  ];
  const more = [end.happened, end.remedy].filter(Boolean);
  if (more.length === 0) return h("div", {}, ...cause);
  return h("details", {}, h("summary", {}, ...cause), ...more.map((text) => h("p", {}, text)));
}

/** The columns of an end in a table, or those named. */
export function endColumns(keys = null) {
  const columns = [
    { key: "at", label: "When", value: (row) => row.at, text: (row) => clock(row.at) },
    { key: "kind", label: "Kind", value: (row) => row.kind, text: (row) => row.kind, node: (row) => pill(row.kind, TONES[row.kind] ?? "quiet"), wide: true },
    { key: "route", label: "Route", value: (row) => row.route, text: (row) => row.route || (row.kind === "connection" ? "(connection)" : "(no route)") },
    { key: "cause", label: "Cause", value: (row) => row.cause, text: (row) => `${row.code || ""} ${row.cause} ${row.reason} ${row.rule} ${row.times}`, node: causeNode, class: "words" },
    { key: "path", label: "Path", value: (row) => row.path, class: "code cut", wide: true },
    { key: "user", label: "User", value: (row) => row.user ?? "", class: "cut", wide: true },
    { key: "client", label: "Client", value: (row) => row.client ?? "unix", class: "code", wide: true },
    { key: "seconds", label: "Open for", numeric: true, value: (row) => row.seconds ?? -1, text: (row) => duration(row.seconds), wide: true },
    { key: "messages", label: "Messages", numeric: true, value: (row) => row.messages ?? -1, text: (row) => count(row.messages), wide: true },
    { key: "process", label: "Process", value: (row) => row.process, wide: true },
  ];
  return keys === null ? columns : columns.filter((column) => keys.includes(column.key));
}

export class EndsView {
  element;
  #connection;
  #inputs;
  #table;
  #status = h("p", { class: "quiet", "aria-live": "polite" });
  #pause;
  #timer;
  #hasLoaded = false;
  #load = 0;
  #poll = oneAtATime(() => this.#fetch());

  constructor(connection, [key = "", value = ""] = []) {
    this.#connection = connection;
    const reload = askLatest(() => this.#fetch());
    const select = h("select", { name: "kind", onchange: reload }, ...KINDS.map(([kind, text]) => h("option", { value: kind }, text)));
    const input = (name, placeholder) => h("input", { name, placeholder, autocomplete: "off", oninput: reload, value: name === key ? value : null });
    this.#inputs = { kind: select, route: input("route", "name or path"), cause: input("cause", "such as slow_client"), user: input("user", "name") };
    this.#pause = h("input", { type: "checkbox" });
    this.#table = new Table({
      label: "Last ends",
      rowKey: (row) => `${row.process} ${row.number}`,
      sort: { key: "at", descending: true },
      empty: "Nothing that matches has ended since the server keeps ends.",
      columns: endColumns(),
    });
    this.element = section(
      "Ends",
      h(
        "form",
        { class: "filters", onsubmit: (event) => (event.preventDefault(), reload()) },
        field("Kind", select),
        field("Route", this.#inputs.route),
        field("Cause", this.#inputs.cause),
        field("User", this.#inputs.user),
        h("label", { class: "check" }, this.#pause, "Pause"),
      ),
      this.#table.element,
      this.#status,
    );
    this.#timer = setInterval(() => !this.#pause.checked && this.#poll(), EVERY_MS);
    this.#poll();
  }

  close() {
    clearInterval(this.#timer);
  }

  update() {
    if (!this.#hasLoaded) this.#poll();
  }

  async #fetch() {
    this.#load += 1;
    const load = this.#load;
    const filled = Object.entries(this.#inputs).map(([name, input]) => [name, input.value.trim()]);
    const { kind, ...filter } = Object.fromEntries(filled.filter(([, text]) => text !== ""));
    if (kind !== undefined) filter.kinds = [kind];
    try {
      const { ends, unanswered } = await this.#connection.call("ends", { filter });
      if (load !== this.#load) return;
      this.#hasLoaded = true;
      this.#table.update(ends);
      setText(this.#status, `The last ${plural(ends.length, "end")}${unanswered > 0 ? `; ${count(unanswered)} of the processes did not answer` : ""}`);
    } catch (error) {
      if (load === this.#load && this.#connection.status.status === "open") setText(this.#status, error.message);
    }
  }
}
