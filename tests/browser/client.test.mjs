/** The browser client against a real server: lost networks, restarts, proxies, tabs, tickets, and the examples of its README. */

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { openTab, startBrowser } from "./browser.mjs";
import { until } from "./deadline.mjs";
import { Peer } from "./peer.mjs";
import { Proxy } from "./proxy.mjs";
import { ROOT, Server, temporaryConfig } from "./server.mjs";

const LIMIT = { timeout: 60_000 };
const JWT_KEY = "a key of the tests, at least 32 bytes long";

/** `HERE` is the directory of the configuration. */
const CONFIG = `
[server.drain]
retry_after = "1s"

[[http.route]]
path    = "/static/{*path}"
view    = "static"
options = { dir = "${ROOT}/templates/static" }

[[http.route]]
path    = "/page/{*path}"
view    = "static"
options = { dir = "page" }

[[http.route]]
path    = "/events/{room:slug}/"
view    = "events"
options = { group = "chat_{room}", history = 1000, retry = "100ms" }

[[http.route]]
path            = "/ticket/"
middleware      = ["hosts", "cors", "auth"]
allowed_origins = ["*"]
cors            = { headers = ["authorization"] }
view            = "ticket"

[[websocket.route]]
path     = "/ws/chat/{room:slug}/"
consumer = "chat"
options  = { group = "chat_{room}", history = 1000, recover = true, presence = true }

[[websocket.route]]
path     = "/ws/two/"
consumer = "feed"
options  = { groups = ["chat_one", "chat_two"] }

[[websocket.route]]
path            = "/ws/user/"
middleware      = ["hosts", "origin", "auth", "login_required"]
allowed_origins = ["*"]
consumer        = "chat"
options         = { group = "users" }

[auth.bearer]
algorithms = ["HS256"]
key        = "${JWT_KEY}"
`;

async function start(t, { proxy = null, browser: options = {} } = {}) {
  const config = temporaryConfig(t, CONFIG);
  const page = path.join(path.dirname(config), "page");
  mkdirSync(page);
  writeFileSync(
    path.join(page, "index.html"),
    `<!doctype html><title>page</title><link rel="icon" href="data:,"><form><button>Send</button></form>
     <script type="importmap">{ "imports": { "oneport-client": "/static/oneport.js" } }</script>`,
  );
  const server = await Server.start(t, { config });
  const between = proxy === null ? null : await Proxy.start(t, server, proxy);
  const browser = await startBrowser(t, options);
  const context = await browser.newContext();
  return { server, proxy: between, browser, context, page, origin: (between ?? server).origin };
}

/** Opens a page that connects, and keeps all that its connection tells. */
async function openClient(context, origin, url, options = {}) {
  const tab = await openTab(context, `${origin}/page/index.html`);
  await connect(tab, url, options);
  return tab;
}

async function connect(tab, url, options = {}) {
  await tab.evaluate(
    async ([url, options]) => {
      const { connect } = await import("oneport-client");
      const connection = connect(url, options);
      const kept = { connection, events: [], statuses: [], gaps: 0, presence: [] };
      connection.on("event", (event) => kept.events.push(event));
      connection.on("status", (change) => kept.statuses.push(change));
      connection.on("gap", () => (kept.gaps += 1));
      connection.on("presence", (presence) => kept.presence.push(presence));
      window.kept = kept;
    },
    [url, options],
  );
}

const waitForOpen = (tab, transport) =>
  tab.waitForFunction((transport) => window.kept.connection.transport === transport, transport);

const messagesOf = (tab) =>
  tab.evaluate(() => window.kept.events.filter(({ type }) => type === "chat.message").map(({ message }) => message));

/** Returns "0" to the number before `end`, as they are said. */
const numbers = (end) => Array.from({ length: end }, (_, number) => String(number));

async function assertHeard(tab, end) {
  await tab.waitForFunction((last) => window.kept.events.some(({ message }) => message === last), String(end - 1));
  assert.deepEqual(await messagesOf(tab), numbers(end));
}

/** Says numbers, one every few milliseconds. */
async function count(peer, from, end) {
  for (let number = from; number < end; number += 1) {
    peer.send({ message: String(number) });
    await sleep(3);
  }
}

