/** Echo: messages, control frames, closes and compression, by the `ws` library. */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { until } from "./deadline.mjs";
import { Peer, refusal } from "./peer.mjs";
import { Server } from "./server.mjs";

const LIMIT = 64 * 1024;

const CONFIG = `
[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
subprotocols = ["v2", "v1"]
`;

test("messages of every kind and length come back as they were", async (t) => {
  const peer = await Peer.connect(t, await Server.start(t, CONFIG), "/ws/echo/");
  for (const message of ["", "hi", "grüße ☕ 🦀", Buffer.alloc(0), randomBytes(125), randomBytes(126), randomBytes(LIMIT)]) {
    peer.send(message);
    assert.deepEqual(await peer.receive(), message);
  }
});

test("a message in fragments comes back in one, with pings between them answered", async (t) => {
  const peer = await Peer.connect(t, await Server.start(t, CONFIG), "/ws/echo/");
  peer.send("one ", { fin: false });
  peer.socket.ping("between");
  peer.send("two ", { fin: false });
  peer.send("three", { fin: true });
  assert.equal(await peer.receive(), "one two three");
  assert.deepEqual(peer.pongs, ["between"]);
});

test("one byte over the limit is 1009, for this socket alone", async (t) => {
  const server = await Server.start(t, CONFIG);
  const [peer, other] = [await Peer.connect(t, server, "/ws/echo/"), await Peer.connect(t, server, "/ws/echo/")];
  peer.send("a".repeat(LIMIT + 1));
  assert.equal((await peer.closed()).code, 1009);
  other.send("still here");
  assert.equal(await other.receive(), "still here");
});

test("a ping is answered with its payload", async (t) => {
  const peer = await Peer.connect(t, await Server.start(t, CONFIG), "/ws/echo/");
  for (const payload of ["", "payload", "x".repeat(125)]) {
    peer.pongs.length = 0;
    peer.socket.ping(payload);
    await until(() => peer.pongs.length > 0, "a pong");
    assert.deepEqual(peer.pongs, [payload]);
  }
});

test("a close code comes back as it was sent", async (t) => {
  const server = await Server.start(t, CONFIG);
  for (const code of [1000, 1001, 3000, 4001, 4999]) {
    const peer = await Peer.connect(t, server, "/ws/echo/");
    peer.socket.close(code, "bye");
    assert.equal((await peer.closed()).code, code);
    assert.equal(peer.error, undefined);
  }
});

test("a client that is cut off leaves no socket behind", async (t) => {
  const server = await Server.start(t, CONFIG);
  const peer = await Peer.connect(t, server, "/ws/echo/");
  assert.equal(await server.metric("oneport_websockets"), 1);
  peer.socket.terminate();
  await until(async () => (await server.metric("oneport_websockets")) === 0, "no open socket");
});

test("the server's end is 1001", async (t) => {
  const server = await Server.start(t, CONFIG);
  const peer = await Peer.connect(t, server, "/ws/echo/");
  peer.send("open");
  await peer.receive();
  server.terminate();
  assert.deepEqual(await peer.closed(), { code: 1001, reason: "the server is shutting down; retry_after=5" });
});

test("the first subprotocol of the client that the route speaks is chosen", async (t) => {
  const server = await Server.start(t, CONFIG);
  const chosen = async (protocols) => (await Peer.connect(t, server, "/ws/echo/", { protocols })).socket.protocol;
  assert.equal(await chosen(["v1", "v2"]), "v1");
  assert.equal(await chosen(["v9", "v2"]), "v2");
  assert.equal(await chosen([]), "");
});

test("a client that offers permessage-deflate is understood, and so is one that does not", async (t) => {
  const server = await Server.start(t, CONFIG);
  const offers = [
    false,
    true,
    { threshold: 0, clientNoContextTakeover: true, serverNoContextTakeover: true },
    { threshold: 0, clientMaxWindowBits: 10, serverMaxWindowBits: 10 },
  ];
  for (const perMessageDeflate of offers) {
    const peer = await Peer.connect(t, server, "/ws/echo/", { perMessageDeflate });
    for (const message of ["short", "long ".repeat(10_000), randomBytes(10_000)]) {
      peer.send(message, { compress: true });
      assert.deepEqual(await peer.receive(), message);
    }
    peer.socket.close(1000);
    assert.equal((await peer.closed()).code, 1000);
    assert.equal(peer.error, undefined);
  }
});

test("a page of another origin, a missing origin and an unknown path are refused", async (t) => {
  const server = await Server.start(t, CONFIG);
  assert.equal(await refusal(server, "/ws/echo/", { origin: "https://evil.example" }), 403);
  assert.equal(await refusal(server, "/ws/echo/", { origin: undefined }), 403);
  assert.equal(await refusal(server, "/ws/nothing/"), 404);
});
