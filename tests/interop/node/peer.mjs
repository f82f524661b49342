/** Peer: a client by the `ws` library that queues what it received. */

import { once } from "node:events";
import WebSocket from "ws";
import { within } from "./deadline.mjs";

export class Peer {
  #received = [];
  #wake = () => {};

  constructor(server, path, { protocols = [], ...options } = {}) {
    const settings = { origin: server.origin, handshakeTimeout: 15_000, perMessageDeflate: false, ...options };
    this.socket = new WebSocket(`ws://${server.host}${path}`, protocols, settings);
    this.socket.on("error", (error) => (this.error = error));
    this.socket.on("message", (data, isBinary) => {
      this.#received.push(isBinary ? data : data.toString("utf8"));
      this.#wake();
    });
    this.socket.on("close", () => this.#wake());
    this.closing = new Promise((resolve) =>
      this.socket.on("close", (code, reason) => resolve({ code, reason: reason.toString("utf8") })),
    );
    this.pongs = [];
    this.socket.on("pong", (data) => this.pongs.push(data.toString("latin1")));
  }

  /** Connects, and is cut off when the test ends. */
  static async connect(t, server, path, options) {
    const peer = new Peer(server, path, options);
    t.after(() => peer.socket.terminate());
    await within(once(peer.socket, "open"), `an open socket at ${path}`);
    return peer;
  }

  send(message, options = {}) {
    this.socket.send(message, options);
  }

  say(event) {
    this.socket.send(JSON.stringify(event));
  }

  /** Returns the next message: text as a string, binary as a Buffer. */
  async receive() {
    const next = async () => {
      while (this.#received.length === 0) {
        if (this.socket.readyState === WebSocket.CLOSED) throw new Error("expected a message, found a closed socket");
        await new Promise((resolve) => (this.#wake = resolve));
      }
      return this.#received.shift();
    };
    return within(next(), "a message");
  }

  /** Returns the next event of a type (with these fields), and forgets those before it. */
  async next(type, fields = {}) {
    const find = async () => {
      for (;;) {
        const event = JSON.parse(await this.receive());
        if (event.type === type && Object.entries(fields).every(([name, value]) => event[name] === value)) return event;
      }
    };
    return within(find(), `an event ${type}`);
  }

  /** Waits for the end; returns the code and the reason of the close frame. */
  async closed() {
    return within(this.closing, "a closed socket");
  }
}

/** Returns the status that refuses a handshake. */
export async function refusal(server, path, options) {
  const peer = new Peer(server, path, options);
  const refused = once(peer.socket, "unexpected-response").then(([request, response]) => {
    response.resume();
    request.destroy();
    return response.statusCode;
  });
  return within(refused, `a refusal at ${path}`);
}