test("a network that is cut again and again loses no message and doubles none", LIMIT, async (t) => {
  const { server, proxy, context, origin } = await start(t, { proxy: {} });
  const tab = await openClient(context, origin, "/ws/chat/cut/", { delayMs: 50 });
  await waitForOpen(tab, "websocket");
  const peer = await Peer.connect(t, server, "/ws/chat/cut/");
  const counted = count(peer, 0, 300);
  for (let cut = 0; cut < 5; cut += 1) {
    await sleep(100);
    proxy.cut();
  }
  await counted;
  await assertHeard(tab, 300);
  const { gaps, openings } = await tab.evaluate(() => ({
    gaps: window.kept.gaps,
    openings: window.kept.statuses.filter(({ status }) => status === "open").length,
  }));
  assert.equal(gaps, 0);
  assert.ok(openings >= 3, `expected several connections, found ${openings}`);
});

test("a browser that is offline connects as soon as it is online, and gets what it missed", LIMIT, async (t) => {
  const { server, proxy, context, origin } = await start(t, { proxy: {} });
  const tab = await openClient(context, origin, "/ws/chat/offline/");
  await waitForOpen(tab, "websocket");
  const peer = await Peer.connect(t, server, "/ws/chat/offline/");
  await count(peer, 0, 5);
  await assertHeard(tab, 5);
  const session = await context.newCDPSession(tab);
  const conditions = { latency: 0, downloadThroughput: -1, uploadThroughput: -1 };
  await session.send("Network.emulateNetworkConditions", { ...conditions, offline: true });
  proxy.cut();
  await tab.waitForFunction(() => window.kept.connection.status === "waiting");
  assert.equal(await tab.evaluate(() => window.kept.connection.send("lost")), false);
  await count(peer, 5, 10);
  await session.send("Network.emulateNetworkConditions", { ...conditions, offline: false });
  await assertHeard(tab, 10);
});

test("a server that stops says when to return; one that lost its history causes a gap", LIMIT, async (t) => {
  const { server, context, origin } = await start(t);
  const tab = await openClient(context, origin, "/ws/chat/restart/", { delayMs: 100 });
  await waitForOpen(tab, "websocket");
  await tab.evaluate(() => window.kept.connection.send({ message: "before" }));
  await tab.waitForFunction(() => window.kept.events.some(({ message }) => message === "before"));
  await server.stop();
  await tab.waitForFunction(() => window.kept.connection.status === "waiting");
  const lost = await tab.evaluate(() => window.kept.statuses.find(({ status }) => status === "waiting"));
  assert.equal(lost.code, 1001);
  assert.match(lost.reason, /retry_after=[01]$/);
  await server.start();
  await waitForOpen(tab, "websocket");
  await tab.waitForFunction(() => window.kept.gaps === 1);
  await server.kill();
  await tab.waitForFunction(() => window.kept.connection.status !== "open");
  await server.start();
  await waitForOpen(tab, "websocket");
  await tab.evaluate(() => window.kept.connection.send({ message: "after" }));
  await tab.waitForFunction(() => window.kept.events.some(({ message }) => message === "after"));
  assert.deepEqual(await messagesOf(tab), ["before", "after"]);
});

test("behind a proxy without WebSockets it listens to events, and changes over when it can, without a loss", LIMIT, async (t) => {
  const { server, proxy, context, origin } = await start(t, { proxy: { refusesUpgrades: true } });
  const peer = await Peer.connect(t, server, "/ws/chat/proxy/");
  await count(peer, 0, 5); // the history of a new member
  const options = { events: "/events/proxy/", delayMs: 50, upgradeMs: 200, upgradeMaxMs: 200 };
  const tab = await openClient(context, origin, "/ws/chat/proxy/", options);
  await waitForOpen(tab, "events");
  assert.equal(await tab.evaluate(() => window.kept.connection.send("nothing")), false);
  await count(peer, 5, 20);
  await assertHeard(tab, 20);
  assert.equal(await tab.evaluate(() => window.kept.gaps), 0);

  const counted = count(peer, 20, 220);
  for (let cut = 0; cut < 3; cut += 1) {
    await sleep(60);
    proxy.cut();
  }
  await until(() => proxy.upgrades >= 4, "more attempts to upgrade");
  proxy.refusesUpgrades = false;
  await waitForOpen(tab, "websocket");
  await counted;
  await assertHeard(tab, 220);
  assert.equal(await tab.evaluate(() => window.kept.connection.send({ message: "220" })), true);
  await assertHeard(tab, 221);
});

