/** Dashboard: the frame of the page: the connection, the parts and which of them is open. */

import { Connection } from "./?file=connection.js";
import { Facts, h, setShown, setText } from "./?file=dom.js";
import { EndsView } from "./?file=ends.js";
import { bytes, count, dateTime, duration } from "./?file=format.js";
import { GroupsView } from "./?file=groups.js";
import { OverviewView } from "./?file=overview.js";
import { ProcessesView } from "./?file=processes.js";
import { Reload } from "./?file=reload.js";
import { RoutesView } from "./?file=routes.js";
import { SocketView } from "./?file=socket.js";
import { SocketsView } from "./?file=sockets.js";

/** The parts by the first word of the fragment, such as `#socket/3f.1`; `under` is the entry of the navigation. */
const PARTS = {
  overview: { View: OverviewView },
  routes: { View: RoutesView },
  sockets: { View: SocketsView },
  socket: { View: SocketView, under: "sockets" },
  groups: { View: GroupsView },
  ends: { View: EndsView },
  processes: { View: ProcessesView },
};

const get = (id) => document.getElementById(id);
const url = new URL(location.pathname, location.href);
url.protocol = location.protocol === "https:" ? "wss:" : "ws:";

const connection = new Connection(url);
const facts = new Facts(get("facts"));
const reload = new Reload(connection);
let view = null;

/** A page that has been out of sight for so long leaves the server, which then has no work with it. */
const HIDDEN_MS = 60_000;
let hiddenTimer = 0;
let isAsleep = false;

/** Opens the part that the fragment names. `isFirst`: the page has just been loaded, and keeps its focus. */
function openPart(isFirst = false) {
  const [word, ...rest] = location.hash.slice(1).split("/");
  const name = Object.hasOwn(PARTS, word) ? word : "overview";
  const { View, under = name } = PARTS[name];
  view?.close?.();
  view = new View(connection, rest.map(decode));
  get("main").replaceChildren(view.element);
  view.update?.();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${under}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  showTitle();
  if (isFirst) return;
  scrollTo({ top: 0 });
  view.element.querySelector("h2")?.focus({ preventScroll: true });
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function showTitle() {
  const heading = view?.element.querySelector("h2")?.textContent ?? "Dashboard";
  document.title = `${heading} – ${connection.stats?.name ?? "Oneport"}`;
}

function showFigures() {
  const { stats } = connection;
  setText(get("process-name"), stats.name);
  setShown(get("draining"), stats.draining);
  facts.set([
    ["version", stats.version],
    ["up", duration(stats.uptime)],
    ["pid", String(stats.process.pid)],
    ["workers", count(stats.runtime.workers)],
    ["tasks", count(stats.runtime.tasks)],
    ["threads", count(stats.process.threads)],
    ["open files", count(stats.process.open_fds)],
    ["groups", count(stats.groups)],
    ["event streams", count(stats.event_streams)],
    ["histories", bytes(stats.layer.history_bytes)],
    ["node", stats.node],
  ]);
  if (get("facts").title === "") get("facts").title = `started ${dateTime(Date.now() - stats.uptime * 1000)}`;
  view?.update?.();
}

/** Leaves the server some time after the page is hidden, and comes back when it is shown. */
function sleepOrWake() {
  clearTimeout(hiddenTimer);
  if (document.hidden) {
    hiddenTimer = setTimeout(() => {
      if (connection.status.status === "closed") return; // for good
      isAsleep = true;
      connection.close();
    }, HIDDEN_MS);
  } else if (isAsleep) {
    isAsleep = false;
    connection.open();
  }
}

function showStatus() {
  const { status, code, reason, retryMs } = connection.status;
  const [word, tone] = { open: ["Live", "good"], connecting: ["Connecting", "quiet"], waiting: ["Away", "bad"], closed: ["Ended", "bad"] }[status];
  setText(get("state"), word);
  get("state").dataset.tone = tone;
  document.documentElement.dataset.state = status;
  const notice = get("notice");
  if (isAsleep) return;
  if (status === "open" || status === "connecting") {
    if (status === "open") setShown(notice, false);
    return;
  }
  if (status === "closed") {
    const why = code === 4401 ? "Your login has ended." : `The server ended this connection: ${code} ${reason}`.trim();
    notice.replaceChildren(`${why} `, h("a", { href: location.pathname }, "Load the page again"));
  } else {
    notice.replaceChildren(`The server does not answer (${code}${reason ? ` ${reason}` : ""}). These are the last figures; trying again in ${Math.ceil(retryMs / 1000)} s.`);
  }
  setShown(notice, true);
}

connection.addEventListener("update", () => {
  showFigures();
  showTitle();
});
connection.addEventListener("status", showStatus);
document.addEventListener("visibilitychange", sleepOrWake);
addEventListener("hashchange", () => openPart());
get("skip").addEventListener("click", (event) => {
  event.preventDefault();
  get("main").focus();
});
get("tools").append(reload.button);
get("notice").after(reload.report);
openPart(true);
connection.open();
sleepOrWake();
