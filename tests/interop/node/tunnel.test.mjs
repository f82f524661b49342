/** The `ws` library at both ends of a tunnel: what its client and its server agree on, Oneport only passes on. */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";
import { WebSocketServer } from "ws";
import { Peer } from "./peer.mjs";
import { Server } from "./server.mjs";

const words = (length) => "all that was said before is of use, ".repeat(length / 36 + 1).slice(0, length);
const BLOCK = randomBytes(300);

const MESSAGES = [
  "",
  Buffer.alloc(0),
  words(125),
  words(126),
  "grüße ☕ 🦀 ".repeat(2000),
  Buffer.concat([BLOCK, randomBytes(20_000), BLOCK]),
  words(65_535),
  words(65_536),
  randomBytes(1 << 20),
  words(3 << 20),
];

/** Starts an echo server of the `ws` library, and a server before it. Returns both, and the upstream's connections. */
async function start(t, perMessageDeflate) {
  const http = createServer();
  const sockets = new WebSocketServer({ server: http, perMessageDeflate, handleProtocols: (offered) => (offered.has("v2") ? "v2" : false) });
  const connections = [];
  sockets.on("connection", (socket) => {
    connections.push(socket);
    socket.on("message", (data, isBinary) => {
      const close = /^close (\d+) (.*)$/.exec(isBinary ? "" : data.toString("utf8"));
      if (close) socket.close(Number(close[1]), close[2]);
      else socket.send(data, { binary: isBinary });
    });
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  t.after(() => {
    connections.forEach((socket) => socket.terminate());
    http.close();
  });
  const server = await Server.start(
    t,
    `
[[websocket.route]]
path = "/ws/{*path}"
consumer = "proxy"
compression = "off"
options = { upstream = ["http://127.0.0.1:${http.address().port}"] }
`,
  );
  return { server, connections };
}

const SETTINGS = {
  "with context takeover": { threshold: 0 },
  "without context takeover": { threshold: 0, serverNoContextTakeover: true, clientNoContextTakeover: true },
  "with small windows": { threshold: 0, serverMaxWindowBits: 9, clientMaxWindowBits: 10 },
};

for (const [name, settings] of Object.entries(SETTINGS)) {
  test(`messages come back through permessage-deflate ${name}`, async (t) => {
    const { server, connections } = await start(t, settings);
    const peer = await Peer.connect(t, server, "/ws/a", { protocols: ["v1", "v2"], perMessageDeflate: settings });
    assert.equal(peer.socket.protocol, "v2");
    assert.match(peer.socket.extensions, /^permessage-deflate/);
    assert.equal(connections[0].extensions, peer.socket.extensions);
    for (const message of [...MESSAGES, ...MESSAGES]) {
      peer.send(message);
      assert.deepEqual(await peer.receive(), message);
    }
    for (const part of ["a ", "message ", "in "]) peer.send(part, { fin: false });
    peer.send("parts");
    assert.equal(await peer.receive(), "a message in parts");
  });
}

test("what one end does not want is not agreed on", async (t) => {
  const { server } = await start(t, false);
  const peer = await Peer.connect(t, server, "/ws/a", { perMessageDeflate: true });
  assert.equal(peer.socket.extensions, "");
  peer.send(words(100_000));
  assert.equal(await peer.receive(), words(100_000));
});

test("pings are answered by the other end", async (t) => {
  const { server, connections } = await start(t, true);
  const peer = await Peer.connect(t, server, "/ws/a");
  const pinged = once(connections[0], "ping");
  peer.socket.ping("are you there");
  assert.equal(String((await pinged)[0]), "are you there");
  await once(peer.socket, "pong");
  assert.deepEqual(peer.pongs, ["are you there"]);
});

test("codes and reasons of both ends pass", async (t) => {
  const { server, connections } = await start(t, true);
  for (const [code, reason] of [
    [1000, "done"],
    [1011, ""],
    [4999, "grüße ".repeat(15)],
  ]) {
    const first = await Peer.connect(t, server, "/ws/a", { perMessageDeflate: true });
    const ended = once(connections.at(-1), "close");
    first.socket.close(code, reason);
    const [found, said] = await ended;
    assert.deepEqual([found, String(said)], [code, reason]);
    assert.deepEqual(await first.closed(), { code, reason });
    const second = await Peer.connect(t, server, "/ws/a", { perMessageDeflate: true });
    second.send(`close ${code} ${reason}`);
    assert.deepEqual(await second.closed(), { code, reason });
  }
});
