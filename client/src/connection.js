/**
 * Connection: a WebSocket that reconnects, resumes where it was, and falls back to Server-Sent Events.
 *
 *            open()                  handshake              loss, or the page sleeps
 *   closed ----------> connecting -------------> open -----------------------------> waiting
 *     ^                  |    ^                    |                                   |  |
 *     +------------------+----|--------------------+-----------------------------------+  |
 *       close(), or an end    +-----------------------------------------------------------+
 *       that is final                        after a delay, or the page wakes
 */

import { askedWaitMs, completed, DELAYS, LATER_CODE, mayReconnect, retryDelayMs } from "./retry.js";

/**
 * @typedef {"connecting" | "open" | "waiting" | "closed"} Status
 * @typedef {"websocket" | "events"} Transport
 *
 * @typedef {object} StatusChange
 * @property {Status} status `waiting` is for the next attempt; `closed` is for good, until `open` is called
 * @property {Transport | null} transport how an open connection runs; over `events` nothing can be sent
 * @property {number | null} code the close code of a connection that was lost
 * @property {string} reason why it was lost, if the server said so
 * @property {number | null} retryMs the time until the next attempt
 *
 * @typedef {object} Presence
 * @property {number | null} members how many there are; null while that is not known
 * @property {(string | null)[] | null} users their names, null for who has none; the list itself is null unless `who` asked for it
 *
 * @typedef {{ type?: string, offset?: string, [field: string]: any }} ServerEvent
 *
 * @typedef {object} Listeners
 * @property {(change: StatusChange) => void} status the status has changed
 * @property {(event: ServerEvent) => void} event a message that is a JSON object
 * @property {(data: string | ArrayBuffer) => void} message every message, as it came
 * @property {() => void} gap messages were missed that the server no longer has; what it still has follows
 * @property {(presence: Presence) => void} presence members have come or gone, or `who` was answered
 *
 * @typedef {typeof DEFAULTS} AllOptions
 * @typedef {Partial<AllOptions>} Options
 */

const DEFAULTS = {
  ...DELAYS,
  /** Path or URL of the same group's view `events`: the fallback where no WebSocket can be opened. */
  events: /** @type {string | URL | null} */ (null),
  /** Returns a ticket for each handshake, see `fetchTicket`. */
  ticket: /** @type {(() => string | Promise<string>) | null} */ (null),
  /** Whether Server-Sent Events from another origin are asked for with cookies. */
  withCredentials: false,
  /** The position to resume from: `position` of an earlier connection. */
  since: /** @type {string | null} */ (null),
  /** After this long in a hidden tab the connection is closed until the tab is shown; null keeps it. */
  hiddenMs: /** @type {number | null} */ (null),
  protocols: /** @type {string[]} */ ([]),
  /** A connection that was open this long counts its failures anew. */
  stableMs: 10_000,
  /** A handshake that takes longer is given up. */
  connectMs: 10_000,
  /** `send` refuses while more than this waits in the browser. */
  bufferedBytesMax: 256 * 1024,
  /** A text that the server answers; sent when the network or the page is back, to find dead sockets. */
  probe: /** @type {string | null} */ (null),
  /** How long that answer may take. */
  probeMs: 5_000,
  /** The first time and the longest after which a connection over Server-Sent Events tries a WebSocket again. */
  upgradeMs: 2_000,
  upgradeMaxMs: 300_000,
  WebSocket: globalThis.WebSocket,
  EventSource: globalThis.EventSource,
};

/** After so many failed handshakes, every second attempt is one over Server-Sent Events. */
const FAILURES_MAX = 2;
/** A position that no history has: the server sends what it has, as to a new member of a WebSocket's group. */
const NO_POSITION = "0.0";
const LOGIN_ENDED = 4401;

/**
 * Connects to a route of the server, and reconnects until `close` is called or the server ends the connection for good.
 *
 * @param {string | URL} url a path on the page's own server, or a URL
 * @param {Options} [options]
 */
export function connect(url, options) {
  const connection = new Connection(url, options);
  connection.open();
  return connection;
}

