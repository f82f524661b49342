/** Socket: everything about one WebSocket, and what can be done with it. */

import { oneAtATime } from "./?file=connection.js";
import { Facts, field, h, setShown, setText } from "./?file=dom.js";
import { bytes, count, dateTime, duration } from "./?file=format.js";

const EVERY_MS = 2_000;

export class SocketView {
  element;
  #connection;
  #id;
  #facts;
  #groups = h("ul", { class: "chips" });
  #fields = h("dl", { class: "fields" });
  #shown = { groups: "", fields: "" };
  #notice = h("p", { class: "notice", hidden: true });
  #actions;
  #outcome = h("p", { class: "quiet", role: "status" });
  #text = h("textarea", { rows: "4", required: true, spellcheck: "false", placeholder: "{\"type\": \"notice\", \"text\": \"…\"}" });
  #code = h("input", { type: "number", min: "1000", max: "4999", value: "4500", required: true });
  #reason = h("input", { maxlength: "123", autocomplete: "off" });
  #timer;
  #isClosed = false;
  #poll = oneAtATime(() => this.#fetch());

  constructor(connection, [id = ""]) {
    this.#connection = connection;
    this.#id = id;
    const list = h("dl", { class: "facts tall" });
    this.#facts = new Facts(list);
    const send = h(
      "form",
      { onsubmit: (event) => this.#act(event, "send", () => ({ text: this.#text.value }), "Sent.") },
      field("Text message to the client", this.#text),
      h("button", { type: "submit" }, "Send"),
    );
    const close = h(
      "form",
      { class: "filters", onsubmit: (event) => this.#act(event, "close", () => ({ code: Number(this.#code.value), reason: this.#reason.value }), "The close frame is on its way.") },
      field("Code", this.#code),
      field("Reason", this.#reason),
      h("button", { type: "submit", class: "danger" }, "Close the socket"),
    );
    this.#actions = part("Actions", send, close, this.#outcome);
    this.element = h(
      "div",
      {},
      h("p", { class: "crumbs" }, h("a", { href: "#sockets" }, "Sockets"), " / "),
      h("h2", { tabindex: "-1", class: "code" }, id),
      this.#notice,
      h(
        "div",
        { class: "columns" },
        h("div", {}, part("State", list), part("Groups", this.#groups)),
        h("div", {}, this.#actions, part("Header fields of its handshake", this.#fields)),
      ),
    );
    this.#timer = setInterval(this.#poll, EVERY_MS);
    this.#poll();
  }

  close() {
    clearInterval(this.#timer);
  }

  update() {
    if (this.#shown.fields === "" && !this.#isClosed) this.#poll();
  }

  async #act(event, call, fields, done) {
    event.preventDefault();
    setText(this.#outcome, "");
    try {
      await this.#connection.call(call, { socket: this.#id, ...fields() });
      setText(this.#outcome, done);
      if (call === "send") this.#text.value = "";
      this.#fetch();
    } catch (error) {
      setText(this.#outcome, error.message);
    }
  }

  async #fetch() {
    if (this.#isClosed) return;
    try {
      this.#show(await this.#connection.call("socket", { socket: this.#id }));
    } catch (error) {
      if (error.message !== "the socket is closed") return;
      this.#isClosed = true;
      clearInterval(this.#timer);
      this.#notice.replaceChildren("This socket is closed. ", h("a", { href: "#ends" }, "The last ends"), " may tell why.");
      setShown(this.#notice, true);
      for (const button of this.#actions.querySelectorAll("button")) button.disabled = true;
    }
  }

  #show(socket) {
    const { report, tls, user } = socket;
    const busy = "not known: its task is busy, or it is a tunnel";
    this.#facts.set([
      ["Route", socket.route],
      ["Path", socket.path],
      ["Parameters", socket.params.map(([name, value]) => `${name} = ${value}`).join(", ") || null],
      ["Query", socket.query.map((name) => `${name}=…`).join("&") || null],
      ["User", user === null ? "anonymous" : `${user.name} (${user.id})${socket.staff ? ", staff" : ""}`],
      ["Client", socket.client ?? "through a unix socket"],
      ["Protocol", `${socket.scheme}, ${socket.http_version}${tls === null ? "" : `, ${tls.version}`}${socket.compression ? ", compressed" : ""}`],
      ["Certificate of the client", tls?.client_certificate ?? null],
      ["Opened", `${dateTime(socket.opened_at)}, ${duration(socket.age)} ago`],
      ["Last byte from it", report === null ? busy : `${duration(report.silent)} ago`],
      ["Ping without a reply", report?.pinged == null ? null : `for ${duration(report.pinged)}`, "warn"],
      ["Messages from it", report === null ? busy : `${count(report.messages)}, ${bytes(report.bytes_received)}`],
      ["Sent to it", bytes(socket.bytes_sent)],
      ["Waits for it", `${bytes(socket.queue_bytes)} of ${bytes(socket.send_queue)}, then ${socket.slow_client.replaceAll("_", " ")}`, socket.queue_bytes > 0 ? "warn" : ""],
      ["Dropped messages", socket.dropped > 0 ? count(socket.dropped) : null, "bad"],
      ["Reading", report?.reading === false ? "no: input waits for the consumer" : null, "warn"],
      ["Process", socket.node],
      ["Request id", socket.request_id],
    ]);
    this.#replace("groups", socket.groups, this.#groups, (name) => [h("li", {}, h("a", { href: `#groups/${encodeURIComponent(name)}` }, name))]);
    this.#replace("fields", socket.headers, this.#fields, ([name, value]) => [
      h("dt", {}, name),
      value === null ? h("dd", { class: "quiet" }, "hidden") : h("dd", {}, value),
    ]);
    if (socket.groups.length === 0) this.#groups.replaceChildren(h("li", { class: "quiet" }, "It is in no group."));
  }

  /** Shows a list, if it has changed. */
  #replace(name, values, element, nodes) {
    const shown = JSON.stringify(values);
    if (this.#shown[name] === shown) return;
    this.#shown[name] = shown;
    element.replaceChildren(...values.flatMap(nodes));
  }
}

function part(title, ...children) {
  return h("section", {}, h("h3", {}, title), ...children);
}
