/** Peer: a client that is no browser (Node's `ws`). */

import { once } from "node:events";
import WebSocket from "ws";
import { within } from "./deadline.mjs";

/** A socket that queues what it received. */
export class Peer {
  #socket;
  #events = [];
  #wake = () => {};

  constructor(socket) {
    this.#socket = socket;
    socket.on("error", () => {});
    socket.on("message", (data) => {
      this.#events.push(JSON.parse(data.toString("utf8")));
      this.#wake();
    });
  }

  /** Connects with the server's own origin, and ends with the test. */
  static async connect(t, server, path) {
    const url = new URL(path, server.origin.replace("http", "ws"));
    const socket = new WebSocket(url, { origin: server.origin, handshakeTimeout: 10_000 });
    const peer = new Peer(socket);
    t.after(() => socket.terminate());
    await within(once(socket, "open"), `an open socket at ${path}`);
    return peer;
  }

  send(value) {
    this.#socket.send(JSON.stringify(value));
  }

  /** Returns the next event of this type, and forgets those before it. */
  async next(type, matches = () => true) {
    const find = async () => {
      for (;;) {
        while (this.#events.length > 0) {
          const event = this.#events.shift();
          if (event.type === type && matches(event)) return event;
        }
        await new Promise((resolve) => (this.#wake = resolve));
      }
    };
    return within(find(), `an event ${type}`);
  }
}