/**
 * There is no outbox: a message typed an hour ago is not sent by surprise. `send` returns false unless it has sent.
 */
export class Connection {
  /** @type {string | URL} */
  #url;
  /** @type {AllOptions} */
  #options;
  /** @type {{ [K in keyof Listeners]?: Set<Listeners[K]> }} */
  #listeners = {};
  /** @type {WebSocket | EventSource | null} */
  #link = null;
  /** A WebSocket that may replace the event stream. @type {WebSocket | null} */
  #spare = null;
  /** Counts what was begun, so that the ticket of an abandoned attempt is not used. */
  #turn = 0;
  /** @type {Status} */
  #status = "closed";
  /** @type {Transport | null} */
  #transport = null;
  #attempt = 0;
  /** Handshakes in a row that failed. */
  #failures = 0;
  #upgrades = 0;
  /** When the server that has ended the last connection may be asked again, and how long that was when it said so. */
  #notBefore = 0;
  #askedMs = 0;
  /** Whether the connection waits for the page, and not for a time. */
  #isAsleep = false;
  /** @type {string | null} */
  #position;
  /** Whether the WebSocket tells positions. */
  #recovers = false;
  /** Positions that the event stream has reached since a spare was begun, which may send them again. @type {Set<string> | null} */
  #reached = null;
  /** @type {number | null} */
  #members = null;
  /** The last change of the status. @type {StatusChange | null} */
  #change = null;
  /** @type {Record<string, ReturnType<typeof setTimeout> | undefined>} */
  #timers = {};
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #hiddenTimer;
  /** @type {[EventTarget | undefined, string, (event: any) => void][]} */
  #signals = [
    [globalThis, "online", () => this.#isAsleep || this.#wake()],
    [globalThis, "offline", () => this.#offline()],
    [globalThis, "pagehide", ({ persisted }) => persisted && this.#sleep()],
    [globalThis, "pageshow", ({ persisted }) => persisted && this.#wake()],
    [globalThis.document, "visibilitychange", () => this.#shownOrHidden()],
  ];

  /**
   * @param {string | URL} url
   * @param {Options} [options]
   */
  constructor(url, options) {
    this.#url = url;
    this.#options = completed(DEFAULTS, options);
    this.#position = this.#options.since;
  }

  get status() {
    return this.#status;
  }

  /** How the connection runs, while it is open. */
  get transport() {
    return this.#transport;
  }

  /** The position of the last message in the group's history, if the server tells it. */
  get position() {
    return this.#position;
  }

  /** How many members the group has, if the server tells it. */
  get members() {
    return this.#members;
  }

  /**
   * Calls the listener for each such event; returns a function that ends this.
   *
   * @template {keyof Listeners} K
   * @param {K} type
   * @param {Listeners[K]} listener
   * @returns {() => void}
   */
  on(type, listener) {
    const listeners = /** @type {Set<Listeners[K]>} */ ((this.#listeners[type] ??= /** @type {any} */ (new Set())));
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
    };
  }

  /** Connects now, from "closed" or "waiting"; otherwise does nothing. Throws for a URL or protocols that no WebSocket takes. */
  open() {
    if (this.#status === "connecting" || this.#status === "open") return;
    if (this.#status === "closed") {
      for (const [target, type, listener] of this.#signals) target?.addEventListener?.(type, listener);
    }
    try {
      this.#connect();
    } catch (error) {
      this.close();
      throw error;
    }
    if (globalThis.document?.hidden) this.#shownOrHidden();
  }

  /**
   * Ends the connection for good. The status is "closed" when this returns.
   *
   * The server is told the code if a page may choose it, 1000 or 3000 to 4999, and the reason has at most 123 bytes.
   */
  close(code = 1000, reason = "") {
    this.#forget(code, reason);
    this.#end(code, reason);
  }

  /**
   * Sends text or bytes as they are, and anything else as JSON. Returns false unless it was sent: without an open
   * WebSocket, or while the network does not keep up; the caller keeps the data.
   *
   * @param {any} data
   * @returns {boolean}
   */
  send(data) {
    if (this.#transport !== "websocket") return false;
    const socket = /** @type {WebSocket} */ (this.#link);
    // One that is closing takes data, and loses it.
    if (socket.readyState > 1 || socket.bufferedAmount > this.#options.bufferedBytesMax) return false;
    const isRaw = typeof data === "string" || data instanceof Blob || data instanceof ArrayBuffer || ArrayBuffer.isView(data);
    socket.send(isRaw ? /** @type {any} */ (data) : JSON.stringify(data));
    return true;
  }

  /** Asks a `chat` for its members' names; the answer is a `presence`. Returns false if it could not ask. */
  who() {
    return this.send({ type: "who" });
  }

  #connect() {
    this.#forget();
    this.#isAsleep = false;
    const { events, connectMs } = this.#options;
    const usesEvents = events !== null && this.#failures >= FAILURES_MAX && this.#failures % 2 === 0;
    this.#timers.connect = setTimeout(() => this.#lose(1006, "the handshake took too long"), connectMs);
    if (usesEvents) this.#listen(events);
    else this.#handshake((socket) => (this.#link = socket));
    this.#tell("connecting");
  }

  /**
   * Begins a WebSocket, at once or when there is a ticket.
   *
   * @param {(socket: WebSocket) => void} began
   */
  #handshake(began) {
    const { WebSocket, protocols, ticket } = this.#options;
    /** @param {string} [ticket] */
    const begin = (ticket) => {
      const url = absolute(this.#url, "since", this.#position);
      url.protocol = url.protocol.replace("http", "ws");
      const socket = new WebSocket(url, ticket ? [...protocols, "ticket", ticket] : protocols);
      socket.binaryType = "arraybuffer";
      // An abandoned socket may still fire events; only the current ones count.
      socket.onopen = () => {
        if (this.#spare === socket) this.#upgrade(socket);
        else if (this.#link === socket) this.#opened("websocket");
      };
      socket.onmessage = ({ data }) => this.#link === socket && this.#receive(data, null);
      socket.onclose = ({ code, reason }) => {
        if (this.#spare === socket) this.#upgradeLater();
        else if (this.#link === socket) this.#lose(code, reason);
      };
      began(socket);
    };
    if (ticket === null) {
      begin();
      return;
    }
    const turn = this.#turn;
    Promise.resolve()
      .then(ticket)
      .then((ticket) => {
        if (turn !== this.#turn) return;
        if (!ticket) throw new Error("no ticket");
        begin(ticket);
      })
      .catch((error) => {
        if (turn !== this.#turn) return;
        const code = error?.code >= 1000 ? error.code : 1006;
        if (this.#link && mayReconnect(code)) this.#upgradeLater();
        else this.#lose(code, String(error?.message ?? error));
      });
  }

  /**
   * Begins an event stream. A browser reconnects one that was open by itself, when the server wants it to.
   *
   * @param {string | URL} events
   */
  #listen(events) {
    const { EventSource, withCredentials } = this.#options;
    let isFresh = this.#position === null;
    const source = new EventSource(absolute(events, "last_event_id", this.#position ?? NO_POSITION), { withCredentials });
    /** @type {<T>(handle: (event: T) => void) => (event: T) => void} */
    const current = (handle) => (event) => {
      if (this.#link === source) handle(event);
    };
    source.onopen = current(() => this.#opened("events"));
    source.onmessage = current(({ data, lastEventId }) => this.#receive(data, lastEventId));
    source.onerror = current(() => {
      if (this.#status !== "open" || source.readyState === source.CLOSED) {
        this.#lose(1006, "");
        return;
      }
      // The server's time to come back is the browser's secret: no WebSocket before the stream is back.
      this.#dropSpare();
      this.#timers.connect = setTimeout(() => this.#lose(1006, "no answer"), this.#options.askedMaxMs);
      this.#tell("waiting", 1006);
    });
    source.addEventListener("oneport.gap", current(() => {
      // A new member asks for the whole history, which is no gap.
      if (!isFresh) this.#emit("gap");
      isFresh = false;
    }));
    source.addEventListener("oneport.session_ended", current(() => this.#lose(LOGIN_ENDED, "the session has ended")));
    this.#link = source;
  }

  /** @param {Transport} transport */
  #opened(transport) {
    clearTimeout(this.#timers.connect);
    clearTimeout(this.#timers.stable);
    this.#timers.stable = setTimeout(() => (this.#attempt = 0), this.#options.stableMs);
    if (transport === "websocket") this.#failures = this.#upgrades = 0;
    else this.#upgradeLater();
    this.#tell("open", null, "", null, transport);
  }

  /** Perhaps it was not the proxy, but a server that was away: a WebSocket is tried again, less and less often. */
  #upgradeLater() {
    const { upgradeMs, upgradeMaxMs, connectMs, random } = this.#options;
    this.#dropSpare();
    const delayMs = Math.min(upgradeMaxMs, upgradeMs * 2 ** this.#upgrades);
    this.#timers.upgrade = setTimeout(() => {
      this.#upgrades += 1;
      this.#reached = new Set();
      this.#timers.upgrade = setTimeout(() => this.#upgradeLater(), connectMs);
      this.#handshake((socket) => (this.#spare = socket));
    }, delayMs * (0.5 + random() / 2));
  }

  /** Abandons the spare: planned, waiting for its ticket, or begun. */
  #dropSpare() {
    clearTimeout(this.#timers.upgrade);
    this.#turn += 1;
    this.#reached = null;
    const spare = this.#spare;
    this.#spare = null;
    spare?.close();
  }

  /** @param {WebSocket} socket */
  #upgrade(socket) {
    this.#spare = null;
    clearTimeout(this.#timers.upgrade);
    this.#link?.close();
    this.#link = socket;
    this.#recovers = false;
    this.#opened("websocket");
  }

  /**
   * @param {string | ArrayBuffer} data
   * @param {string | null} id the position that an event stream tells
   */
  #receive(data, id) {
    const link = this.#link;
    clearTimeout(this.#timers.probe);
    const event = parsed(data);
    if (id === null && event?.type === "oneport.joined") {
      this.#recovers = true;
      this.#position = event.offset ?? null;
      if (event.recovered === false) this.#emit("gap");
      return;
    }
    if (id) {
      if (id !== this.#position) this.#reached?.add(id);
      this.#position = id;
      if (event) event.offset = id;
    } else if (this.#recovers && typeof event?.offset === "string") {
      // An event that is no part of the history has the position of the one before it.
      const isAgain = event.offset !== this.#position && this.#reached?.delete(event.offset);
      this.#position = event.offset;
      if (isAgain) return;
    }
    this.#emit("message", data);
    // A listener may have closed the connection.
    if (!event || this.#link !== link) return;
    this.#emit("event", event);
    const { type, members, users } = event;
    if (this.#link === link && (type === "chat.join" || type === "chat.leave" || type === "chat.who")) {
      this.#present(Number.isInteger(members) ? members : null, Array.isArray(users) ? users : null);
    }
  }

  /**
   * @param {number | null} members
   * @param {(string | null)[] | null} users
   */
  #present(members, users) {
    this.#members = members;
    this.#emit("presence", { members, users });
  }

  /**
   * Drops the connection, which may be lost or unresponsive, and plans the next attempt.
   *
   * @param {number} code
   * @param {string} reason
   */
  #lose(code, reason) {
    if (this.#status === "connecting") this.#failures += 1;
    this.#forget();
    if (!mayReconnect(code)) {
      this.#end(code, reason);
      return;
    }
    const retryMs = retryDelayMs(code, this.#attempt, this.#options, reason);
    this.#attempt += 1;
    this.#askedMs = code === LATER_CODE || askedWaitMs(reason) !== null ? retryMs : 0;
    this.#notBefore = Date.now() + this.#askedMs;
    this.#retryIn(retryMs);
    this.#tell("waiting", code, reason, retryMs);
  }

  /** @param {number} delayMs */
  #retryIn(delayMs) {
    clearTimeout(this.#timers.retry);
    this.#timers.retry = setTimeout(() => {
      try {
        this.#connect();
      } catch (error) {
        this.#failures += 1;
        this.#lose(1006, String(error));
      }
    }, delayMs);
  }

  /**
   * The network or the page is back: retry at once, unless the server asked for a wait, and probe an open socket, which
   * may have died silently. A stream that was open is the browser's to retry.
   */
  #wake() {
    const { probe, probeMs, soonMs, random } = this.#options;
    if (this.#status === "waiting") {
      if (this.#link) return;
      this.#isAsleep = false;
      this.#attempt = 0;
      // A clock that was set back must not make the wait longer than it was.
      this.#retryIn(Math.max(Math.min(this.#notBefore - Date.now(), this.#askedMs), random() * soonMs));
    } else if (probe !== null && this.send(probe)) {
      clearTimeout(this.#timers.probe);
      this.#timers.probe = setTimeout(() => this.#lose(1006, "no answer"), probeMs);
    }
  }

  /** The browser can be wrong (a server on this machine is still reachable), so attempts continue, but rarely. */
  #offline() {
    if (this.#status === "waiting" && !this.#link && !this.#isAsleep) this.#retryIn(this.#options.delayMaxMs);
  }

  #shownOrHidden() {
    clearTimeout(this.#hiddenTimer);
    const { hiddenMs } = this.#options;
    if (!document.hidden) this.#wake();
    else if (hiddenMs !== null) this.#hiddenTimer = setTimeout(() => this.#sleep(), hiddenMs);
  }

  /** The page is not seen: no connection until it is. */
  #sleep() {
    this.#forget(1000, "hidden");
    this.#isAsleep = true;
    this.#tell("waiting", null, "hidden");
  }

  /**
   * @param {number} [code]
   * @param {string} [reason]
   */
  #forget(code, reason) {
    for (const name in this.#timers) clearTimeout(this.#timers[name]);
    this.#dropSpare();
    const link = /** @type {WebSocket | null} */ (this.#link);
    this.#link = null;
    this.#recovers = false;
    try {
      link?.close(code, reason);
    } catch {
      link?.close(); // a code or a reason that no page may send
    }
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #end(code, reason) {
    for (const [target, type, listener] of this.#signals) target?.removeEventListener?.(type, listener);
    clearTimeout(this.#hiddenTimer);
    this.#attempt = this.#failures = this.#upgrades = this.#askedMs = 0;
    if (this.#status !== "closed") this.#tell("closed", code, reason);
  }

  /**
   * @param {Status} status
   * @param {number | null} [code]
   * @param {string} [reason]
   * @param {number | null} [retryMs]
   * @param {Transport | null} [transport]
   */
  #tell(status, code = null, reason = "", retryMs = null, transport = null) {
    this.#status = status;
    this.#transport = transport;
    this.#emit("status", (this.#change = { status, transport, code, reason, retryMs }));
    if (transport === null && this.#members !== null) this.#present(null, null);
  }

  /**
   * A listener that fails concerns neither the others nor the connection.
   *
   * @template {keyof Listeners} K
   * @param {K} type
   * @param {Parameters<Listeners[K]>} values
   */
  #emit(type, ...values) {
    for (const listener of [...(this.#listeners[type] ?? [])]) {
      // A listener before has changed the status: the others know the newer one already.
      if (type === "status" && values[0] !== this.#change) return;
      try {
        /** @type {(...values: any[]) => void} */ (listener)(...values);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}

/**
 * Returns the absolute URL of a path on the page's server, with a position in its query.
 *
 * @param {string | URL} url
 * @param {string} name
 * @param {string | null} position
 */
function absolute(url, name, position) {
  const found = new URL(url, globalThis.location?.href);
  found.hash = "";
  if (position !== null) found.searchParams.set(name, position);
  return found;
}

/**
 * @param {string | ArrayBuffer} data
 * @returns {ServerEvent | null}
 */
function parsed(data) {
  if (typeof data !== "string" || !data.startsWith("{")) return null;
  try {
    return JSON.parse(data);
  } catch {
    return null;
  }
}
