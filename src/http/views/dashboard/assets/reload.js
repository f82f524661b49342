/** Reload: reads the configuration of this process again, and tells what came of it. */

import { h, setShown, setText } from "./?file=dom.js";
import { plural } from "./?file=format.js";

/** The server waits 30 s for a reload. */
const WAIT_MS = 35_000;

const OUTCOMES = {
  replaced: "The configuration was read again and is in effect.",
  refused: "The configuration was not taken; the previous one stays in effect.",
  pending: "The configuration is still being read; the log tells the outcome.",
  unavailable: "This server cannot reload now.",
};

/** The button and the report below the bar. */
export class Reload {
  button;
  report;
  #connection;
  #status = h("p", { role: "status" });
  #details = h("div");

  constructor(connection) {
    this.#connection = connection;
    this.button = h("button", { type: "button", onclick: () => this.#reload() }, "Reload");
    const close = h("button", { type: "button", class: "plain", onclick: () => this.#dismiss() }, "Dismiss");
    this.report = h("section", { class: "notice report", "aria-label": "Reload of the configuration", hidden: true }, h("div", {}, this.#status, close), this.#details);
  }

  async #reload() {
    this.button.disabled = true;
    this.#show("Reading the configuration …", []);
    try {
      const report = await this.#connection.call("reload", {}, { waitMs: WAIT_MS });
      this.#show(OUTCOMES[report.outcome] ?? report.outcome, [
        [plural(report.problems.length, "problem"), report.problems],
        [`${plural(report.applied.length, "key")} in effect`, report.applied.map(change)],
        [`${plural(report.needs_restart.length, "key")} for the next start`, report.needs_restart.map(change)],
      ], report.outcome);
    } catch (error) {
      this.#show(`The reload has no answer: ${error.message}.`, [], "refused");
    }
    this.button.disabled = false;
  }

  #show(sentence, lists, outcome = "") {
    setText(this.#status, sentence);
    const shown = lists.filter(([, texts]) => texts.length > 0);
    this.#details.replaceChildren(
      ...shown.flatMap(([title, texts]) => [h("h2", {}, title), h("ul", {}, ...texts.map((text) => h("li", {}, h("pre", {}, text))))]),
    );
    this.report.dataset.outcome = outcome;
    setShown(this.report, true);
  }

  #dismiss() {
    setShown(this.report, false);
    this.button.focus();
  }
}

function change({ key, old, new: now }) {
  return old === now ? key : `${key}: ${old} → ${now}`; // a secret, or a whole table
}
