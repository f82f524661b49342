/** Table: rows that update in place. A row keeps its element, so focus and selection survive. */

import { h, setText } from "./?file=dom.js";

/**
 * A table that can be sorted and filtered.
 *
 * `columns`: `{key, label, value(row), text?(row), node?(row), numeric?, wide?, tone?(row), descending?}`. `value` is sorted by, `text`
 * is shown; `node` returns an element that is made once for a row and kept while `text` stays the same. A `wide` column is left out on
 * small screens. `rowKey` names a row. While the pointer or the focus is in the table, rows keep their order.
 */
export class Table {
  element;
  #columns;
  #rowKey;
  #body;
  #empty;
  #rows = new Map();
  #sort;
  #headers = new Map();
  #shown = [];
  #isHeld = false;

  constructor({ label, columns, rowKey, sort = null, empty = "Nothing to show." }) {
    this.#columns = columns;
    this.#rowKey = rowKey;
    this.#sort = sort ?? { key: null, descending: false };
    const headers = columns.map((column) => this.#header(column));
    this.#body = h("tbody");
    this.#empty = h("p", { class: "empty" }, empty);
    const table = h("table", {}, h("caption", { class: "hidden" }, label), h("thead", {}, h("tr", {}, ...headers)), this.#body);
    const scroller = h("div", { class: "scroller", role: "region", "aria-label": label, tabindex: "0" }, table);
    this.element = h("div", { class: "table" }, scroller, this.#empty);
    table.addEventListener("pointerenter", () => (this.#isHeld = true));
    table.addEventListener("pointerleave", () => (this.#isHeld = false));
    this.#mark();
  }

  #header(column) {
    const classes = [column.numeric ? "numeric" : "", column.wide ? "wide" : ""].join(" ").trim();
    const properties = { scope: "col", class: classes || null };
    if (column.value === undefined) return h("th", properties, column.label);
    const button = h("button", { type: "button", onclick: () => this.#sortBy(column) }, column.label);
    const header = h("th", properties, button);
    this.#headers.set(column.key, header);
    return header;
  }

  #sortBy(column) {
    const isSame = this.#sort.key === column.key;
    this.#sort = { key: column.key, descending: isSame ? !this.#sort.descending : (column.descending ?? Boolean(column.numeric)) };
    this.#mark();
    this.update(this.#shown, { resort: true });
  }

  #mark() {
    for (const [key, header] of this.#headers) {
      if (key !== this.#sort.key) header.removeAttribute("aria-sort");
      else header.setAttribute("aria-sort", this.#sort.descending ? "descending" : "ascending");
    }
  }

  /** Shows these rows. */
  update(rows, { resort = false } = {}) {
    this.#shown = rows;
    const seen = new Set();
    for (const row of rows) {
      const key = String(this.#rowKey(row));
      seen.add(key);
      let line = this.#rows.get(key);
      if (line === undefined) {
        line = this.#makeLine();
        this.#rows.set(key, line);
      }
      this.#fill(line, row);
    }
    for (const [key, line] of this.#rows) {
      if (seen.has(key)) continue;
      line.element.remove();
      this.#rows.delete(key);
    }
    const isBusy = this.#isHeld || this.#body.contains(document.activeElement);
    this.#place(resort || !isBusy ? this.#sorted(rows) : this.#inOrder(rows));
    this.#empty.hidden = rows.length > 0;
  }

  #makeLine() {
    const cells = this.#columns.map((column, at) => {
      const classes = [column.numeric ? "numeric" : "", column.wide ? "wide" : "", column.class ?? ""].join(" ").trim();
      return h(at === 0 ? "th" : "td", { scope: at === 0 ? "row" : null, class: classes || null });
    });
    return { element: h("tr", {}, ...cells), cells, texts: [] };
  }

  #fill(line, row) {
    this.#columns.forEach((column, at) => {
      const cell = line.cells[at];
      const text = column.text === undefined ? String(column.value(row) ?? "") : column.text(row);
      if (column.node === undefined) {
        setText(cell, text);
      } else if (line.texts[at] !== text) {
        line.texts[at] = text;
        cell.replaceChildren(column.node(row));
      }
      const tone = column.tone?.(row) ?? "";
      if ((cell.dataset.tone ?? "") !== tone) cell.dataset.tone = tone;
    });
  }

  #sorted(rows) {
    const column = this.#columns.find((one) => one.key === this.#sort.key);
    if (column === undefined) return rows;
    const sign = this.#sort.descending ? -1 : 1;
    return rows
      .map((row, at) => ({ row, at, value: column.value(row) }))
      .sort((one, other) => sign * compare(one.value, other.value) || one.at - other.at)
      .map(({ row }) => row);
  }

  /** Keeps the rows where they are; new ones come last. */
  #inOrder(rows) {
    const places = new Map([...this.#body.children].map((element, at) => [element, at]));
    const place = (row) => places.get(this.#rows.get(String(this.#rowKey(row))).element) ?? Infinity;
    return rows
      .map((row, at) => ({ row, at, place: place(row) }))
      .sort((one, other) => (one.place === other.place ? one.at - other.at : one.place - other.place))
      .map(({ row }) => row);
  }

  /** Moves only the elements that are not in their place; a moved element keeps the focus. */
  #place(rows) {
    const focused = this.#body.contains(document.activeElement) ? document.activeElement : null;
    let next = this.#body.firstElementChild;
    for (const row of rows) {
      const { element } = this.#rows.get(String(this.#rowKey(row)));
      if (element === next) next = next.nextElementSibling;
      else this.#body.insertBefore(element, next);
    }
    if (focused !== null && focused !== document.activeElement) focused.focus({ preventScroll: true });
  }
}

function compare(one, other) {
  if (typeof one === "number" || typeof other === "number") return (one ?? -1) - (other ?? -1);
  return String(one ?? "").localeCompare(String(other ?? ""), "en", { numeric: true });
}
