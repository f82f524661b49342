/** Proxy: a network between the browser and the server that a test can cut, or that knows no WebSockets. */

import { once } from "node:events";
import net from "node:net";

const REFUSAL = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/** Listens at a port of its own and passes bytes on. */
export class Proxy {
  /** Whether it refuses upgrades. */
  refusesUpgrades = false;
  /** Whether it closes every new connection. */
  isDown = false;
  /** The requests for an upgrade that came. */
  upgrades = 0;
  #listener;
  #open = new Set();

  static async start(t, server, fields = {}) {
    const proxy = Object.assign(new Proxy(), fields);
    proxy.#listener = net.createServer((client) => proxy.#pass(client, server.port)).listen(0, "127.0.0.1");
    await once(proxy.#listener, "listening");
    proxy.origin = `http://127.0.0.1:${proxy.#listener.address().port}`;
    t.after(() => {
      proxy.cut();
      proxy.#listener.close();
    });
    return proxy;
  }

  /** Cuts every connection, as a network does that goes away. */
  cut() {
    for (const socket of this.#open) socket.resetAndDestroy();
  }

  #pass(client, port) {
    if (this.isDown) {
      client.destroy();
      return;
    }
    const server = net.connect(port, "127.0.0.1");
    for (const [from, to] of [[client, server], [server, client]]) {
      this.#open.add(from);
      from.on("error", () => {});
      from.on("close", () => {
        this.#open.delete(from);
        to.destroy();
      });
    }
    server.pipe(client);
    client.on("data", (data) => {
      // A browser sends the head of a request in one piece.
      if (/^upgrade: websocket\r$/im.test(data.toString("latin1"))) {
        this.upgrades += 1;
        if (this.refusesUpgrades) {
          client.end(REFUSAL);
          return;
        }
      }
      server.write(data);
    });
    client.on("end", () => server.end());
  }
}
