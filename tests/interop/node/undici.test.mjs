/** The WebSocket that browsers have, as the `undici` library makes it: it offers permessage-deflate by itself. */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { test } from "node:test";
import { Agent, H2CClient, WebSocket } from "undici";
import { within } from "./deadline.mjs";
import { Server } from "./server.mjs";

const CONFIG = `
[websocket]
max_message = "2 MiB"

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
subprotocols = ["v2", "v1"]

[[websocket.route]]
path = "/ws/kept/"
consumer = "echo"
compression_threshold = "0 B"
server_context_takeover = true
client_context_takeover = true

[[websocket.route]]
path = "/ws/small/"
consumer = "echo"
server_max_window_bits = 9
client_max_window_bits = 9

[[websocket.route]]
path = "/ws/off/"
consumer = "echo"
compression = "off"

[[websocket.route]]
path = "/ws/listen/"
consumer = "feed"
options = { groups = ["news"] }

[[websocket.route]]
path = "/ws/narrow/"
consumer = "echo"
max_message = "4 KiB"
`;

const words = (length) => "all that was said before is of use, ".repeat(length / 36 + 1).slice(0, length);

/** Opens a socket that queues what it received, and is cut off when the test ends. */
async function open(t, server, path, { protocols = [], dispatcher = new Agent() } = {}) {
  t.after(() => dispatcher.destroy());
  const socket = new WebSocket(`ws://${server.host}${path}`, { protocols, dispatcher, headers: { origin: server.origin } });
  socket.binaryType = "arraybuffer";
  const received = [];
  let wake = () => {};
  socket.addEventListener("message", ({ data }) => {
    received.push(typeof data === "string" ? data : Buffer.from(data));
    wake();
  });
  const closing = new Promise((resolve) => socket.addEventListener("close", resolve));
  const failing = new Promise((resolve) => socket.addEventListener("error", ({ error }) => resolve(error)));
  const opened = once(socket, "open").then(() => undefined);
  const error = await within(Promise.race([opened, failing]), `an open socket at ${path}`);
  if (error !== undefined) throw new Error(`expected an open socket at ${path}`, { cause: error });
  return {
    socket,
    send: (message) => socket.send(message),
    receive: () =>
      within(
        (async () => {
          while (received.length === 0) await new Promise((resolve) => (wake = resolve));
          return received.shift();
        })(),
        "a message",
      ),
    closed: () => within(closing, "a closed socket"),
  };
}

const MESSAGES = [
  "",
  Buffer.alloc(0),
  "hi",
  "grüße ☕ 🦀 ".repeat(1000),
  randomBytes(125),
  randomBytes(126),
  randomBytes(65535),
  randomBytes(65536),
  words(65536),
  words(65536),
  words(1 << 20),
];

async function talk(peer, messages = MESSAGES) {
  for (const message of messages) {
    peer.send(message);
    const back = await peer.receive();
    assert.ok(typeof back === "string" ? back === message : back.equals(message), `${message.length} bytes came back wrong`);
  }
}

test("text and binary come back as they were, compressed or not", async (t) => {
  const server = await Server.start(t, CONFIG);
  for (const [route, extension] of [
    ["echo", /^permessage-deflate/],
    ["kept", /^permessage-deflate/],
    ["small", /^permessage-deflate/],
    ["off", /^$/],
  ]) {
    const peer = await open(t, server, `/ws/${route}/`);
    assert.match(peer.socket.extensions, extension);
    await talk(peer);
  }
});

test("many messages at once come back in order", async (t) => {
  const server = await Server.start(t, CONFIG);
  for (const route of ["echo", "kept", "small"]) {
    const peer = await open(t, server, `/ws/${route}/`);
    const messages = Array.from({ length: 200 }, (_, number) => `${number} ${words((number % 13) * 150)}`);
    for (const message of messages) peer.send(message);
    for (const message of messages) assert.equal(await peer.receive(), message);
  }
});

test("a close code and its reason are understood on both sides", async (t) => {
  const server = await Server.start(t, CONFIG);
  for (const code of [1000, 3000, 4001, 4999]) {
    const peer = await open(t, server, "/ws/echo/");
    peer.socket.close(code, "bye");
    const closed = await peer.closed();
    assert.deepEqual([closed.code, closed.wasClean], [code, true]);
  }
  const plain = await open(t, server, "/ws/echo/");
  plain.socket.close();
  assert.deepEqual([(await plain.closed()).code, (await plain.closed()).wasClean], [1005, true]);

  const listener = await open(t, server, "/ws/listen/");
  listener.send("a word");
  const closed = await listener.closed();
  assert.deepEqual([closed.code, closed.reason, closed.wasClean], [1008, "this socket is for listening", true]);
});

test("a message over the limit is 1009", async (t) => {
  const server = await Server.start(t, CONFIG);
  for (const message of [words(4097), randomBytes(4097), Buffer.alloc(1 << 20)]) {
    const peer = await open(t, server, "/ws/narrow/");
    peer.send(message);
    assert.equal((await peer.closed()).code, 1009);
  }
});

test("a subprotocol is chosen", async (t) => {
  const server = await Server.start(t, CONFIG);
  const chosen = async (protocols) => (await open(t, server, "/ws/echo/", { protocols })).socket.protocol;
  assert.equal(await chosen(["v1"]), "v1");
  assert.equal(await chosen(["v9", "v2", "v1"]), "v2");
  assert.equal(await chosen([]), "");
});

test("the server's end is 1001", async (t) => {
  const server = await Server.start(t, CONFIG);
  const peer = await open(t, server, "/ws/echo/");
  server.terminate();
  const closed = await peer.closed();
  assert.deepEqual([closed.code, closed.reason], [1001, "the server is shutting down; retry_after=5"]);
});

test("an unknown path is refused", async (t) => {
  const server = await Server.start(t, CONFIG);
  await assert.rejects(open(t, server, "/ws/nothing/"), /expected an open socket/);
});
