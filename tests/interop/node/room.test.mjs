/** Room: Node's `ws` and Python's `websockets` in one chat; many sockets come and go. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { test } from "node:test";
import { until, within } from "./deadline.mjs";
import { Peer } from "./peer.mjs";
import { Server } from "./server.mjs";

const CONFIG = `
[[websocket.route]]
path = "/ws/chat/{room:slug}/"
consumer = "chat"
options = { group = "chat_{room}", history = 50, presence = true }

[[websocket.route]]
path = "/ws/all/"
consumer = "broadcast"
options = { group = "all" }
`;

const ROOM = "/ws/chat/mixed/";

test("two clients of a room hear each other, and a third one reads what was said", async (t) => {
  const server = await Server.start(t, CONFIG);
  const anna = await Peer.connect(t, server, ROOM);
  const ben = await Peer.connect(t, server, ROOM);
  anna.say({ message: "hi ☕" });
  for (const peer of [anna, ben]) assert.equal((await peer.next("chat.message")).message, "hi ☕");
  const late = await Peer.connect(t, server, ROOM);
  assert.equal((await late.next("chat.message")).message, "hi ☕");
  late.say({ type: "who" });
  assert.equal((await late.next("chat.who")).members, 3);
  ben.socket.close();
  await anna.next("chat.leave", { members: 2 });
});

test("a Python client and a Node client talk in one room", async (t) => {
  const python = process.env.PYTHON ?? "python3";
  const server = await Server.start(t, CONFIG);
  const peer = await Peer.connect(t, server, ROOM);
  await peer.next("chat.join", { members: 1 });

  // It waits for "from node", answers "from python", and leaves.
  const script = path.join(import.meta.dirname, "answer.py");
  const child = spawn(python, [script, `ws://${server.host}${ROOM}`, server.origin], { stdio: ["ignore", "inherit", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const exit = once(child, "exit");
  await peer.next("chat.join", { members: 2 });
  peer.say({ message: "from node" });
  assert.equal((await peer.next("chat.message", { message: "from python: grüße" })).user, null);
  assert.deepEqual(await within(exit, "the end of the Python client"), [0, null]);
  await peer.next("chat.leave", { members: 1 });
});

test("1,000 sockets that were opened and closed leave no task and no socket behind", async (t) => {
  const server = await Server.start(t, `[server.limits]\nconnections_per_ip = 2000\n${CONFIG}`);
  const warm = await Peer.connect(t, server, "/ws/all/");
  warm.socket.close();
  await warm.closed();
  await until(async () => (await server.metric("oneport_websockets")) === 0, "no open socket");
  const before = await server.metric("oneport_tasks");

  const peers = [];
  while (peers.length < 1_000) {
    peers.push(...(await Promise.all(Array.from({ length: 50 }, () => Peer.connect(t, server, "/ws/all/")))));
  }
  assert.equal(await server.metric("oneport_websockets"), 1_000);
  peers[0].send("to all");
  for (const peer of peers) assert.equal(await peer.receive(), "to all");

  // Every way to go: a close, a close with a code, and no word at all.
  peers.forEach((peer, at) => [() => peer.socket.close(), () => peer.socket.close(4000), () => peer.socket.terminate()][at % 3]());
  await Promise.all(peers.map((peer) => peer.closed()));
  await until(async () => (await server.metric("oneport_websockets")) === 0, "no open socket");
  let tasks;
  await until(
    async () => (tasks = await server.metric("oneport_tasks")) <= before,
    () => `at most ${before} tasks, found ${tasks}`,
  );
});
