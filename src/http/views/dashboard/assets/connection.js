/** Connection: the dashboard's WebSocket. It keeps the figures up to date, and carries calls with their replies. */

import { Connection as Socket } from "./?file=oneport.js";

const CALL_MS = 5_000;
const POINTS_MAX = 300;

/** Returns a function that asks, unless the page is hidden or the answer to the time before is still to come. */
export function oneAtATime(ask) {
  let isAsking = false;
  return async () => {
    if (isAsking || document.hidden) return;
    isAsking = true;
    try {
      await ask();
    } finally {
      isAsking = false;
    }
  };
}

/** Returns a function that asks at once, or once more after the answer that is still to come: for a filter that is being typed. */
export function askLatest(ask) {
  let isAsking = false;
  let isOutdated = false;
  return async () => {
    isOutdated = true;
    if (isAsking) return;
    isAsking = true;
    try {
      while (isOutdated) {
        isOutdated = false;
        await ask();
      }
    } finally {
      isAsking = false;
    }
  };
}

/** Applies a JSON merge patch (RFC 7396). Objects are changed in place. */
export function merge(target, patch) {
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete target[key];
    else if (isObject(value)) target[key] = merge(isObject(target[key]) ? target[key] : {}, value);
    else target[key] = value;
  }
  return target;
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * The connection to the server. Events: `update` (new figures) and `status`.
 *
 * `stats` are the figures, null before the first. `points` holds the columns of the plots. `rates` tells by table and route what has
 * changed since the update before, per second.
 */
export class Connection extends EventTarget {
  stats = null;
  columns = [];
  points = [];
  rates = { http: {}, websocket: {} };
  status = { status: "connecting" };
  #socket;
  #seq = 0;
  #calls = new Map();
  #lastCall = 0;
  #before = null;

  constructor(url) {
    super();
    this.#socket = new Socket(url);
    this.#socket.on("status", (change) => this.#setStatus(change));
    this.#socket.on("event", (message) => this.#receive(message));
  }

  open() {
    this.#socket.open();
  }

  /** Leaves the server; `open` comes back. */
  close() {
    this.#socket.close(1000, "hidden");
  }

  /** Sends a call; resolves with the reply's value, or rejects with an Error whose message is a sentence. */
  call(name, fields = {}, { waitMs = CALL_MS } = {}) {
    this.#lastCall += 1;
    const id = this.#lastCall;
    if (!this.#socket.send(JSON.stringify({ id, call: name, ...fields }))) {
      return Promise.reject(new Error("not connected to the server"));
    }
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#settle(id, { error: "the server does not reply" }), waitMs);
      this.#calls.set(id, { resolve, reject, timer });
    });
  }

  #settle(id, { value, error }) {
    const call = this.#calls.get(id);
    if (call === undefined) return;
    this.#calls.delete(id);
    clearTimeout(call.timer);
    if (error === undefined) call.resolve(value);
    else call.reject(new Error(error));
  }

  #setStatus(status) {
    this.status = status;
    if (status.status !== "open") {
      this.#before = null;
      for (const id of [...this.#calls.keys()]) this.#settle(id, { error: "the connection was lost" });
    }
    this.dispatchEvent(new Event("status"));
  }

  #receive(message) {
    switch (message.type) {
      case "reply":
        this.#settle(message.id, message);
        return;
      case "snapshot":
        this.#seq = message.seq;
        this.columns = message.columns;
        this.points = message.points;
        this.#before = this.stats?.node === message.stats.node ? this.#before : null;
        this.stats = message.stats;
        break;
      case "update":
        if (this.stats === null) return;
        if (message.seq !== this.#seq + 1) {
          // A slow connection may drop messages: start over.
          this.call("snapshot").catch(() => {});
          return;
        }
        this.#seq = message.seq;
        merge(this.stats, message.patch);
        if (message.point !== null) this.points.push(message.point);
        if (this.points.length > POINTS_MAX) this.points.shift();
        break;
      default:
        return;
    }
    this.#computeRates();
    this.dispatchEvent(new Event("update"));
  }

  /** Returns the last value of a column; null if there is none. */
  latest(column) {
    const at = this.columns.indexOf(column);
    return this.points.at(-1)?.[at] ?? null;
  }

  #computeRates() {
    const { stats } = this;
    const seconds = this.#before === null ? 0 : stats.uptime - this.#before.uptime;
    const now = { uptime: stats.uptime, http: {}, websocket: {} };
    for (const table of ["http", "websocket"]) {
      for (const [label, route] of Object.entries(stats[table])) {
        const counts = routeCounts(route);
        now[table][label] = { counts, latency: { ...route.latency, buckets: { ...route.latency.buckets } } };
        const earlier = this.#before?.[table][label];
        const rates = {};
        if (seconds > 0 && earlier !== undefined) {
          for (const [name, value] of Object.entries(counts)) rates[name] = Math.max(0, value - earlier.counts[name]) / seconds;
          rates.quantiles = quantiles(route.latency, earlier.latency);
        }
        this.rates[table][label] = rates;
      }
    }
    this.#before = now;
  }
}

/** What is counted of a route: all, and its errors. */
function routeCounts(route) {
  const answers = route.responses ?? route.handshakes;
  const all = Object.values(answers).reduce((sum, one) => sum + one, 0);
  return {
    requests: all,
    errors: answers["5xx"] ?? 0,
    refused: answers["4xx"] ?? 0,
    received: route.messages?.received ?? 0,
    sent: route.messages?.sent ?? 0,
    bytesReceived: route.messages?.bytes_received ?? 0,
    bytesSent: route.messages?.bytes_sent ?? 0,
  };
}

/**
 * Returns p50, p90 and p99 of the calls between two states of a histogram, interpolated as Prometheus does; null without a call.
 * Without an earlier state: of all calls.
 */
export function quantiles(latency, earlier = { count: 0, buckets: {} }) {
  const calls = latency.count - earlier.count;
  if (!(calls > 0)) return null;
  const bounds = Object.entries(latency.buckets)
    .map(([bound, value]) => [Number(bound), value - (earlier.buckets[bound] ?? 0)])
    .sort(([one], [other]) => one - other);
  return [0.5, 0.9, 0.99].map((share) => {
    const wanted = share * calls;
    let [low, below] = [0, 0];
    for (const [bound, value] of bounds) {
      if (value >= wanted && value > below) return low + (bound - low) * Math.max(0, (wanted - below) / (value - below));
      [low, below] = [bound, value];
    }
    return low;
  });
}
