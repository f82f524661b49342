/** When a connection that was lost is opened again. */

/** Close codes after which a retry would end the same way: done, policy, log in again. */
const FINAL_CODES = new Set([1000, 1008, 4401]);
/** The server stops or restarts, and its successor is probably available. */
const SOON_CODES = new Set([1001, 1012]);
/** Overload: reconnecting at once would make it worse. */
export const LATER_CODE = 1013;
/** How many doublings of the delay an overload adds. */
const LATER_ATTEMPTS = 3;
/** The end of a close frame's reason in which the server asks to come back after so many seconds, and not before. */
const RETRY_AFTER = /(?:^|; )retry_after=(\d{1,6})$/;

export const DELAYS = {
  delayMs: 1_000,
  delayMaxMs: 30_000,
  soonMs: 250,
  spreadMs: 1_000,
  askedMaxMs: 300_000,
  random: Math.random,
};

/**
 * Returns the options with their defaults, also for those that are undefined.
 *
 * @template {object} T
 * @param {T} defaults
 * @param {Partial<T>} [options]
 * @returns {T}
 */
export function completed(defaults, options) {
  const given = Object.entries(options ?? {}).filter(([, value]) => value !== undefined);
  return { ...defaults, ...Object.fromEntries(given) };
}

/**
 * Returns whether a connection that ended with this code should be opened again.
 *
 * @param {number} code
 */
export function mayReconnect(code) {
  return !FINAL_CODES.has(code) && !(code >= 4500 && code <= 4999);
}

/**
 * Returns the milliseconds for which the server asked its client to wait, or null.
 *
 * @param {string} reason
 */
export function askedWaitMs(reason) {
  const found = RETRY_AFTER.exec(reason);
  return found === null ? null : Number(found[1]) * 1_000;
}

/**
 * Returns the delay before the next attempt: exponential back-off with full jitter, so that many clients which lost
 * their server at the same moment do not reconnect at the same moment. A server that stops asks each client to wait for
 * a time of its own, in `reason`: that comes first, with a jitter of up to a second.
 *
 * `attempt` counts the failures since the connection was last stable, from 0.
 *
 * @param {number} code
 * @param {number} attempt
 * @param {Partial<typeof DELAYS>} [options]
 * @param {string} [reason]
 */
export function retryDelayMs(code, attempt, options, reason = "") {
  const { delayMs, delayMaxMs, soonMs, spreadMs, askedMaxMs, random } = completed(DELAYS, options);
  /** @param {number} doublings */
  const backOffMs = (doublings) => Math.min(delayMaxMs, delayMs * 2 ** doublings);
  const askedMs = askedWaitMs(reason);
  if (askedMs !== null) {
    return Math.min(askedMs, askedMaxMs) + random() * Math.max(spreadMs, backOffMs(attempt - 1));
  }
  if (SOON_CODES.has(code) && attempt === 0) return random() * soonMs;
  return random() * backOffMs(code === LATER_CODE ? Math.max(attempt, LATER_ATTEMPTS) : attempt);
}
