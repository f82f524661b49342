/** A page's own WebSocket with permessage-deflate. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { openTab, startBrowser } from "./browser.mjs";
import { Server, temporaryConfig } from "./server.mjs";

const LIMIT = { timeout: 60_000 };

const CONFIG = `
[[http.route]]
path = "/"
view = "respond"
options = { body = "a page" }

[[websocket.route]]
path = "/ws/fresh/"
consumer = "echo"
max_message = "1 MiB"

[[websocket.route]]
path = "/ws/kept/"
consumer = "echo"
max_message = "1 MiB"
server_context_takeover = true
client_context_takeover = true

[[websocket.route]]
path = "/ws/small/"
consumer = "echo"
max_message = "1 MiB"
server_context_takeover = true
client_context_takeover = true
server_max_window_bits = 9
client_max_window_bits = 9

[[websocket.route]]
path = "/ws/off/"
consumer = "echo"
max_message = "1 MiB"
compression = "off"
`;

/** Runs in the page: sends each message once its predecessor is back; returns what was agreed, what came back wrong, and the code. */
function talk(path) {
  const texts = Array.from({ length: 20 }, (_, turn) =>
    Array.from({ length: 10_000 }, (_, at) => `grüße ${(at * (turn % 3 ? 7 : 13)) % 997} `).join("").slice(0, 100_000),
  );
  texts.push("", "short", "☕🦀".repeat(20_000));
  const wrong = [];
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(new URL(path, location.href.replace("http", "ws")));
    let at = 0;
    socket.onopen = () => socket.send(texts[0]);
    socket.onerror = () => reject(new Error("the socket failed"));
    socket.onmessage = ({ data }) => {
      if (data !== texts[at]) wrong.push(at);
      at += 1;
      if (at < texts.length) socket.send(texts[at]);
      else socket.close(1000);
    };
    socket.onclose = ({ code, wasClean }) => resolve({ extensions: socket.extensions, answered: at, wrong, code, wasClean });
  });
}

test("long texts of a page come back whole, and are compressed unless the route is against it", LIMIT, async (t) => {
  const server = await Server.start(t, { config: temporaryConfig(t, CONFIG) });
  const tab = await openTab(await (await startBrowser(t)).newContext(), `${server.origin}/`);
  for (const [name, extensions] of [
    ["fresh", /^permessage-deflate; server_no_context_takeover; client_no_context_takeover$/],
    ["kept", /^permessage-deflate$/],
    ["small", /^permessage-deflate; server_max_window_bits=9; client_max_window_bits=9$/],
    ["off", /^$/],
  ]) {
    const found = await tab.evaluate(talk, `/ws/${name}/`);
    assert.match(found.extensions, extensions);
    assert.deepEqual([found.answered, found.wrong, found.code, found.wasClean], [23, [], 1000, true], name);
  }
  await server.stop();
});
