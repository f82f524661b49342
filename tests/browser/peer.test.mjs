/** A page and a program that is no browser, in one room, under a strict Content-Security-Policy. */

import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { openRoom, openTab, say, startBrowser, waitForText } from "./browser.mjs";
import { Peer } from "./peer.mjs";
import { ROOT, Server, temporaryConfig } from "./server.mjs";

const LIMIT = { timeout: 60_000 };
const STRICT = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'";

const config = (t) =>
  temporaryConfig(
    t,
    `
[templates]
dir = ${JSON.stringify(path.join(ROOT, "templates"))}

[http]
middleware = ["hosts", "headers"]
headers    = { content-security-policy = ${JSON.stringify(STRICT)} }

[[http.route]]
path    = "/"
name    = "index"
view    = "template"
options = { template = "chat/index.html" }

[[http.route]]
path    = "/chat/{room:slug}/"
name    = "room"
view    = "template"
options = { template = "chat/room.html" }

[[http.route]]
path    = "/static/{*path}"
name    = "static"
view    = "static"
options = { dir = ${JSON.stringify(path.join(ROOT, "templates/static"))} }

[[websocket.route]]
path     = "/ws/chat/{room:slug}/"
name     = "chat"
consumer = "chat"
options  = { group = "chat_{room}", history = 50, presence = true }
`,
  );

test("a Node client and the page talk in one room", LIMIT, async (t) => {
  const server = await Server.start(t, { config: config(t) });
  const context = await (await startBrowser(t)).newContext();
  const peer = await Peer.connect(t, server, "/ws/chat/mixed/");
  peer.send({ message: "first" });
  await peer.next("chat.message");

  const tab = await openRoom(context, `${server.origin}/chat/mixed/`);
  const join = await peer.next("chat.join", ({ members }) => members === 2);
  assert.equal(join.user, null);
  await waitForText(tab, ".message-text", "first");

  await say(tab, "#text", "zwei ☕ drei");
  const heard = await peer.next("chat.message");
  assert.equal(heard.message, "zwei ☕ drei");
  assert.equal(heard.user, null);
  assert.ok(Math.abs(Date.parse(heard.at) - Date.now()) < 60_000, heard.at);

  peer.send({ type: "who" });
  assert.equal((await peer.next("chat.who")).members, 2);
  await tab.click("#members");
  await waitForText(tab, "#who", "2 anonymous");
  assert.deepEqual(tab.errors, []);

  await tab.close();
  await peer.next("chat.leave", ({ members }) => members === 1);
});

test("the front page works under a strict policy", LIMIT, async (t) => {
  const server = await Server.start(t, { config: config(t) });
  const context = await (await startBrowser(t)).newContext();
  const tab = await openTab(context, `${server.origin}/`);
  await say(tab, "#room", "strict");
  await tab.waitForURL("**/chat/strict/");
  assert.deepEqual(tab.errors, []);
});
