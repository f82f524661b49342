/** The browser's side of a Oneport server: connections that come back, without a gap. */

export { Connection, connect } from "./connection.js";
export { askedWaitMs, mayReconnect, retryDelayMs } from "./retry.js";
export { fetchTicket, TicketError } from "./ticket.js";

/**
 * @typedef {import("./connection.js").Listeners} Listeners
 * @typedef {import("./connection.js").Options} Options
 * @typedef {import("./connection.js").Presence} Presence
 * @typedef {import("./connection.js").ServerEvent} ServerEvent
 * @typedef {import("./connection.js").Status} Status
 * @typedef {import("./connection.js").StatusChange} StatusChange
 * @typedef {import("./connection.js").Transport} Transport
 */
