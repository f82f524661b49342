/** Groups: the largest groups of all processes, and the members of one. */

import { askLatest, oneAtATime } from "./?file=connection.js";
import { field, h, section, setText } from "./?file=dom.js";
import { count, plural } from "./?file=format.js";
import { socketColumns } from "./?file=sockets.js";
import { Table } from "./?file=table.js";

const EVERY_MS = 3_000;

export class GroupsView {
  element;
  #shown;

  constructor(connection, [name]) {
    this.#shown = name === undefined ? new GroupList(connection) : new GroupPage(connection, name);
    this.element = this.#shown.element;
  }

  update() {
    this.#shown.update();
  }

  close() {
    this.#shown.close();
  }
}

/** Asks again and again while it is shown. */
class Polling {
  #timer;
  #hasLoaded = false;
  #poll = oneAtATime(() => this.load());
  status = h("p", { class: "quiet", "aria-live": "polite" });

  constructor(connection) {
    this.connection = connection;
    this.#timer = setInterval(this.#poll, EVERY_MS);
    queueMicrotask(this.#poll);
  }

  close() {
    clearInterval(this.#timer);
  }

  update() {
    if (!this.#hasLoaded) this.#poll();
  }

  async load() {
    try {
      await this.fetch();
      this.#hasLoaded = true;
    } catch (error) {
      if (this.connection.status.status === "open") setText(this.status, error.message);
    }
  }
}

class GroupList extends Polling {
  element;
  #filter = h("input", { type: "search", placeholder: "part of a name", oninput: askLatest(() => this.load()) });
  #table = new Table({
    label: "Groups",
    rowKey: (row) => row.name,
    sort: { key: "members", descending: true },
    empty: "No group matches.",
    columns: [
      { key: "name", label: "Group", value: (row) => row.name, class: "code", node: (row) => h("a", { href: `#groups/${encodeURIComponent(row.name)}` }, row.name), text: (row) => row.name },
      { key: "members", label: "Members", numeric: true, value: (row) => row.members, text: (row) => count(row.members) },
      { key: "processes", label: "Processes", numeric: true, value: (row) => row.processes, text: (row) => count(row.processes) },
    ],
  });

  constructor(connection) {
    super(connection);
    this.element = section("Groups", h("div", { class: "filters" }, field("Filter", this.#filter)), this.#table.element, this.status);
  }

  async fetch() {
    const contains = this.#filter.value.trim();
    const { groups, matched, unanswered } = await this.connection.call("groups", { contains });
    if (contains !== this.#filter.value.trim()) return; // asked again meanwhile
    this.#table.update(groups);
    const all = matched > groups.length ? `The largest ${count(groups.length)} of ${count(matched)} groups` : plural(groups.length, "group");
    setText(this.status, all + (unanswered > 0 ? `; ${count(unanswered)} of the processes did not answer` : ""));
  }
}

class GroupPage extends Polling {
  element;
  #name;
  #cursor = null;
  #next = h("button", { type: "button", disabled: true, onclick: () => this.#open(this.#nextCursor) }, "Next page");
  #first = h("button", { type: "button", disabled: true, onclick: () => this.#open(null) }, "First page");
  #nextCursor = null;
  #users = new Table({
    label: "Users",
    rowKey: (row) => row.id,
    sort: { key: "connections", descending: true },
    empty: "No member is logged in.",
    columns: [
      { key: "name", label: "User", value: (row) => row.name },
      { key: "id", label: "Id", value: (row) => row.id, class: "code", node: (row) => h("a", { href: `#sockets/user/${encodeURIComponent(row.id)}` }, row.id), text: (row) => row.id },
      { key: "connections", label: "Sockets", numeric: true, value: (row) => row.connections, text: (row) => count(row.connections) },
    ],
  });
  #members = new Table({
    label: "Members",
    rowKey: (row) => row.id,
    sort: { key: "id", descending: false },
    empty: "No member.",
    columns: socketColumns(),
  });

  constructor(connection, name) {
    super(connection);
    this.#name = name;
    this.element = h(
      "div",
      {},
      h("p", { class: "crumbs" }, h("a", { href: "#groups" }, "Groups"), " / "),
      h("h2", { tabindex: "-1", class: "code" }, name),
      this.status,
      h("h3", {}, "Users"),
      this.#users.element,
      h("h3", {}, "Members"),
      this.#members.element,
      h("div", { class: "pager" }, this.#first, this.#next),
    );
  }

  #open(cursor) {
    this.#cursor = cursor;
    this.load();
  }

  async fetch() {
    const group = this.#name;
    const asked = this.#cursor;
    const users = await this.connection.call("group", { group });
    const page = await this.connection.call("sockets", { group, cursor: asked });
    if (asked !== this.#cursor) return;
    this.#users.update(users.users);
    this.#members.update(page.sockets);
    this.#nextCursor = page.cursor;
    this.#next.disabled = page.cursor === null;
    this.#first.disabled = this.#cursor === null;
    const parts = [plural(users.members, "member"), `${count(users.anonymous)} of them anonymous`];
    if (users.left_out > 0) parts.push(`${plural(users.left_out, "user")} not listed`);
    if (users.unanswered > 0) parts.push(`${count(users.unanswered)} of the processes did not answer`);
    setText(this.status, parts.join("; "));
  }
}