test("a server that is away while events are known gets a WebSocket again", LIMIT, async (t) => {
  const { server, context, origin } = await start(t);
  const tab = await openClient(context, origin, "/ws/chat/away/", { events: "/events/away/", delayMs: 50, upgradeMs: 50 });
  await waitForOpen(tab, "websocket");
  await server.kill();
  await tab.waitForFunction(() => window.kept.statuses.filter(({ status }) => status === "connecting").length > 3);
  await server.start();
  await waitForOpen(tab, "websocket");
});

test("two tabs are two members, and each hears everything once", LIMIT, async (t) => {
  const { context, origin } = await start(t);
  const anna = await openClient(context, origin, "/ws/chat/tabs/");
  await waitForOpen(anna, "websocket");
  const ben = await openClient(context, origin, "/ws/chat/tabs/");
  for (const tab of [anna, ben]) await tab.waitForFunction(() => window.kept.connection.members === 2);
  await anna.evaluate(() => window.kept.connection.who());
  await anna.waitForFunction(() => window.kept.presence.at(-1)?.users?.length === 2);
  await anna.evaluate(() => window.kept.connection.send({ message: "0" }));
  for (const tab of [anna, ben]) await assertHeard(tab, 1);
  await ben.evaluate(() => window.kept.connection.close());
  assert.equal(await ben.evaluate(() => window.kept.connection.members), null);
  await anna.waitForFunction(() => window.kept.connection.members === 1);
});

test("a tab that is hidden for long leaves, and is told what it missed when it is shown", LIMIT, async (t) => {
  const { server, context, origin } = await start(t);
  const peer = await Peer.connect(t, server, "/ws/chat/hidden/");
  const tab = await openClient(context, origin, "/ws/chat/hidden/", { hiddenMs: 100 });
  await peer.next("chat.join", ({ members }) => members === 2);
  await count(peer, 0, 5);
  await assertHeard(tab, 5);
  const show = (isShown) =>
    tab.evaluate((isShown) => {
      Object.defineProperty(document, "hidden", { configurable: true, value: !isShown });
      document.dispatchEvent(new Event("visibilitychange"));
    }, isShown);
  await show(false);
  await peer.next("chat.leave", ({ members }) => members === 1);
  await count(peer, 5, 10);
  assert.deepEqual(await messagesOf(tab), numbers(5));
  await show(true);
  await assertHeard(tab, 10);
});

test("a page that comes back from the back/forward cache goes on where it was", LIMIT, async (t) => {
  const { server, context, origin } = await start(t, { browser: { keepsPages: true } });
  const peer = await Peer.connect(t, server, "/ws/chat/back/");
  const tab = await openClient(context, origin, "/ws/chat/back/");
  await peer.next("chat.join", ({ members }) => members === 2);
  await count(peer, 0, 5);
  await assertHeard(tab, 5);
  await tab.goto(`${origin}/static/icon.svg`);
  await peer.next("chat.leave", ({ members }) => members === 1);
  await count(peer, 5, 10);
  await tab.goBack({ waitUntil: "commit" });
  await tab.waitForFunction(() => window.kept !== undefined);
  await assertHeard(tab, 10);
});

test("the connections of the README's example of several groups are there after the way back", LIMIT, async (t) => {
  const { server, context, origin, page } = await start(t, { browser: { keepsPages: true } });
  const example = examples().find((program) => program.includes('"help"'));
  writeFileSync(path.join(page, "example.js"), `${example}\nwindow.connections = connections;\n`);
  const tab = await openTab(context, `${origin}/page/index.html`);
  const peer = await Peer.connect(t, server, "/ws/chat/help/");
  await tab.evaluate(() => import("/page/example.js"));
  await peer.next("chat.join", ({ members }) => members === 2);
  await tab.goto(`${origin}/static/icon.svg`);
  await peer.next("chat.leave", ({ members }) => members === 1);
  await tab.goBack({ waitUntil: "commit" });
  await tab.waitForFunction(() => window.connections?.every(({ status }) => status === "open"));
});

