/** ReconnectingSocket: a WebSocket that reconnects. It knows neither the page nor chat. */

/** Close codes after which a retry would end the same way: done, policy, log in again. */
const FINAL_CODES = new Set([1000, 1008, 4401]);
/** The server stops or restarts, and its successor is probably available. */
const SOON_CODES = new Set([1001, 1012]);
/** Overload: reconnecting at once would make it worse. */
const LATER_CODE = 1013;
/** How many doublings of the delay an overload adds. */
const LATER_ATTEMPTS = 3;
/** The end of a close frame's reason in which the server asks to come back after so many seconds, and not before. */
const RETRY_AFTER = /(?:^|; )retry_after=(\d{1,6})$/;

const DEFAULTS = {
  protocols: [],
  delayMs: 1_000, // ceiling of the first delay; each further one is twice as high
  delayMaxMs: 30_000, // ceiling of all delays
  soonMs: 250, // ceiling of the first delay after 1001 and 1012
  spreadMs: 1_000, // ceiling of what is added to a wait that the server asked for, in whole seconds
  askedMaxMs: 300_000, // the longest wait that a server may ask for
  stableMs: 10_000, // a socket that was open this long starts counting anew
  connectMs: 10_000, // a handshake that takes longer is given up
  bufferedBytesMax: 256 * 1024, // `send` refuses while more than this waits in the browser
  probe: null, // text that the server answers; sent when the network is back, to find dead sockets
  probeMs: 5_000, // how long that answer may take
  WebSocket: globalThis.WebSocket,
  random: Math.random,
};

/** Returns whether a socket that ended with this code should be opened again. */
export function mayReconnect(code) {
  return !FINAL_CODES.has(code) && !(code >= 4500 && code <= 4999);
}

/** Returns the milliseconds for which the server asked its client to wait, or null. */
export function askedWaitMs(reason) {
  const found = RETRY_AFTER.exec(reason);
  return found === null ? null : Number(found[1]) * 1_000;
}

/**
 * Returns the delay before the next attempt: exponential back-off with full jitter, so that many clients which lost
 * their server at the same moment do not reconnect at the same moment. A server that stops asks each client to wait for
 * a time of its own, in `reason`: that comes first, with a jitter of up to a second.
 *
 * `attempt` counts the failures since the socket was last stable, from 0.
 */
export function retryDelayMs(code, attempt, options = DEFAULTS, reason = "") {
  const { delayMs, delayMaxMs, soonMs, spreadMs, askedMaxMs, random } = { ...DEFAULTS, ...options };
  const askedMs = askedWaitMs(reason);
  if (askedMs !== null) {
    return Math.min(askedMs, askedMaxMs) + random() * Math.max(spreadMs, backOffMs(attempt - 1, delayMs, delayMaxMs));
  }
  if (SOON_CODES.has(code) && attempt === 0) {
    return random() * soonMs;
  }
  const doublings = code === LATER_CODE ? Math.max(attempt, LATER_ATTEMPTS) : attempt;
  return random() * backOffMs(doublings, delayMs, delayMaxMs);
}

function backOffMs(doublings, delayMs, delayMaxMs) {
  return Math.min(delayMaxMs, delayMs * 2 ** doublings);
}

/**
 * Opens a WebSocket, and opens it again when it ends.
 *
 * Events: `status` (`detail` is `{status, code, reason, retryMs}`) and `message` (`detail` is the text or binary data).
 * The status is "connecting", "open", "waiting" (for the next attempt) or "closed" (for good, until `open` is called).
 *
 * There is no outbox: a message typed an hour ago is not sent by surprise. `send` returns false without an open socket.
 */
export class ReconnectingSocket extends EventTarget {
  #url;
  #options;
  #socket = null;
  #status = "closed";
  #attempt = 0;
  #notBefore = 0; // when the server that has ended the last socket may be asked again
  #timers = { retry: 0, stable: 0, connect: 0, probe: 0 };
  #goesOnline = () => this.#online();
  #goesOffline = () => this.#offline();

  constructor(url, options = {}) {
    super();
    this.#url = url;
    this.#options = { ...DEFAULTS, ...options };
  }

  get status() {
    return this.#status;
  }

