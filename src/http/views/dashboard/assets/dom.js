/** Dom: builds elements. Values become text nodes and properties, never HTML: paths, names and headers come from strangers. */

/**
 * Creates an element. A property that begins with `on` is a listener; `class` and `dataset` are what they say; a value of null or
 * false is left out; everything else is an attribute. Children are elements or texts; null is left out.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets a text only if it differs: an unchanged node is neither painted nor announced again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows or hides an element. */
export function setShown(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

/** A list of terms and their values, of which `set` changes the values. */
export class Facts {
  #list;
  #values = new Map();

  constructor(list) {
    this.#list = list;
  }

  /** Shows `[term, text]` pairs; one whose text is null is left out. `tone` colours a value. */
  set(pairs) {
    const kept = new Set();
    for (const [term, text, tone = ""] of pairs) {
      if (text === null || text === undefined) continue;
      kept.add(term);
      let value = this.#values.get(term);
      if (value === undefined) {
        value = h("dd");
        this.#values.set(term, value);
        this.#list.append(h("div", {}, h("dt", {}, term), value));
      }
      if (text instanceof Node) {
        if (value.firstChild?.textContent !== text.textContent) value.replaceChildren(text);
      } else {
        setText(value, text);
      }
      if (value.dataset.tone !== tone) value.dataset.tone = tone;
    }
    for (const [term, value] of this.#values) {
      if (kept.has(term)) continue;
      value.parentElement.remove();
      this.#values.delete(term);
    }
  }
}

/** A section with a heading, which gets the focus when its part of the dashboard is opened. */
export function section(title, ...children) {
  return h("section", {}, h("div", { class: "section-head" }, h("h2", { tabindex: "-1" }, title)), ...children);
}

/** A word with a colour. */
export function pill(text, tone) {
  return h("span", { class: "pill", dataset: { tone } }, text);
}

/** A labelled field. */
export function field(label, input) {
  return h("label", { class: "field" }, h("span", {}, label), input);
}
