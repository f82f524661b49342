/** Tickets: a login for one WebSocket handshake, for pages that cannot send a header field or a cookie with it. */

/** Why there is no ticket. `code` is the close code of a connection that ends for it. */
export class TicketError extends Error {
  /**
   * @param {number} status
   */
  constructor(status) {
    super(`no ticket: the server responds ${status}`);
    /** The HTTP status. */
    this.status = status;
    /** 4401 if the login is not valid, which ends the connection; otherwise it is tried again. */
    this.code = status === 401 || status === 403 ? 4401 : 1006;
  }
}

/** How long the request may take. */
const FETCH_MS = 10_000;

/**
 * Gets a ticket from the server's view `ticket`, within ten seconds unless `init` has a `signal` of its own. Throws if
 * there is none.
 *
 * @param {string | URL} url
 * @param {RequestInit} [init] the request's header fields, such as `{ headers: { authorization: "Bearer ..." } }`
 * @returns {Promise<string>}
 */
export async function fetchTicket(url, init) {
  const response = await fetch(url, { method: "POST", signal: AbortSignal.timeout(FETCH_MS), ...init });
  if (!response.ok) throw new TicketError(response.status);
  const { ticket } = await response.json();
  if (!ticket) throw new TicketError(response.status);
  return ticket;
}