test("one socket carries several groups of a feed", LIMIT, async (t) => {
  const { server, context, origin } = await start(t);
  const tab = await openClient(context, origin, "/ws/two/");
  await waitForOpen(tab, "websocket");
  for (const [number, room] of ["one", "two"].entries()) {
    const peer = await Peer.connect(t, server, `/ws/chat/${room}/`);
    peer.send({ message: String(number) });
    await tab.waitForFunction((last) => window.kept.events.some(({ message }) => message === last), String(number));
  }
  assert.deepEqual(await messagesOf(tab), numbers(2));
  assert.equal(await tab.evaluate(() => window.kept.connection.send("this socket is for listening")), true);
  await tab.waitForFunction(() => window.kept.connection.status === "closed");
  assert.equal(await tab.evaluate(() => window.kept.statuses.at(-1).code), 1008);
});

/** Returns a JSON Web Token of a user, valid for an hour. */
function token(key = JWT_KEY) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1_000) + 3_600;
  const said = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ sub: "7", name: "anna", exp })}`;
  return `${said}.${createHmac("sha256", key).update(said).digest("base64url")}`;
}

/** Returns the program of each example in the README. */
function examples() {
  const text = readFileSync(path.join(ROOT, "client/README.md"), "utf8");
  return [...text.matchAll(/^```js\n(.*?)^```/gms)].map(([, program]) => program);
}

test("a page of another origin connects with tickets, each handshake with its own", LIMIT, async (t) => {
  const { context, origin, page } = await start(t);
  const other = (await start(t)).origin;
  // The README's own example, of a route that requires a login.
  const example = examples().find((program) => program.includes("fetchTicket")).replace("/ws/chat/lobby/", "/ws/user/");
  writeFileSync(path.join(page, "example.js"), `${example}\nwindow.chat = chat;\n`);
  const run = async (token) => {
    const tab = await openTab(context, `${origin}/page/index.html`);
    await tab.evaluate(
      async ([server, token]) => {
        Object.assign(document.body.dataset, { server, token });
        await import("/page/example.js");
        window.heard = [];
        window.chat.on("event", (event) => window.heard.push(event));
      },
      [other, token],
    );
    return tab;
  };
  const tab = await run(token());
  await tab.waitForFunction(() => window.chat.status === "open");
  await tab.evaluate(() => window.chat.send({ message: "hi" }));
  await tab.waitForFunction(() => window.heard.some(({ user, message }) => user === "anna" && message === "hi"));
  // A ticket is good for one handshake: the second needs another.
  await tab.evaluate(() => {
    window.chat.close();
    window.chat.open();
  });
  await tab.waitForFunction(() => window.chat.status === "open");
  const refused = await run(token("another key, which is not the server's"));
  await refused.waitForFunction(() => window.chat.status === "closed" && document.title === "log in again");
});

test("the README's examples run", LIMIT, async (t) => {
  const { server, context, origin, page } = await start(t);
  const programs = examples();
  assert.equal(programs.length, 4);
  for (const [number, program] of programs.entries()) {
    if (program.includes("fetchTicket")) continue; // above
    writeFileSync(path.join(page, `example${number}.js`), program);
    const tab = await openTab(context, `${origin}/page/index.html`);
    const said = [];
    tab.on("console", (message) => said.push(message.text()));
    const peer = await Peer.connect(t, server, "/ws/chat/lobby/");
    await peer.next("chat.join");
    await tab.evaluate((number) => import(`/page/example${number}.js`), number);
    await peer.next("chat.join");
    if (program.includes("submit")) {
      await tab.waitForFunction(() => document.title === "open");
      await tab.click("button");
      await peer.next("chat.message", ({ message }) => message === "hello");
    }
    peer.send({ message: `from ${number}` });
    if (program.includes("console.log")) await until(() => said.some((line) => line.endsWith(`from ${number}`)), "the message");
    if (program.includes("readOnly")) await tab.waitForFunction(() => document.body.dataset.readOnly === "false");
    assert.deepEqual(tab.errors, []);
    await tab.close();
  }
});