  /** Connects now, from "closed" or "waiting"; otherwise does nothing. */
  open() {
    if (this.#socket !== null) return;
    globalThis.addEventListener?.("online", this.#goesOnline);
    globalThis.addEventListener?.("offline", this.#goesOffline);
    this.#connect();
  }

  /** Ends the socket for good. The status is "closed" when this returns. */
  close(code = 1000, reason = "") {
    const socket = this.#forget();
    socket?.close(code, reason);
    this.#end({ code, reason });
  }

  /** Sends, or returns false if the socket is not open or too slow: the caller keeps the data. */
  send(data) {
    if (this.#status !== "open" || this.#socket.bufferedAmount > this.#options.bufferedBytesMax) {
      return false;
    }
    this.#socket.send(data);
    return true;
  }

  #connect() {
    this.#clearTimers();
    const { WebSocket, protocols, connectMs } = this.#options;
    const socket = new WebSocket(this.#url, protocols);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    // An abandoned socket may still fire events; only the current one counts.
    const current = (handle) => (event) => this.#socket === socket && handle(event);
    socket.onopen = current(() => this.#opened());
    socket.onmessage = current((event) => this.#received(event.data));
    socket.onclose = current((event) => this.#lost(event.code, event.reason));
    this.#timers.connect = setTimeout(() => this.#giveUp("the handshake took too long"), connectMs);
    this.#tell("connecting");
  }

  #opened() {
    this.#clearTimers();
    this.#timers.stable = setTimeout(() => (this.#attempt = 0), this.#options.stableMs);
    this.#tell("open");
  }

  #received(data) {
    clearTimeout(this.#timers.probe);
    this.dispatchEvent(new CustomEvent("message", { detail: data }));
  }

  #lost(code, reason) {
    this.#forget();
    if (!mayReconnect(code)) {
      this.#end({ code, reason });
      return;
    }
    const retryMs = retryDelayMs(code, this.#attempt, this.#options, reason);
    this.#attempt += 1;
    const isAsked = code === LATER_CODE || askedWaitMs(reason) !== null;
    this.#notBefore = isAsked ? Date.now() + retryMs : 0;
    this.#retryIn(retryMs);
    this.#tell("waiting", { code, reason, retryMs });
  }

  /** Drops an unresponsive socket without a closing handshake, to which it would not respond either. */
  #giveUp(reason) {
    this.#socket?.close();
    this.#lost(1006, reason);
  }

  #retryIn(delayMs) {
    clearTimeout(this.#timers.retry);
    this.#timers.retry = setTimeout(() => this.#connect(), delayMs);
  }

  /** The network is back: retry at once, unless the server asked for a wait, and probe an open socket, which may have died silently. */
  #online() {
    const { probe, probeMs, soonMs, random } = this.#options;
    if (this.#status === "waiting") {
      this.#attempt = 0;
      this.#retryIn(Math.max(this.#notBefore - Date.now(), random() * soonMs));
    } else if (probe !== null && this.send(probe)) {
      clearTimeout(this.#timers.probe);
      this.#timers.probe = setTimeout(() => this.#giveUp("no answer"), probeMs);
    }
  }

  /** The browser can be wrong (a server on this machine is still reachable), so attempts continue, but rarely. */
  #offline() {
    if (this.#status === "waiting") this.#retryIn(this.#options.delayMaxMs);
  }

  #forget() {
    this.#clearTimers();
    const socket = this.#socket;
    this.#socket = null;
    return socket;
  }

  #end(detail) {
    globalThis.removeEventListener?.("online", this.#goesOnline);
    globalThis.removeEventListener?.("offline", this.#goesOffline);
    this.#attempt = 0;
    if (this.#status !== "closed") this.#tell("closed", detail);
  }

  #clearTimers() {
    for (const name of Object.keys(this.#timers)) clearTimeout(this.#timers[name]);
  }

  #tell(status, { code = null, reason = "", retryMs = null } = {}) {
    this.#status = status;
    this.dispatchEvent(new CustomEvent("status", { detail: { status, code, reason, retryMs } }));
  }
}

/** Returns the WebSocket URL of a path on the server this page came from. */
export function socketUrl(path, location = globalThis.location) {
  const url = new URL(path, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  return url.href;
}
